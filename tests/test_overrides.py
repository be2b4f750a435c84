"""``app.dependency_overrides``, as tests use it: what stands there decides wherever auth would."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import pytest
from connections import talk
from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    Security,
    WebSocket,
)
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.requests import HTTPConnection

from keylatch import APIKey, APIKeys
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore
from keylatch.routes import survey

pytestmark = pytest.mark.anyio

MADE_UP = APIKey(
    id="0" * 16,
    prefix="acme",
    name="made up",
    owner="u1",
    scopes=frozenset(),
    metadata={},
    created_at=datetime.now(UTC),
)
PATHS = ("/plain", "/optional", "/either", "/owner", "/again", "/stream")


class BrokenStore(MemoryStore):
    """The database of production, which no test is to ask."""

    async def load(self, key_id: str) -> None:
        """Is never asked."""
        raise AssertionError("the real database was asked")


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def name_of(who: object) -> str:
    """What a route says of whom it serves."""
    return who.name if isinstance(who, APIKey) else str(who)


def load(owner: str) -> str:
    """The owner of a key."""
    return owner


async def load_by_yielding(owner: str):
    """The same."""
    yield owner


def other() -> str:
    """Another scheme, that knows everybody."""
    return "other"


def other_scheme(token: Annotated[str, Depends(HTTPBearer())]) -> str:
    """One that insists."""
    return token


@pytest.fixture
def store() -> BrokenStore:
    """The database of production."""
    return BrokenStore()


@pytest.fixture
def auth(store, secret) -> APIKeyAuth:
    """The dependency of production, which is not started."""
    return APIKeyAuth(APIKeys(store, prefix="acme", secret=secret))


@pytest.fixture
def app(auth) -> FastAPI:
    """A route for each way to ask for a key."""
    app = FastAPI(openapi_url=None)
    for path, dependency in {
        "/plain": auth,
        "/optional": auth.optional,
        "/either": auth.either(other),
        "/owner": auth.owner(load),
        "/yielded": auth.owner(load_by_yielding),
    }.items():

        async def route(who: Annotated[object, Security(dependency, scopes=["a"])]) -> str:
            return name_of(who)

        app.get(path)(route)

    @app.get("/again")
    async def again(request: Request) -> str:
        return name_of(await auth.again(request, scopes=["a"]))

    async def events():
        yield "event"

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(auth.while_valid(request, events()))

    @app.websocket("/")
    async def socket(
        websocket: WebSocket, key: Annotated[APIKey | None, Security(auth.optional)]
    ) -> None:
        await websocket.accept()
        async for event in auth.while_valid(websocket, events()):
            await websocket.send_text(f"{event} of {name_of(key)}")

    return app


async def in_time() -> APIKey:
    """Gives a key, later."""
    await asyncio.sleep(0)
    return MADE_UP


class Made:
    """Gives a key when called."""

    def __call__(self) -> APIKey:
        """Gives it."""
        return MADE_UP


@pytest.mark.parametrize("stand_in", [lambda: MADE_UP, in_time, Made()])
async def test_a_key_of_a_test_passes_wherever_a_key_is_asked_for(app, auth, ask, stand_in):
    """By functions of every kind; no scope is asked for, and nothing of production is."""
    app.dependency_overrides[auth] = stand_in
    for headers in ([], bearer("acme_junk")):
        said = {path: (await ask(app, headers, path=path)).body.decode() for path in PATHS}
        assert said == {
            "/plain": '"made up"',
            "/optional": '"made up"',
            "/either": '"made up"',
            "/owner": '"u1"',
            "/again": '"made up"',
            "/stream": "event",
        }
        assert (await ask(app, headers, path="/yielded")).body == b'"u1"'
    said = await talk(app)
    assert [each["text"] for each in said if "text" in each] == ["event of made up"]


async def test_where_a_test_gives_none_nobody_has_to_have_a_key(app, auth, ask):
    """All routes pass, without one; no other scheme is asked, and no owner is looked for."""
    app.dependency_overrides[auth] = lambda: None
    for path in (*PATHS, "/yielded"):
        answer = await ask(app, path=path)
        assert (answer.status, answer.body) == (200, b"event" if path == "/stream" else b'"None"')


async def test_another_collection_decides_wherever_the_first_would(app, auth, ask, keylatch_keys):
    """Under the name of the dependency alone, and as strictly."""
    app.dependency_overrides[auth] = auth.over(keylatch_keys)
    new = await keylatch_keys.create(name="ci", owner="u1", scopes=["a"])
    lacking = await keylatch_keys.create(name="ci", owner="u1")
    for path in (*PATHS, "/yielded"):
        assert (await ask(app, bearer(new.token), path=path)).status == 200
    for path in ("/plain", "/optional", "/either", "/owner", "/yielded", "/again"):
        assert (await ask(app, bearer(lacking.token), path=path)).status == 403
        assert (await ask(app, bearer("test_junk"), path=path)).status == 401
    assert (await ask(app, path="/optional")).body == b'"None"'
    assert (await ask(app, path="/either")).body == b'"other"'
    for path in ("/plain", "/owner", "/yielded", "/again"):
        assert (await ask(app, path=path)).status == 401


async def test_what_a_test_raises_is_the_answer(app, auth, ask):
    """Everywhere but in a stream that has begun."""

    def nobody() -> None:
        raise HTTPException(418)

    app.dependency_overrides[auth] = nobody
    for path in ("/plain", "/optional", "/either", "/owner", "/again"):
        assert (await ask(app, path=path)).status == 418


async def test_what_cannot_be_called_is_said(app, auth, ask):
    """FastAPI resolves the parameters of what it calls itself; nobody else can."""

    def with_parameters(request: Request) -> APIKey:
        return MADE_UP

    def with_dependencies(key: Annotated[APIKey, Depends(lambda: MADE_UP)]) -> APIKey:
        return key

    def generating():
        yield MADE_UP

    for stand_in in (with_parameters, with_dependencies, generating, auth.optional):
        app.dependency_overrides[auth] = stand_in
        for path in ("/optional", "/either", "/again"):
            with pytest.raises(ConfigurationError, match="without parameters"):
                await ask(app, path=path)
    app.dependency_overrides[auth] = with_parameters
    assert (await ask(app, path="/plain")).body == b'"made up"'


async def test_what_stands_beside_is_overridden_by_itself(app, auth, ask):
    """Its own override counts before that of the dependency."""
    app.dependency_overrides[auth.optional] = lambda: "optional"
    app.dependency_overrides[auth.either(other)] = lambda: "either"
    assert (await ask(app, path="/optional")).body == b'"optional"'
    assert (await ask(app, path="/either")).body == b'"either"'
    assert (await ask(app, path="/plain")).status == 401
    app.dependency_overrides[auth] = lambda: MADE_UP
    assert (await ask(app, path="/optional")).body == b'"optional"'
    assert (await ask(app, path="/either")).body == b'"either"'
    assert (await ask(app, path="/plain")).body == b'"made up"'


async def test_a_route_whose_key_a_test_gives_counts_as_open(app, auth, ask):
    """In ``keylatch routes``, should an override have been left in production."""
    app.dependency_overrides[auth] = lambda: MADE_UP
    told = {each.path: (each.open, each.note) for each in survey(app)}
    for path in ("/plain", "/optional", "/either", "/owner", "/yielded", "/"):
        assert told[path] == (True, "APIKey is overridden")
    app.dependency_overrides[auth] = auth.over(auth.keys)
    told = {each.path: (each.open, each.note) for each in survey(app)}
    assert told["/plain"] == told["/owner"] == (False, "")
    assert told["/optional"] == (True, "a key is optional")


async def test_the_overrides_count_of_the_application_that_a_request_is_in(auth, ask):
    """Also for a router that is mounted, of which FastAPI asks itself without any."""
    router = APIRouter()

    @router.get("/")
    async def route(who: Annotated[object, Security(auth.either(other_scheme))]) -> str:
        return name_of(who)

    app, inner = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    app.mount("/router", router)
    inner.include_router(router)
    app.mount("/inner", inner)
    app.dependency_overrides[auth] = lambda: MADE_UP
    told = {each.path: each.open for each in survey(app)}
    assert told == {"/router/": True, "/inner/": False}
    assert (await ask(app, path="/router/")).body == b'"made up"'
    assert (await ask(app, path="/inner/")).status == 401


async def test_without_an_override_nothing_is_excused(ask, keys):
    """A dependency of an application's own that gives None opens no route of an owner's."""

    class Nobody(APIKeyAuth):
        async def __call__(
            self, connection: HTTPConnection, scopes: SecurityScopes, response: Response = None
        ) -> None:
            """Asks nobody."""

    auth = Nobody(keys)
    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def route(who: Annotated[str, Security(auth.owner(load))]) -> str:
        return who

    with pytest.raises(AttributeError):
        await ask(app)
