"""Which routes of an application are found to stand open: those that let nobody's request in."""

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, PathConvertor
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from surveyed import lets_in, opaque, plain, socket

from keylatch import APIKey, APIKeys
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth, keys_router
from keylatch.memory import MemoryStore
from keylatch.routes import survey

pytestmark = pytest.mark.anyio


class Endpoint(HTTPEndpoint):
    """Answers whatever method it has."""

    async def get(self, request) -> PlainTextResponse:
        """Answers."""
        return PlainTextResponse("in")


def routed() -> APIRouter:
    """A router without any protection of its own."""
    router = APIRouter(prefix="/x")

    @router.get("/http")
    async def http() -> str:
        return "in"

    @router.websocket("/ws/{name}")
    async def ws(websocket: WebSocket, name: str) -> None:
        await socket(websocket)

    return router


@pytest.fixture
def keys(secret) -> APIKeys:
    """A collection: what it is made of has nothing to do with routes."""
    return APIKeys(MemoryStore(), prefix="acme", secret=secret)


def add_other_schemes(app: FastAPI) -> None:
    """Routes that ask for what is not ours."""

    @app.post("/cookie", dependencies=[Depends(APIKeyCookie(name="session"))])
    async def cookie() -> str:
        return "in"

    @app.post("/falsy", dependencies=[Depends(HTTPBearer(auto_error=None))])
    async def falsy() -> str:
        return "in"

    @app.post("/lenient", dependencies=[Depends(HTTPBearer(auto_error=False))])
    async def lenient() -> str:
        return "in"


def add_routes(app: FastAPI, auth: APIKeyAuth, replaced: APIKeyAuth) -> None:
    """Routes that ask for something in one way or another."""

    async def deep(key: Annotated[APIKey, Security(auth, scopes=["deep"])]) -> APIKey:
        return key

    async def owner(owner: str) -> str:
        return owner

    async def deeper(key: Annotated[APIKey, Depends(deep)]) -> APIKey:
        return key

    @app.get("/deep", dependencies=[Depends(deeper)])
    async def deep_route() -> str:
        return "in"

    @app.get("/owner")
    async def owner_route(of: Annotated[str, Security(auth.owner(owner), scopes=["own"])]) -> str:
        return of

    @app.get("/optional")
    async def optional(key: Annotated[APIKey | None, Security(auth.optional)]) -> str:
        return "in"

    @app.get("/replaced")
    async def overridden(key: Annotated[APIKey, Security(replaced)]) -> str:
        return "in"

    add_other_schemes(app)

    @app.websocket("/ws", dependencies=[Security(auth)])
    async def guarded_socket(websocket: WebSocket) -> None:
        await socket(websocket)


@pytest.fixture
def app(keys, tmp_path) -> FastAPI:
    """An application that is built to hide what stands open in it."""
    auth = APIKeyAuth(keys)
    replaced = APIKeyAuth(keys, scheme_name="Replaced")
    guard = Middleware(APIKeyMiddleware, keys=keys, scopes=["guard"], exclude=["/x/http", "/in/*"])
    app = FastAPI()
    app.dependency_overrides[replaced] = lambda: None
    protected = APIRouter(prefix="/protected", dependencies=[Security(auth, scopes=["router"])])
    protected.include_router(routed())
    protected.mount("/mounted", Starlette(routes=[Route("/http", plain)]))  # asks for nothing
    app.include_router(protected, prefix="/v1")
    app.include_router(routed())
    app.include_router(keys_router(auth), prefix="/keys")

    add_routes(app, auth, replaced)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/opaque", CORSMiddleware(opaque, allow_origins=["*"]))
    guarded = FastAPI(middleware=[guard], openapi_url=None)
    guarded.include_router(routed())
    guarded.mount("/in", Starlette(routes=[Route("/{name}", Endpoint)]))
    guarded.mount("/behind", Starlette(routes=[Route("/{name}", Endpoint)]))
    app.mount("/guarded", CORSMiddleware(guarded))
    app.mount("/wrapped", APIKeyMiddleware(Router([Route("/http", plain)]), keys))
    app.mount("/route", Router([Route("/http", plain, middleware=[guard])]))
    app.mount("/stack", Router([Route("/http", plain)], middleware=[guard]))
    app.routes.append(Mount("/list", routes=[WebSocketRoute("/ws", socket)], middleware=[guard]))
    app.routes.append(Host("other.example", Starlette(routes=[Route("/host", plain)])))
    return app


OPEN = {
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/v1/mounted/http",
    "/x/http",
    "/x/ws/{name}",
    "/optional",
    "/replaced",
    "/lenient",
    "/falsy",
    "/static/*",
    "/opaque/*",
    "/guarded/x/http",
    "/guarded/in/{name}",
    "/host",
}


async def test_each_open_route_is_found(app, ask):
    """Those that are found open let a request in that carries nothing, and no other does."""
    found = survey(app)
    assert {each.path for each in found if each.open} == OPEN
    for each in found:
        assert await lets_in(app, ask, each) is each.open, each


