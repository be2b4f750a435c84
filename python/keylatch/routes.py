"""Tells which routes of an application ask for a key, and which stand open.

Reads FastAPI's and Starlette's routes, mounts and middleware; calls none of them. In doubt a route
is open: what cannot be seen protects nothing. Code of the application's own is taken for what it
says it is: a route class, a subclass of ours or a middleware may let a request around a check.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import fastapi
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.security.base import SecurityBase
from starlette.applications import Starlette
from starlette.routing import Host, Mount, WebSocketRoute

from keylatch.asgi import APIKeyMiddleware
from keylatch.either import Either, stands_for
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth
from keylatch.variants import Asks, Beside, CarriedAPIKey, OptionalAPIKey, asks

MIDDLEWARE: Final = "APIKeyMiddleware"
WEBSOCKET: Final = "WEBSOCKET"
ANY: Final = "*"

# The first one whose routes tell all that is asked here.
_OLDEST: Final = (0, 146)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteProtection:
    """What a route asks for.

    Attributes:
        path: Of the whole application, with its parameters; ``/*`` at its end where all that lies
            below belongs to something whose routes cannot be seen.
        methods: Of HTTP; ``WEBSOCKET``; ``*`` for whatever there is.
        schemes: By name, what asks for a credential: ours and others.
        scopes: That a key needs, all of them.
        open: Whether somebody without any credential gets in, as far as can be seen.
        note: Why that is, where it might surprise.
    """

    path: str
    methods: Sequence[str]
    schemes: Sequence[str] = ()
    scopes: Sequence[str] = ()
    open: bool = True
    note: str = ""


class _Overrides(NamedTuple):
    """What stands in the places of dependencies.

    Attributes:
        called: Of those that FastAPI calls: as the application of their router has it.
        asked: Of those that we ask: as the innermost application that a request is in has it.
    """

    called: Mapping[Any, Any]
    asked: Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What stands around a route: where it is, what guards it, and whose overrides count."""

    prefix: str = ""
    guards: tuple[tuple[str, APIKeyMiddleware], ...] = ()
    dependency_overrides: Mapping[Any, Any] | None = None
    innermost: Mapping[Any, Any] | None = None
    within: tuple[int, ...] = ()


def survey(app: Any) -> list[RouteProtection]:
    """Every route of an application, those of what is mounted in it included, in their order.

    Raises:
        ConfigurationError: This FastAPI is too old: some of its routes cannot be seen.
    """
    version = fastapi.__version__
    if tuple(int(number) for number in version.split(".")[:2]) < _OLDEST:
        raise ConfigurationError(
            f"FastAPI {version} does not show all of its routes: they can be listed with "
            f"FastAPI {'.'.join(map(str, _OLDEST))} or later"
        )
    return list(_application(app, _Surroundings()))


def _application(app: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    guards = list(around.guards)
    while not hasattr(app, "routes") and hasattr(app, "app"):
        if isinstance(app, APIKeyMiddleware):
            guards.append((around.prefix, app))
        app = app.app
    guards += [(around.prefix, guard) for guard in _own_middleware(app)]
    inside = _Surroundings(
        around.prefix,
        tuple(guards),
        _overrides(getattr(app, "dependency_overrides_provider", app)),
        _overrides(app) if isinstance(app, Starlette) else around.innermost,
        (*around.within, id(app)),
    )
    if not hasattr(app, "routes"):
        note = f"{type(app).__name__}: what it serves cannot be seen"
        yield _guarded(RouteProtection(path=f"{around.prefix}/*", methods=[ANY], note=note), inside)
    elif id(app) not in around.within:  # mounted in itself
        # Older ones have no such thing, and never come here.
        from fastapi.routing import iter_route_contexts

        for route in iter_route_contexts(app.routes):
            yield from _route(route, inside)


def _overrides(provider: Any) -> Mapping[Any, Any]:
    """Those of an application; none where a router or a route belongs to no application."""
    return getattr(provider, "dependency_overrides", None) or {}


def _own_middleware(app: Any) -> Iterator[APIKeyMiddleware]:
    for added in getattr(app, "user_middleware", ()):
        if isinstance(added.cls, type) and issubclass(added.cls, APIKeyMiddleware):
            yield added.cls(_nothing, *added.args, **added.kwargs)
    yield from _wrapped(getattr(app, "middleware_stack", None))


def _wrapped(app: Any) -> Iterator[APIKeyMiddleware]:
    while app is not None and not hasattr(app, "routes"):
        if isinstance(app, APIKeyMiddleware):
            yield app
        app = getattr(app, "app", None)


def _route(route: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    kind = getattr(route, "original_route", route)
    path = around.prefix + (getattr(route, "path", None) or "")
    dependant: Dependant | None = getattr(route, "dependant", None)
    if isinstance(kind, Mount | Host):
        below = path.rstrip("/") if isinstance(kind, Mount) else around.prefix
        inside = replace(around, prefix=below, dependency_overrides=None)
        yield from _application(route.app, inside)
        return
    guards = [(around.prefix, guard) for guard in _wrapped(getattr(route, "app", None))]
    if guards:
        around = replace(around, guards=(*around.guards, *guards))
    if isinstance(kind, WebSocketRoute):
        methods = [WEBSOCKET]
    else:
        methods = sorted(getattr(route, "methods", None) or [ANY])
    # FastAPI's routes of HTTP know whose overrides count; WebSockets do not say.
    called = _overrides(getattr(route, "dependency_overrides_provider", around))
    overrides = _Overrides(called, around.innermost or {})
    served = getattr(kind, "routes", None)
    if served is not None:  # files of a front end, behind dependencies
        paths = [f"{path}{each.path.rstrip('/')}/*" for each in served]
    else:
        paths = [path or "/*"]
    for each in paths:
        found = RouteProtection(path=each, methods=methods)
        yield _guarded(_asking(found, dependant, overrides), around)


def _asking(
    found: RouteProtection, dependant: Dependant | None, overrides: _Overrides
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
    return RouteProtection(
        path=found.path,
        methods=found.methods,
        schemes=_once(schemes),
        scopes=_once(scopes),
        open=not asks,
        note="" if asks else ", ".join(_once(notes)),
    )


def _asks_for_either(call: Either, overrides: _Overrides) -> bool:
    """Whether both a key and what stands beside it are asked for, whatever has been overridden."""
    found = [each for each, *_ in _dependencies(get_dependant(path="/", call=call), overrides)]
    keys = [isinstance(each, CarriedAPIKey) for each in found if isinstance(each, SecurityBase)]
    return any(keys) and not all(keys)


def _instead_of_key(call: Any, overrides: _Overrides) -> Asks | None:
    """The dependency of ours that another asks, where something else stands in its place."""
    if isinstance(call, Either):
        call = overrides.called.get(call.carried, call.carried)
    if not isinstance(call, Beside) or asks(overrides.asked.get(call.auth, call.auth)):
        return None
    return call.auth


def _dependencies(
    dependant: Dependant, overrides: _Overrides, within: tuple[int, ...] = ()
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


def _guarded(found: RouteProtection, around: _Surroundings) -> RouteProtection:
    """The same behind what guards the whole application, where that does not let it through."""
    schemes, scopes, note, is_open = [*found.schemes], [*found.scopes], found.note, found.open
    for prefix, guard in around.guards:
        if guard.leaves_open(found.path[len(prefix) :] or "/"):
            note = note or (f"excluded from {MIDDLEWARE}" if is_open else "")
            continue
        schemes.append(MIDDLEWARE)
        scopes += sorted(guard.scopes)
        is_open = False
    return RouteProtection(
        path=found.path,
        methods=found.methods,
        schemes=_once(schemes),
        scopes=_once(scopes),
        open=is_open,
        note=note if is_open else "",
    )


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands where an application would, which is not called."""
