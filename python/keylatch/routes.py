"""Tells which routes of an application ask for a key, and which stand open.

Reads FastAPI's and Starlette's routes, mounts and middleware; calls none of them. In doubt a route
is open: what cannot be seen protects nothing.

Code of the application's own is taken for what it says it is. Not seen is a route class, a
middleware or a subclass, of ours or of theirs, that lets a request around a check or answers by
itself; a handler of errors that serves content for a 404 or a refusal; and a route that is added
when the application starts, or later.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import fastapi
from fastapi.routing import APIWebSocketRoute
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router, WebSocketRoute

from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError
from keylatch.mounts import is_known, layers, routes_of
from keylatch.protection import Overrides, RouteProtection, asking, once

MIDDLEWARE: Final = "APIKeyMiddleware"
WEBSOCKET: Final = "WEBSOCKET"
ANY: Final = "*"

# The first one whose routes tell all that is asked here.
_OLDEST: Final = (0, 146)
# What a router has it in that no other route matches: the files of ``app.frontend``.
_FRONT_ENDS: Final = "_iter_low_priority_routes"
# What a WebSocket's closure calls the application whose overrides count.
_PROVIDER: Final = "dependency_overrides_provider"


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


def _application(served: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    guards = list(around.guards)
    for app in layers(served):
        if isinstance(app, APIKeyMiddleware):
            guards.append((around.prefix, app))
    guards += [(around.prefix, guard) for guard in _own_middleware(app)]
    inside = replace(
        around,
        guards=tuple(guards),
        dependency_overrides=_overrides(getattr(app, _PROVIDER, app)),
        innermost=_overrides(app) if isinstance(app, Starlette) else around.innermost,
        within=(*around.within, id(app)),
    )
    if not is_known(app):
        yield _unseen(f"{type(app).__name__}: what it serves cannot be seen", inside)
    elif id(app) in around.within:
        yield _unseen("mounted in itself", inside)
    elif isinstance(app, BaseRoute):
        yield from _route(app, inside)
    else:
        yield from _router(app.router if isinstance(app, Starlette) else app, inside)


def _unseen(note: str, around: _Surroundings) -> RouteProtection:
    """All that lies here."""
    found = RouteProtection(path=f"{around.prefix}/*", methods=[ANY], note=note, host=around.host)
    return _guarded(found, around)


def _router(router: Any, around: _Surroundings) -> Iterator[RouteProtection]:
    for route in routes_of(router):
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
    for each in layers(app):
        if isinstance(each, APIKeyMiddleware):
            yield each


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
    dependant = getattr(route, "dependant", None)
    overrides = Overrides(_overrides(provider), around.innermost or {})
    yield _guarded(asking(found, dependant, overrides), around)


def _provider(app: Any, otherwise: Any) -> Any:
    """Whose overrides a WebSocket of FastAPI goes by, which only the functions within know."""
    *_, app = layers(app)
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
        overrides = Overrides(_overrides(getattr(group, _PROVIDER)), around.innermost or {})
        yield _guarded(asking(found, group.dependant, overrides), around)


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
        schemes=once(schemes),
        scopes=once(scopes),
        open=is_open,
        note=note if is_open else "",
    )


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands where an application would, which is not called."""