async def test_what_a_route_asks_for_is_told(app):
    """Its methods, schemes and scopes, wherever they come from, and why it is open."""
    found = {(each.path, *each.methods): each for each in survey(app)}
    told = {
        ("/v1/protected/x/http", "GET"): (["APIKey"], ["router"], ""),
        ("/v1/protected/x/ws/{name}", "WEBSOCKET"): (["APIKey"], ["router"], ""),
        ("/keys", "POST"): (["APIKey"], ["keys:write"], ""),
        ("/deep", "GET"): (["APIKey"], ["deep"], ""),
        ("/owner", "GET"): (["APIKey"], ["own"], ""),
        ("/ws", "WEBSOCKET"): (["APIKey"], [], ""),
        ("/cookie", "POST"): (["APIKeyCookie"], [], ""),
        ("/guarded/x/ws/{name}", "WEBSOCKET"): (["APIKeyMiddleware"], ["guard"], ""),
        ("/guarded/behind/{name}", "*"): (["APIKeyMiddleware"], ["guard"], ""),
        ("/list/ws", "WEBSOCKET"): (["APIKeyMiddleware"], ["guard"], ""),
        ("/optional", "GET"): (["APIKey-optional"], [], "a key is optional"),
        ("/replaced", "GET"): ([], [], "Replaced is overridden"),
        ("/lenient", "POST"): (["HTTPBearer"], [], "HTTPBearer is optional"),
        ("/guarded/x/http", "GET"): ([], [], "excluded from APIKeyMiddleware"),
        ("/static/*", "*"): ([], [], "StaticFiles: what it serves cannot be seen"),
        ("/opaque/*", "*"): ([], [], "function: what it serves cannot be seen"),
    }
    for route, expected in told.items():
        each = found[route]
        assert (each.schemes, each.scopes, each.note) == expected, route


async def test_an_application_that_is_wrapped_is_protected(keys):
    """By middleware around it, and also what cannot be seen within."""
    for app in (FastAPI(), opaque):
        found = survey(CORSMiddleware(APIKeyMiddleware(app, keys, scopes=["a"])))
        assert found
        assert not any(each.open for each in found)
        assert all(each.scopes == ["a"] for each in found)


@pytest.mark.parametrize(
    ("template", "exclude", "is_open"),
    [
        ("/items/{id}", "/items/health", True),
        ("/items/{id}", "/items/health/x", False),
        ("/items/{id}/x", "/items/health", False),
        ("/{rest:path}", "/a/b", True),
        ("/{rest}", "/a/b", False),
        ("/{rest:path}", "/public/*", True),
        ("/public/{name}", "/public/*", True),
        ("/pub/{name}", "/public/*", False),
        ("/public", "/public/*", False),
        ("/items", "/items", True),
        ("/items/", "/items", False),
    ],
)
async def test_a_route_that_is_excluded_for_some_paths_stands_open(
    keys, template, exclude, is_open
):
    """A parameter may be what an excluded path has in its place."""
    app = Starlette(
        routes=[Route(template, plain)],
        middleware=[Middleware(APIKeyMiddleware, keys=keys, exclude=[exclude])],
    )
    assert [each.open for each in survey(app)] == [is_open]


async def test_overrides_protect_only_the_routes_of_their_application(keys, ask):
    """A router that is mounted, or whose routes were copied, belongs to none: it stands open."""

    async def nothing() -> None:
        """Stands where an application puts what protects it."""

    router = APIRouter(dependencies=[Depends(nothing)])
    router.include_router(routed())
    app = FastAPI(openapi_url=None)
    app.dependency_overrides[nothing] = APIKeyAuth(keys)
    app.include_router(router, prefix="/included")
    app.mount("/mounted", router)
    app.mount("/copied", Starlette(routes=[*router.routes]))
    found = survey(app)
    assert len(found) == 6
    for each in found:
        assert each.open is not each.path.startswith("/included"), each
        assert await lets_in(app, ask, each) is each.open, each


async def test_a_parameter_of_an_own_kind_may_hold_slashes(keys, ask, monkeypatch):
    """What is excluded below it stands open."""

    class Rest(PathConvertor):
        """Matches whatever is left, as Starlette's own ``path`` does."""

    monkeypatch.setitem(CONVERTOR_TYPES, "rest", Rest())
    app = Starlette(
        routes=[Route("/files/{name:rest}", plain)],
        middleware=[Middleware(APIKeyMiddleware, keys=keys, exclude=["/files/a/b"])],
    )
    assert (await ask(app, [], path="/files/a/b")).status == 200
    assert [each.open for each in survey(app)] == [True]


async def test_an_application_that_is_mounted_in_itself_ends(keys):
    """It is surveyed once, and stands open below that as far as can be seen."""
    app = Starlette(routes=[Route("/", plain)])
    app.mount("/again", app)
    found = [(each.path, each.note) for each in survey(app)]
    assert found == [("/", ""), ("/again/*", "mounted in itself")]


def test_a_fastapi_that_hides_routes_is_refused(monkeypatch):
    """Rather than that open routes are left out, or are called protected."""
    monkeypatch.setattr("fastapi.__version__", "0.145.9")
    with pytest.raises(ConfigurationError, match=r"FastAPI 0\.146 or later"):
        survey(FastAPI())
