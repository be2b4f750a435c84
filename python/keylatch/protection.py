"""Tells what the dependencies of a route ask for: of ours, and of other schemes.

Knows FastAPI's dependencies and ours, and what a test may have put in their places; no routes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.security.base import SecurityBase

from keylatch.either import Either, stands_for
from keylatch.fastapi import APIKeyAuth
from keylatch.variants import Asks, Beside, CarriedAPIKey, OptionalAPIKey, asks


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteProtection:
    """What a route asks for.

    Attributes:
        path: Of the whole application, with its parameters; ``/*`` at its end where all that lies
            below belongs to something whose routes cannot be seen, to the files of a front end, or
            to the default of a router, which serves what no route matches.
        methods: Of HTTP; ``WEBSOCKET``; ``*`` for whatever there is.
        schemes: By name, what asks for a credential: ours and others.
        scopes: That a key needs, all of them.
        open: Whether somebody without any credential gets in, as far as can be seen.
        note: Why that is, where it might surprise.
        host: That it is served at alone, as ``Host`` has it; empty if at any.
    """

    path: str
    methods: Sequence[str]
    schemes: Sequence[str] = ()
    scopes: Sequence[str] = ()
    open: bool = True
    note: str = ""
    host: str = ""


class Overrides(NamedTuple):
    """What stands in the places of dependencies.

    Attributes:
        called: Of those that FastAPI calls: as the application of their router has it.
        asked: Of those that we ask: as the innermost application that a request is in has it.
    """

    called: Mapping[Any, Any]
    asked: Mapping[Any, Any]


def asking(
    found: RouteProtection, dependant: Dependant | None, overrides: Overrides
) -> RouteProtection:
    """What the dependencies of a route ask for."""
    if dependant is None:
        return found
    schemes: list[str] = []
    scopes: list[str] = []
    notes: list[str] = []
    asks = False
    for call, needed, instead_of in _dependencies(dependant, overrides):
        if isinstance(instead_of, APIKeyAuth) and not isinstance(call, APIKeyAuth):
            notes.append(f"{instead_of.scheme_name} is overridden")
        instead_of_key = _instead_of_key(call, overrides)
        if instead_of_key is not None:
            notes.append(f"{instead_of_key.scheme_name} is overridden")
        elif isinstance(call, OptionalAPIKey):
            schemes.append(call.scheme_name)
            notes.append("a key is optional")
        elif isinstance(call, APIKeyAuth | CarriedAPIKey):
            schemes.append(call.scheme_name)
            scopes += needed
            asks = asks or isinstance(call, APIKeyAuth)
        elif isinstance(call, Either):
            either = _asks_for_either(call, overrides)
            notes += [] if either else ["what stands beside a key asks for nothing"]
            asks = asks or either
        elif isinstance(call, SecurityBase):
            schemes.append(call.scheme_name)
            # Those of FastAPI let everybody in then, and leave it to the route.
            lenient = not getattr(call, "auto_error", True)
            notes += [f"{call.scheme_name} is optional"] if lenient else []
            asks = asks or not lenient
    return replace(
        found,
        schemes=once(schemes),
        scopes=once(scopes),
        open=not asks,
        note="" if asks else ", ".join(once(notes)),
    )


def _asks_for_either(call: Either, overrides: Overrides) -> bool:
    """Whether both a key and what stands beside it are asked for, whatever has been overridden."""
    found = [each for each, *_ in _dependencies(get_dependant(path="/", call=call), overrides)]
    keys = [isinstance(each, CarriedAPIKey) for each in found if isinstance(each, SecurityBase)]
    return any(keys) and not all(keys)


def _instead_of_key(call: Any, overrides: Overrides) -> Asks | None:
    """The dependency of ours that another asks, where something else stands in its place."""
    if isinstance(call, Either):
        call = overrides.called.get(call.carried, call.carried)
    if not isinstance(call, Beside) or asks(overrides.asked.get(call.auth, call.auth)):
        return None
    return call.auth


def _dependencies(
    dependant: Dependant, overrides: Overrides, within: tuple[int, ...] = ()
) -> Iterator[tuple[Any, Sequence[str], Any]]:
    """What a route depends on, with scopes, and what it stands for if it was overridden."""
    for each in dependant.dependencies:
        original = stands_for(each.call)
        call = overrides.called.get(original, each.call)
        lists = ("parent_oauth_scopes", "own_oauth_scopes", "security_scopes")
        scopes = [scope for name in lists for scope in getattr(each, name, None) or ()]
        yield stands_for(call), scopes, original if call is not each.call else None
        inner = each if call is each.call else get_dependant(path="/", call=call)
        # Beside a key that is given nothing else is asked for.
        if id(call) not in within and _instead_of_key(call, overrides) is None:
            yield from _dependencies(inner, overrides, (*within, id(call)))


def once(names: Iterable[str]) -> list[str]:
    """In their order."""
    return list(dict.fromkeys(names))
