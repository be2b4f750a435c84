"""Tells which routes of an application ask for a key, and which stand open.

Reads FastAPI's and Starlette's routes, mounts and middleware; calls none of them. In doubt a route
is open: what cannot be seen protects nothing.

Code of the application's own is taken for what it says it is. Not seen is a route class, a
middleware or a subclass, of ours or of theirs, that lets a request around a check or answers by
itself; a handler of errors that serves content for a 404 or a refusal; and a route that is added
when the application starts, or later.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import fastapi
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.routing import APIWebSocketRoute
from fastapi.security.base import SecurityBase
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router, WebSocketRoute

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
# What a router has it in that no other route matches: the files of ``app.frontend``.
_FRONT_ENDS: Final = "_iter_low_priority_routes"
# What a WebSocket's closure calls the application whose overrides count.
_PROVIDER: Final = "dependency_overrides_provider"


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
    host: str = ""
    guards: tuple[tuple[str, APIKeyMiddleware], ...] = ()
    dependency_overrides: Mapping[Any, Any] | None = None
    innermost: Mapping[Any, Any] | None = None
    within: tuple[int, ...] = ()


def survey(app: Any) -> list[RouteProtection]:
    """Every route of an application, those of what is mounted in it included, in their order.

    Raises:
        ConfigurationError: This FastAPI is too old, or too new: some of its routes cannot be seen.
    """
    version = fastapi.__version__
    if tuple(int(number) for number in version.split(".")[:2]) < _OLDEST:
        raise ConfigurationError(
            f"FastAPI {version} does not show all of its routes: they can be listed with "
            f"FastAPI {'.'.join(map(str, _OLDEST))} or later"
        )
    if not hasattr(fastapi.APIRouter, _FRONT_ENDS):
        raise ConfigurationError(
            f"FastAPI {version} keeps some of its routes where they cannot be seen: they can be "
            "listed with an earlier FastAPI, or perhaps with a later keylatch"
        )
    return list(_application(app, _Surroundings()))


def _application(app: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    guards = list(around.guards)
    while not _is_known(app) and hasattr(app, "app"):
        if isinstance(app, APIKeyMiddleware):
            guards.append((around.prefix, app))
        app = app.app
    guards += [(around.prefix, guard) for guard in _own_middleware(app)]
    inside = replace(
        around,
        guards=tuple(guards),
        dependency_overrides=_overrides(getattr(app, _PROVIDER, app)),
        innermost=_overrides(app) if isinstance(app, Starlette) else around.innermost,
        within=(*around.within, id(app)),
    )
    if not _is_known(app):
        yield _unseen(f"{type(app).__name__}: what it serves cannot be seen", inside)
    elif id(app) in around.within:
        yield _unseen("mounted in itself", inside)
    elif isinstance(app, BaseRoute):
        yield from _route(app, inside)
    else:
        yield from _router(app.router if isinstance(app, Starlette) else app, inside)


def _is_known(app: Any) -> bool:
    """Whether it serves what its routes say. Others may have something of that name as well."""
    return isinstance(app, Starlette | Router | BaseRoute)


def _unseen(note: str, around: _Surroundings) -> RouteProtection:
    """All that lies here."""
    found = RouteProtection(path=f"{around.prefix}/*", methods=[ANY], note=note, host=around.host)
    return _guarded(found, around)


def _router(router: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    # FastAPI had no such thing before, and then nothing comes here.
    from fastapi.routing import iter_route_contexts

    for route in iter_route_contexts(router.routes):
        yield from _route(route, around)
    for group in getattr(router, _FRONT_ENDS, tuple)():
        yield from _front_ends(group, around)
    if getattr(router.default, "__func__", None) is not Router.not_found:
        yield from _application(router.default, around)


def _overrides(provider: Any) -> Mapping[Any, Any]:
    """Those of an application; none where a router or a route belongs to no application."""
    return getattr(provider, "dependency_overrides", None) or {}


def _own_middleware(app: Any) -> Iterator[APIKeyMiddleware]:
    stack = getattr(app, "middleware_stack", None)
    if stack is not None:
        yield from _wrapped(stack)
        return
    for added in getattr(app, "user_middleware", ()):  # of which it makes its stack
        if isinstance(added.cls, type) and issubclass(added.cls, APIKeyMiddleware):
            yield added.cls(_nothing, *added.args, **added.kwargs)


def _wrapped(app: Any) -> Iterator[APIKeyMiddleware]:
    while app is not None and not _is_known(app):
        if isinstance(app, APIKeyMiddleware):
            yield app
        app = getattr(app, "app", None)


def _route(route: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    kind = getattr(route, "original_route", route)
    own = getattr(route, "path", None)
    path = around.prefix + ("/*" if own is None else own)  # what has none may match whatever it is
    if isinstance(kind, Mount):
        yield from _application(route.app, replace(around, prefix=path.rstrip("/")))
        return
    if isinstance(kind, Host):
        yield from _application(route.app, replace(around, host=route.host))
        return
    guards = [(around.prefix, guard) for guard in _wrapped(getattr(route, "app", None))]
    around = replace(around, guards=(*around.guards, *guards))
    if isinstance(kind, WebSocketRoute):
        methods = [WEBSOCKET]
    else:
        methods = sorted(getattr(route, "methods", None) or [ANY])
    if isinstance(kind, APIWebSocketRoute):
        provider = _provider(route.app, around)
    else:
        provider = getattr(route, _PROVIDER, around)
    found = RouteProtection(path=path or "/*", methods=methods, host=around.host)
    dependant: Dependant | None = getattr(route, "dependant", None)
    overrides = _Overrides(_overrides(provider), around.innermost or {})
    yield _guarded(_asking(found, dependant, overrides), around)


def _provider(app: Any, otherwise: Any) -> Any:
    """Whose overrides a WebSocket of FastAPI goes by, which only the functions within know."""
    while not inspect.isfunction(app) and hasattr(app, "app"):
        app = app.app
    while inspect.isfunction(app):
        kept = inspect.getclosurevars(app).nonlocals
        if _PROVIDER in kept:
            return kept[_PROVIDER]
        app = kept.get("func")
    return otherwise


def _front_ends(group: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    """The files of front ends, which are served behind the dependencies of their router."""
    below = around.prefix + getattr(group, "frontend_prefix", "")  # if its router was included
    for each in getattr(group, "original_route", group).routes:
        path = f"{below}{each.path.rstrip('/')}/*"
        found = RouteProtection(path=path, methods=sorted(each.methods), host=around.host)
        overrides = _Overrides(_overrides(getattr(group, _PROVIDER)), around.innermost or {})
        yield _guarded(_asking(found, group.dependant, overrides), around)


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
    return replace(
        found,
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
    return replace(
        found,
        schemes=_once(schemes),
        scopes=_once(scopes),
        open=is_open,
        note=note if is_open else "",
    )


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands where an application would, which is not called."""
