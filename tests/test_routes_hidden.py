"""Routes that stand where one would not look: each is found, and what is open is called open."""

from types import SimpleNamespace
from typing import Annotated, Any
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from surveyed import lets_in, opaque, plain, socket

from keylatch import APIKey, APIKeys
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore
from keylatch.mounts import applications
from keylatch.routes import survey

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(secret) -> APIKeys:
    """A collection: what it is made of has nothing to do with routes."""
    return APIKeys(MemoryStore(), prefix="acme", secret=secret)


@pytest.fixture
def auth(keys) -> APIKeyAuth:
    """What asks for a key."""
    return APIKeyAuth(keys)


@pytest.fixture
def guard(keys) -> Middleware:
    """What asks for a key before an application."""
    return Middleware(APIKeyMiddleware, keys=keys)


async def check(app, ask, expected) -> None:
    """That exactly these routes are listed, each with whether it lets anybody in, and it does."""
    found = survey(app)
    assert [(each.host + each.path, each.open) for each in found] == expected
    for each in found:
        assert await lets_in(app, ask, each) is each.open, each


async def test_files_of_a_front_end_are_listed(auth, guard, ask, tmp_path):
    """Where FastAPI serves them, with what the dependencies of their router ask for."""
    (tmp_path / "name").write_text("in")
    app = FastAPI(openapi_url=None)
    app.frontend("/ui", directory=tmp_path)
    protected = APIRouter(dependencies=[Security(auth, scopes=["ui"])])
    protected.frontend("/", directory=tmp_path)
    inner = APIRouter()
    inner.frontend("/deep", directory=tmp_path)
    protected.include_router(inner, prefix="/inner")
    app.include_router(protected, prefix="/v1")
    app.include_router(inner, prefix="/v2")
    mounted = FastAPI(openapi_url=None, middleware=[guard])
    mounted.frontend("/ui", directory=tmp_path)
    app.mount("/mounted", mounted)
    app.mount("/router", inner)
    expected = [
        ("/mounted/ui/*", False),
        ("/router/deep/*", True),
        ("/ui/*", True),
        ("/v1/*", False),
        ("/v1/inner/deep/*", False),
        ("/v2/deep/*", True),
    ]
    await check(app, ask, expected)
    found = {each.path: each for each in survey(app)}
    assert found["/ui/*"].methods == ["GET", "HEAD"]
    assert (found["/v1/*"].schemes, found["/v1/*"].scopes) == (["APIKey"], ["ui"])
    for path in ("/ui/name", "/router/deep/name", "/v2/deep/name"):
        assert (await ask(app, path=path)).body == b"in"
    app.dependency_overrides[auth] = lambda: None
    found = {each.path: each for each in survey(app)}
    assert found["/v1/*"].note == "APIKey is overridden"
    assert (await ask(app, path="/v1/name")).body == b"in"


async def test_a_fastapi_that_keeps_front_ends_elsewhere_is_refused(monkeypatch):
    """Rather than that they are left out."""
    monkeypatch.delattr(APIRouter, "_iter_low_priority_routes")
    with pytest.raises(ConfigurationError, match="an earlier FastAPI"):
        survey(FastAPI())


async def test_what_serves_unmatched_paths_is_listed(auth, guard, keys, ask):
    """The default of a router, unless it is Starlette's own."""

    class Lenient(Router):
        """Answers what it does not find."""

        async def not_found(self, scope, receive, send) -> None:
            await opaque(scope, receive, send)

    app = FastAPI(openapi_url=None)
    app.mount("/own", Lenient())
    app.mount("/mounted", Router([Route("/x", plain)], default=opaque))
    app.mount("/guarded", Router(default=opaque, middleware=[guard]))
    app.mount("/behind", Router(default=APIKeyMiddleware(opaque, keys)))
    app.mount("/routed", Router(default=Starlette(routes=[Route("/x", plain)])))
    app.include_router(APIRouter(default=opaque), prefix="/unused")  # which FastAPI never asks
    app.router.default = opaque
    expected = [
        ("/own/*", True),
        ("/mounted/x", True),
        ("/mounted/*", True),
        ("/guarded/*", False),
        ("/behind/*", False),
        ("/routed/x", True),
        ("/*", True),
    ]
    await check(app, ask, expected)


async def test_a_route_of_one_host_tells_it(guard, ask):
    """So that it is not taken for what another host has at the same path."""
    inner = Starlette(routes=[Route("/x", plain)], middleware=[guard])
    app = Starlette(
        routes=[
            Host("one.example", Router([Route("/x", plain), Mount("/deep", inner)])),
            Mount("/in", Router([Host("two.example", inner)])),
            Route("/x", plain),
        ]
    )
    included = APIRouter()
    included.routes.append(Host("three.example", Starlette(routes=[Route("/x", plain)])))
    outer = FastAPI(openapi_url=None)
    outer.include_router(included, prefix="/v1")
    outer.mount("/", app)
    expected = [
        ("three.example/v1/x", True),
        ("one.example/x", True),
        ("one.example/deep/x", False),
        ("two.example/in/x", False),
        ("/x", True),
    ]
    await check(outer, ask, expected)


async def test_a_websocket_goes_by_the_overrides_of_where_it_was_made(auth, ask):
    """Wherever it was copied to, and not by those of what it was copied to."""
    origin = FastAPI(openapi_url=None)

    @origin.websocket("/ws")
    async def ws(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await socket(websocket)

    copy = FastAPI(openapi_url=None, routes=[*origin.routes])
    copy.dependency_overrides[auth] = lambda: None
    await check(copy, ask, [("/ws", False)])
    await check(Starlette(routes=[*origin.routes]), ask, [("/ws", False)])
    copy.dependency_overrides.clear()
    origin.dependency_overrides[auth] = lambda: None
    await check(copy, ask, [("/ws", True)])
    await check(Starlette(routes=[*origin.routes]), ask, [("/ws", True)])


async def test_a_websocket_of_another_make_goes_by_the_overrides_around_it(auth, keys):
    """Where the functions that serve it do not tell, and also behind middleware of its own."""
    app = FastAPI(openapi_url=None)
    app.add_api_websocket_route("/ws", socket, dependencies=[Depends(auth)])
    (route,) = app.routes
    made = route.app
    app.dependency_overrides[auth] = lambda: None
    for wrapped in (opaque, SimpleNamespace(), CORSMiddleware(made)):
        route.app = wrapped
        assert [each.open for each in survey(app)] == [True]
    route.app = APIKeyMiddleware(made, keys)
    assert [each.open for each in survey(app)] == [False]


class Everything(BaseRoute):
    """A route of an own kind, with routes that it does not go by."""

    routes = ()

    def matches(self, scope) -> tuple[Match, dict]:
        """Whatever nobody else took."""
        return Match.FULL, {}

    async def handle(self, scope, receive, send) -> None:
        """Answers."""
        await opaque(scope, receive, send)


class Foreign:
    """An application of another framework, which has routes as well, and none of these."""

    routes = ()

    async def __call__(self, scope, receive, send) -> None:
        """Answers."""
        await opaque(scope, receive, send)


async def test_what_only_looks_like_an_application_with_routes_is_open(guard, keys, ask):
    """Nothing is left out because a list of routes says so that nobody goes by."""
    app = Starlette(
        routes=[
            Mount("/foreign", Foreign()),
            Mount("/guarded", APIKeyMiddleware(Foreign(), keys)),
            Mount("/mount", Mount("/in", opaque)),
            Mount("/middleware", Mount("/in", opaque, middleware=[guard])),
            Mount("/route", Route("/in", plain)),
            Mount("/host", Host("other.example", Foreign())),
            Mount("/open", APIKeyMiddleware(Router([Everything()]), keys, exclude=["/name"])),
            Everything(),
        ]
    )
    expected = [
        ("/foreign/*", True),
        ("/guarded/*", False),
        ("/mount/in/*", True),
        ("/middleware/in/*", False),
        ("/route/in", True),
        ("other.example/host/*", True),
        ("/open/*", True),
        ("/*", True),
    ]
    await check(app, ask, expected)
    assert [each.path for each in survey(Mount("/in", opaque))] == ["/in/*"]
    assert [each.path for each in survey(Foreign())] == ["/*"]


async def test_middleware_that_is_not_in_the_stack_protects_nothing(guard, ask):
    """Once an application has made its stack, what is added to the list is never asked."""
    app = Starlette(routes=[Route("/x", plain)])
    assert (await ask(app, path="/x")).status == 200
    app.user_middleware.append(guard)
    await check(app, ask, [("/x", True)])
    app.middleware_stack = app.build_middleware_stack()
    await check(app, ask, [("/x", False)])


async def test_what_dependencies_do_not_reach_is_open(auth, guard, ask, tmp_path):
    """Those of an application and of a router protect neither Starlette's routes nor mounts."""
    app = FastAPI(dependencies=[Security(auth)], redoc_url=None)
    router = APIRouter()
    app.include_router(router, prefix="/v1", dependencies=[Security(auth)])

    @router.api_route("/late", methods=["GET", "DELETE", "OPTIONS"], include_in_schema=False)
    async def late() -> str:
        return "in"

    @router.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await socket(websocket)

    router.routes.append(Route("/lost", plain, middleware=[guard]))  # which FastAPI drops
    router.add_route("/plain", plain)
    router.add_websocket_route("/socket", socket)
    router.mount("/opaque", opaque)
    app.add_route("/plain", plain, methods=["OPTIONS"])
    app.router.add_websocket_route("/socket", socket)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.router.routes.insert(0, WebSocketRoute("/first", socket))
    app.mount("/unguarded", Starlette(routes=[Route("/x", plain)], middleware=[guard]).router)
    expected = [
        ("/first", True),
        ("/openapi.json", True),
        ("/docs", True),
        ("/docs/oauth2-redirect", True),
        ("/v1/late", False),
        ("/v1/ws", False),
        ("/v1/lost", True),
        ("/v1/plain", True),
        ("/v1/socket", True),
        ("/v1/opaque/*", True),
        ("/plain", True),
        ("/socket", True),
        ("/static/*", True),
        ("/unguarded/x", True),
    ]
    await check(app, ask, expected)
    methods = {each.path: each.methods for each in survey(app)}
    assert methods["/v1/late"] == ["DELETE", "GET", "OPTIONS"]
    assert methods["/v1/plain"] == ["GET", "HEAD"]


async def test_an_application_in_itself_hides_nothing_behind_an_exclusion(keys, ask):
    """What stands open only where it is mounted in itself is listed there."""
    router = Router([Route("/name", plain)])
    router.mount("/again", router)
    app = APIKeyMiddleware(router, keys, exclude=["/again/name"])
    await check(app, ask, [("/name", False), ("/again/*", True)])


class OfItself:
    """An application that says it wraps itself."""

    @property
    def app(self) -> Any:
        """Itself."""
        return self


@pytest.mark.parametrize("endless", [OfItself(), MagicMock()])
async def test_what_wraps_without_an_end_is_not_followed(endless):
    """Such as a mock of a test, which wraps another one each time: what it serves is unseen."""
    app = FastAPI(openapi_url=None)
    app.mount("/x", endless)
    app.mount("/y", Host("y", FastAPI()))
    assert next((each.path, each.open) for each in survey(app)) == ("/x/*", True)
    assert len(list(applications(app))) == 2


async def test_what_is_documented_as_unseen_is_unseen(auth, ask):
    """A handler of errors may serve content where nobody has a key: no row tells that."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/x", lambda: "in", dependencies=[Depends(auth)])

    async def serve(request, error) -> PlainTextResponse:
        return PlainTextResponse("in")

    app.add_exception_handler(404, serve)
    app.add_exception_handler(401, serve)
    assert [(each.path, each.open) for each in survey(app)] == [("/x", False)]
    assert (await ask(app, path="/nowhere")).status == 200
