"""WebSockets and server-sent events through a real uvicorn: who gets one, and until when."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

import pytest
import websockets
from canaries import Canaries
from connections import HANDSHAKE, PATIENCE, connected, exchange, head_of, serving, talk
from fastapi import FastAPI, Request, Security, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import SecurityScopes
from fastapi.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import StreamingResponse as BareStream
from starlette.routing import Route, WebSocketRoute
from subject import SILENT

from keylatch import APIKey, APIKeys, SecretRing
from keylatch.asgi import APIKeyMiddleware, verified_key, verify_again
from keylatch.errors import AuthenticationError, MissingKeyError, UnavailableError
from keylatch.fastapi import (
    APIKeyAuth,
    RefusedError,
    problem_handler,
    unavailable_error_handler,
)
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

SOON = 0.02  # seconds between two looks at a key
in_each_server = pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])


class Feed:
    """Events that a test makes, and how many listen."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.listeners = 0
        self.texts: list[str] = []
        self.over = False

    async def say(self, text: str) -> None:
        """Tells everybody."""
        async with self.changed:
            self.texts.append(text)
            self.changed.notify_all()

    async def listen(self) -> AsyncIterator[str]:
        """All events from now on."""
        told = len(self.texts)
        self.listeners += 1
        try:
            while not self.over:
                async with self.changed:
                    while told == len(self.texts) and not self.over:
                        await self.changed.wait()
                for text in self.texts[told:]:
                    told += 1
                    yield text
        finally:
            self.listeners -= 1

    async def listened_to(self, by: int) -> None:
        """Waits until so many listen."""
        async with asyncio.timeout(PATIENCE):
            while self.listeners != by:  # noqa: ASYNC110 - a generator that is closed tells nobody
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        """Lets go of everybody: who only sends does not hear that its client has gone."""
        async with self.changed:
            self.over = True
            self.changed.notify_all()


@asynccontextmanager
async def served(app, feed: Feed, **options) -> AsyncIterator[int]:
    """A real server, whose streams end with the test."""
    async with serving(app, **options) as port:
        try:
            yield port
        finally:
            await feed.end()


@pytest.fixture
def store() -> MemoryStore:
    """What a stream does is the same with every store."""
    return MemoryStore()


@pytest.fixture
async def feed() -> Feed:
    """Events of this test's own."""
    return Feed()


def add_sockets(app: FastAPI, auth: APIKeyAuth, feed: Feed) -> None:
    """WebSockets that send, that answer, and that look again before each answer."""
    key_of_request = Annotated[APIKey, Security(auth, scopes=["feed:read"])]

    @app.websocket("/feed")
    async def socket(websocket: WebSocket, key: key_of_request) -> None:
        await websocket.accept()
        await websocket.send_text(key.id)
        async for text in auth.while_valid(websocket, feed.listen(), every=SOON):
            await websocket.send_text(text)

    @app.websocket("/echo")
    async def echo(websocket: WebSocket, key: key_of_request) -> None:
        await websocket.accept()
        async for text in auth.while_valid(websocket, websocket.iter_text(), every=SOON):
            await websocket.send_text(f"{key.name} {text}")

    @app.websocket("/orders")
    async def orders(websocket: WebSocket, key: key_of_request) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            changed = await auth.again(websocket, scopes=["feed:write"] if text == "w" else [])
            await websocket.send_text(changed.name)


def add_others(app: FastAPI, auth: APIKeyAuth) -> None:
    """WebSockets that take the other dependencies."""

    async def user(owner: str) -> str | None:
        return {"u1": "Ada"}.get(owner)

    @app.websocket("/optional")
    async def optional(
        websocket: WebSocket, key: Annotated[APIKey | None, Security(auth.optional)]
    ) -> None:
        await websocket.accept()
        await websocket.send_text("nobody" if key is None else key.id)

    @app.websocket("/owner")
    async def owner(
        websocket: WebSocket, found: Annotated[str, Security(auth.owner(user))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(found)


def add_streams(app: FastAPI, auth: APIKeyAuth, feed: Feed) -> None:
    """Server-sent events, by hand and as FastAPI has them."""
    key_of_request = Annotated[APIKey, Security(auth, scopes=["feed:read"])]

    @app.get("/stream")
    async def stream(request: Request, key: key_of_request) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield f"data: {key.id}\n\n"
            async for text in auth.while_valid(request, feed.listen(), every=SOON):
                yield f"data: {text}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/events", response_class=EventSourceResponse)
    async def events(request: Request, key: key_of_request) -> AsyncIterator[str]:
        yield key.id
        async for text in auth.while_valid(request, feed.listen(), every=SOON):
            yield text


@pytest.fixture
def app(keys: APIKeys, feed: Feed) -> FastAPI:
    """Feeds that last until their key ends."""
    auth = APIKeyAuth(keys)
    app = FastAPI(openapi_url=None)
    add_sockets(app, auth, feed)
    add_others(app, auth)
    add_streams(app, auth, feed)
    return app


@pytest.fixture
async def new(keys: APIKeys):
    """A key that may read the feed."""
    return await keys.create(name="ci", owner="u1", scopes=["feed:read"])


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def opened(port: int, path: str, token: str | None = None):
    """A WebSocket of a real client."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return websockets.connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers)


async def assert_refused(port: int, path: str, token: str | None, status: int, detail: str) -> None:
    """A real client is not let in, and is told why."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await opened(port, path, token)
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body)["detail"].startswith(detail)
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="api"')


async def closed_with(connection) -> int:
    """The code that a server closes a WebSocket with, whatever it says before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await connection.recv()
            except websockets.ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else 1006


@asynccontextmanager
async def listening(port: int, path: str, token: str):
    """A stream of server-sent events, from its first event on."""
    async with connected(port, bearer(token), target=path) as (reader, writer):
        status, head = await head_of(reader)
        assert (status, b"text/event-stream" in head) == (200, True)
        yield reader, writer


async def next_event(reader: asyncio.StreamReader) -> str:
    """The data of the next event."""
    async with asyncio.timeout(PATIENCE):
        text = (await reader.readuntil(b"\n\n")).decode()
    return text.partition("data: ")[2].strip().strip('"')


@in_each_server
async def test_who_is_refused_has_http_s_answer_instead_of_a_socket(app, keys, new, feed, ws):
    """Before it is accepted: no key, a wrong one, one without the scope, one that was revoked."""
    lacking = await keys.create(name="other", scopes=["feed:rea", "feed"])
    async with served(app, feed, ws=ws) as port:
        await assert_refused(port, "/feed", None, 401, "API key missing")
        await assert_refused(port, "/feed", "nonsense", 401, "API key invalid")
        await assert_refused(port, "/feed", lacking.token, 403, "API key lacks a scope")
        async with opened(port, "/feed", new.token) as connection:
            assert await connection.recv() == new.key.id
        await keys.revoke(new.key.id)
        await assert_refused(port, "/feed", new.token, 401, "API key revoked")
        status, head, body = await exchange(port, HANDSHAKE, target="/feed")
        assert status == 401
        assert b"content-type: application/json" in head
        assert json.loads(body) == {"detail": "API key missing: send one with the request"}


@in_each_server
async def test_handlers_of_refusals_answer_sockets_too(app, keys, new, feed, ws):
    """The application's own, and ``problem_handler``; those that cannot be answered are closed."""

    async def own(request: HTTPConnection, refused: RefusedError) -> JSONResponse:
        said = {"error": refused.error.code}
        return JSONResponse(said, refused.status_code, headers=refused.headers)

    lacking = await keys.create(name="other")
    for handler, kind, member in (
        (own, "application/json", "error"),
        (problem_handler, "application/problem+json", "code"),
    ):
        app.add_exception_handler(RefusedError, handler)
        app.middleware_stack = None  # as of an application that has not started
        async with served(app, feed, ws=ws) as port:
            for token, status, code in (
                (None, 401, "missing_key"),
                ("nonsense", 401, "invalid_key"),
                (lacking.token, 403, "insufficient_scope"),
            ):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await opened(port, "/feed", token)
                response = refused.value.response
                assert (response.status_code, json.loads(response.body)[member]) == (status, code)
                assert response.headers["Content-Type"] == kind
                assert response.headers["WWW-Authenticate"].startswith("Bearer realm")
            async with opened(port, "/feed", new.token) as connection:
                assert await connection.recv() == new.key.id
        closed = await talk(app, path="/feed")
        assert closed == [{"type": "websocket.close", "code": 1008, "reason": ""}]


@in_each_server
async def test_a_socket_may_ask_for_a_key_only_if_there_is_one_and_for_its_owner(
    app, keys, new, feed, ws
):
    """``auth.optional`` and ``auth.owner`` do for WebSockets what they do for requests."""
    stranger = await keys.create(name="ci", owner="u2")
    async with served(app, feed, ws=ws) as port:
        for path, token, said in (
            ("/optional", None, "nobody"),
            ("/optional", new.token, new.key.id),
            ("/owner", new.token, "Ada"),
        ):
            async with opened(port, path, token) as connection:
                assert await connection.recv() == said
        await assert_refused(port, "/optional", "nonsense", 401, "API key invalid")
        await assert_refused(port, "/owner", stranger.token, 401, "API key invalid")
        await assert_refused(port, "/owner", None, 401, "API key missing")


@in_each_server
async def test_a_revoked_key_ends_its_sockets(app, keys, new, feed, ws):
    """Those of its own, with 1008, whether they wait for events or for their client."""
    other = await keys.create(name="other", scopes=["feed:read"])
    async with (
        served(app, feed, ws=ws) as port,
        opened(port, "/feed", new.token) as reading,
        opened(port, "/echo", new.token) as talking,
        opened(port, "/feed", other.token) as staying,
    ):
        await feed.listened_to(2)
        await talking.send("hello")
        assert await talking.recv() == "ci hello"
        await feed.say("first")
        assert [await reading.recv(), await reading.recv()] == [new.key.id, "first"]
        await keys.revoke(new.key.id)
        assert await closed_with(reading) == await closed_with(talking) == 1008
        await feed.listened_to(1)
        await feed.say("second")
        said = [await staying.recv() for _ in range(3)]
        assert said == [other.key.id, "first", "second"]


async def test_no_event_is_sent_after_a_revocation_has_returned(app, keys, new, feed):
    """However seldom the key is looked at: it is looked at before each event."""
    auth = APIKeyAuth(keys)

    @app.websocket("/seldom")
    async def seldom(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        async for text in auth.while_valid(websocket, feed.listen(), every=60):
            await websocket.send_text(text)

    async with served(app, feed) as port, opened(port, "/seldom", new.token) as connection:
        await feed.listened_to(1)
        await keys.revoke(new.key.id)
        await feed.say("secret")
        with pytest.raises(websockets.ConnectionClosed):
            await connection.recv()


@pytest.mark.parametrize("how", ["expired", "without the scope", "purged", "in doubt"])
async def test_whatever_ends_a_key_ends_its_stream(app, keys, new, feed, how):
    """Expiry and lost scopes as well; and doubt, with the word to come back later."""
    clock = keys._clock
    async with (
        served(app, feed) as port,
        opened(port, "/feed", new.token) as connection,
        listening(port, "/events", new.token) as (reader, _),
    ):
        await feed.listened_to(2)
        match how:
            case "expired":
                await keys.update(new.key.id, expires_at=clock() + timedelta(hours=1))
                clock.advance(hours=1)
            case "without the scope":
                await keys.update(new.key.id, scopes=["feed:write"])
            case "purged":
                await keys.revoke(new.key.id)
                clock.advance(days=2)
                await keys.purge(dead_for=timedelta(days=1))
            case _:

                async def down(key_id: str) -> None:
                    raise UnavailableError("the database is down")

                keys._store.load = down
                keys._engine.flush()
        code = 1013 if how == "in doubt" else 1008
        assert await closed_with(connection) == code
        assert await next_event(reader) == new.key.id
        async with asyncio.timeout(PATIENCE):
            assert b"data:" not in await reader.readuntil(b"0\r\n\r\n")
        await feed.listened_to(0)


@in_each_server
async def test_a_socket_looks_again_for_what_it_is_to_do_now(app, keys, new, feed, ws):
    """``auth.again`` has the key as it is now, may ask for more, and closes the socket itself."""
    async with served(app, feed, ws=ws) as port:
        async with opened(port, "/orders", new.token) as connection:
            await connection.send("r")
            assert await connection.recv() == "ci"
            await keys.update(new.key.id, name="renamed")
            await connection.send("r")
            assert await connection.recv() == "renamed"
            await connection.send("w")
            assert await closed_with(connection) == 1008
        await keys.update(new.key.id, scopes=["feed:read", "feed:write"])
        async with opened(port, "/orders", new.token) as connection:
            await connection.send("w")
            assert await connection.recv() == "renamed"


@pytest.mark.parametrize("path", ["/stream", "/events"])
async def test_a_stream_of_events_needs_a_key(app, keys, new, feed, path):
    """Who has none gets 401 in JSON, and no stream."""
    async with served(app, feed) as port:
        for headers, code in (([], 401), (bearer("nonsense"), 401)):
            status, head, body = await exchange(port, headers, target=path)
            assert (status, b"content-type: application/json" in head) == (code, True)
            assert json.loads(body)["detail"].startswith("API key")
        await keys.update(new.key.id, scopes=[])
        assert (await exchange(port, bearer(new.token), target=path))[0] == 403


@pytest.mark.parametrize("path", ["/stream", "/events"])
async def test_a_revoked_key_ends_its_streams_of_events(app, keys, new, feed, path):
    """Properly, so that a browser comes back, and is told then that its key is no good."""
    async with served(app, feed) as port, listening(port, path, new.token) as (reader, _):
        assert await next_event(reader) == new.key.id
        await feed.listened_to(1)
        await feed.say("first")
        assert await next_event(reader) == "first"
        await keys.revoke(new.key.id)
        async with asyncio.timeout(PATIENCE):
            assert b"data:" not in await reader.readuntil(b"0\r\n\r\n")
        await feed.listened_to(0)
        assert (await exchange(port, bearer(new.token), target=path))[0] == 401


@pytest.mark.parametrize("path", ["/stream", "/events", "/feed"])
async def test_a_client_that_goes_away_leaves_nothing_behind(app, new, feed, path):
    """Neither its source nor what looks at its key."""

    def watches() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if "keylatch-w" in task.get_name()]

    async with served(app, feed) as port:
        for _ in range(3):
            if path == "/feed":
                async with opened(port, path, new.token) as connection:
                    await feed.listened_to(1)
                    assert watches() == ["keylatch-watch"]
                    connection.transport.abort()
                while feed.listeners:  # ASGI tells who only sends when it sends, and later on
                    await feed.say("x")
                    await asyncio.sleep(SOON)
            else:
                async with listening(port, path, new.token):
                    await feed.listened_to(1)
                    assert watches() == ["keylatch-watch"]
            await feed.listened_to(0)
    assert watches() == []


@pytest.mark.parametrize("middleware", [False, True])
async def test_events_are_not_held_back(app, keys, new, feed, middleware):
    """The first one arrives while the stream goes on, also through the middleware."""
    if middleware:
        app.add_middleware(APIKeyMiddleware, keys=keys)
    async with served(app, feed) as port, listening(port, "/events", new.token) as (reader, _):
        assert await next_event(reader) == new.key.id
        for text in ("one", "two"):
            await feed.listened_to(1)
            await feed.say(text)
            assert await next_event(reader) == text


async def test_the_middleware_s_word_does_not_outlive_the_key(keys, new, feed):
    """Behind it ``verify_again`` asks anew, with its scopes."""

    async def events(request: Request) -> BareStream:
        async def stream() -> AsyncIterator[str]:
            yield f"data: {verified_key(request.scope, keys).id}\n\n"
            async for text in feed.listen():
                try:
                    await verify_again(request.scope, keys)
                except AuthenticationError as error:
                    yield f"data: {error.code}\n\n"
                    return
                yield f"data: {text}\n\n"

        return BareStream(stream(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", events)])
    app.add_middleware(APIKeyMiddleware, keys=keys, scopes=["feed:read"])
    other = await keys.create(name="other", scopes=["feed:read"])
    async with (
        served(app, feed) as port,
        listening(port, "/", new.token) as (reader, _),
        listening(port, "/", other.token) as (beside, _),
    ):
        await feed.listened_to(2)
        await feed.say("one")
        assert [await next_event(reader), await next_event(reader)] == [new.key.id, "one"]
        assert [await next_event(beside), await next_event(beside)] == [other.key.id, "one"]
        await keys.revoke(new.key.id)
        await keys.update(other.key.id, scopes=[])
        await feed.say("two")
        assert await next_event(reader) == "revoked_key"
        assert await next_event(beside) == "insufficient_scope"


async def test_scopes_of_all_levels_are_looked_at_again(keys, feed):
    """What the application, the router, the middleware and the route asked for."""
    auth = APIKeyAuth(keys)
    app = FastAPI(dependencies=[Security(auth, scopes=["a"])], openapi_url=None)
    app.add_middleware(APIKeyMiddleware, keys=keys, scopes=["b"])

    @app.websocket("/")
    async def route(
        websocket: WebSocket, key: Annotated[APIKey, Security(auth, scopes=["c"])]
    ) -> None:
        await websocket.accept()
        async for text in auth.while_valid(websocket, feed.listen(), every=SOON):
            await websocket.send_text(text)

    async with served(app, feed) as port:
        for lost in ("a", "b", "c"):
            new = await keys.create(name="ci", scopes=["a", "b", "c"])
            async with opened(port, "/", new.token) as connection:
                await feed.listened_to(1)
                await keys.update(new.key.id, scopes=sorted({"a", "b", "c"} - {lost}))
                assert await closed_with(connection) == 1008
            await feed.listened_to(0)


@pytest.mark.parametrize("token", ["acme_live", "one of another format"])
async def test_looking_again_is_no_further_use(secret, clock, token):
    """A request counts once, and is one hit or miss, however often its key is looked at."""
    async with APIKeys(
        MemoryStore(),
        prefix="acme_live",
        secret=secret,
        clock=clock,
        imported_tokens=True,
        **SILENT,
    ) as keys:
        if token == "acme_live":
            new = await keys.create(name="ci")
            key_id, token = new.key.id, new.token
        else:
            token = "sk_4eC39HqLyjWDarjtT1zdp7dc"
            key_id = (await keys.import_token(token, name="ci")).id
        auth = APIKeyAuth(keys)
        connection = HTTPConnection({"type": "http", "headers": bearer(token)})
        await auth(connection, SecurityScopes())
        counted = dataclasses.replace(keys.health(), feed_age=None)
        for _ in range(5):
            assert (await auth.again(connection)).id == key_id
        assert dataclasses.replace(keys.health(), feed_age=None) == counted
        await keys.flush()
        assert (await keys.get(key_id)).use_count == 1


async def test_events_may_need_more_than_their_route(keys, new, feed):
    """A scope that only the events need is looked at with the others; a malformed one at once."""
    auth = APIKeyAuth(keys)
    app = FastAPI(openapi_url=None)

    @app.websocket("/{channel}")
    async def route(
        websocket: WebSocket, channel: str, key: Annotated[APIKey, Security(auth)]
    ) -> None:
        await websocket.accept()
        scopes = [f"{channel}:read"]
        async for text in auth.while_valid(websocket, feed.listen(), scopes=scopes, every=SOON):
            await websocket.send_text(text)

    async with served(app, feed) as port:
        async with opened(port, "/other", new.token) as connection:
            assert await closed_with(connection) == 1008
        async with opened(port, "/feed", new.token) as connection:
            await feed.listened_to(1)
            await feed.say("one")
            assert await connection.recv() == "one"
            await keys.update(new.key.id, scopes=["other:read"])
            assert await closed_with(connection) == 1008
    connection = HTTPConnection({"type": "http"})
    for scopes, error in ((["a b"], ValueError), ("feed:read", TypeError)):
        with pytest.raises(error, match="scope"):
            auth.while_valid(connection, feed.listen(), scopes=scopes)


async def test_it_looks_where_the_key_stands(keys, feed):
    """A browser's WebSocket can send no header of ours: in a cookie, or a parameter."""
    auth = APIKeyAuth(keys, bearer=False, headers=[], cookie="key", query="key")
    app = FastAPI(openapi_url=None)
    app.add_middleware(
        APIKeyMiddleware, keys=keys, bearer=False, headers=[], cookie="key", query="key"
    )

    @app.websocket("/")
    async def route(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        assert await verify_again(websocket.scope, keys) == await auth.again(websocket) == key
        async for text in auth.while_valid(websocket, feed.listen(), every=SOON):
            await websocket.send_text(text)

    async with served(app, feed) as port:
        for place in ("cookie", "query"):
            new = await keys.create(name="ci")
            pair = f"key={new.token}"
            url = f"ws://127.0.0.1:{port}/" + (f"?{pair}" if place == "query" else "")
            headers = {"Cookie": f"a=b; {pair}"} if place == "cookie" else {}
            async with websockets.connect(url, additional_headers=headers) as connection:
                await feed.listened_to(1)
                await keys.revoke(new.key.id)
                assert await closed_with(connection) == 1008
            await feed.listened_to(0)


async def test_a_test_s_own_keys_are_looked_at_again(app, feed, keylatch_keys):
    """Where a test has put its collection in the place of the application's, all the way."""
    auth = APIKeyAuth(APIKeys(MemoryStore(), prefix="prod", secret=SecretRing.generate()))

    @app.websocket("/own")
    async def own(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        async for text in auth.while_valid(websocket, feed.listen(), every=SOON):
            await websocket.send_text(text)

    app.dependency_overrides[auth] = auth.over(keylatch_keys)
    new = await keylatch_keys.create(name="test")
    async with served(app, feed) as port, opened(port, "/own", new.token) as connection:
        await feed.listened_to(1)
        await feed.say("one")
        assert await connection.recv() == "one"
        await keylatch_keys.revoke(new.key.id)
        assert await closed_with(connection) == 1008


async def test_who_came_without_a_key_has_none_to_look_at_again(app, keys, feed):
    """Neither where it was optional, nor on a path that the middleware leaves open."""
    auth = APIKeyAuth(keys)
    app = FastAPI(openapi_url=None)
    app.add_middleware(APIKeyMiddleware, keys=keys, exclude=["/"])

    @app.websocket("/")
    async def route(
        websocket: WebSocket, key: Annotated[APIKey | None, Security(auth.optional)]
    ) -> None:
        await websocket.accept()
        with pytest.raises(MissingKeyError):
            await verify_again(websocket.scope, keys)
        await auth.again(websocket)

    async with served(app, feed) as port, opened(port, "/") as connection:
        assert await closed_with(connection) == 1008


@pytest.mark.parametrize("asks", ["again", "verify_again"])
async def test_no_error_of_a_second_look_shows_a_token(keys, new, secret, asks):
    """Errors pass through our frames, which hold nothing worth stealing."""
    canaries = Canaries(secret)
    canaries.add(new.token)

    async def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    async def app(scope, receive, send) -> None:
        keys._engine.flush()
        keys._store.load = bug
        if asks == "again":
            await APIKeyAuth(keys).again(HTTPConnection(scope))
        else:
            await verify_again(scope, keys)

    with pytest.raises(RuntimeError) as caught:
        await talk(APIKeyMiddleware(app, keys), bearer(new.token))
    canaries.assert_absent_from_frames(caught.value)


async def test_a_server_that_cannot_answer_closes(app, keys, new):
    """The dependency as the middleware: 1008, or 1013 where there is no telling."""
    closed = [{"type": "websocket.close", "code": 1008, "reason": ""}]
    stranger = await keys.create(name="ci", owner="u2")
    for path, headers in (
        ("/feed", []),
        ("/feed", bearer("nonsense")),
        ("/optional", bearer("nonsense")),
        ("/owner", bearer(stranger.token)),
    ):
        assert await talk(app, headers, path=path) == closed

    async def down(key_id: str) -> None:
        raise UnavailableError("the database is down")

    keys._store.load = down
    keys._engine.flush()
    assert await talk(app, bearer(new.token), path="/feed") == [{**closed[0], "code": 1013}]


@pytest.mark.parametrize("handler", [problem_handler, unavailable_error_handler])
async def test_a_fault_closes_a_socket_that_is_accepted(feed, handler):
    """The handlers of faults answer sockets, too, as far as that can be done."""
    app = FastAPI(openapi_url=None)
    app.add_exception_handler(UnavailableError, handler)

    @app.websocket("/{accepted}")
    async def route(websocket: WebSocket, *, accepted: bool) -> None:
        if accepted:
            await websocket.accept()
        raise UnavailableError("the database is down")

    async with served(app, feed) as port:
        async with opened(port, "/true") as connection:
            assert await closed_with(connection) == 1013
        with pytest.raises(websockets.InvalidStatus) as refused:
            await opened(port, "/false")
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
    closed = await talk(app, path="/false")
    assert closed == [{"type": "websocket.close", "code": 1013, "reason": ""}]


async def test_behind_the_middleware_a_socket_has_its_key(keys, new, feed):
    """A WebSocket of any framework talks, and has the whole refusal instead of an upgrade."""

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(verified_key(websocket.scope, keys).id)
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/", echo)])
    app.add_middleware(APIKeyMiddleware, keys=keys, scopes=["feed:read"])
    async with served(app, feed) as port:
        async with opened(port, "/", new.token) as connection:
            assert await connection.recv() == new.key.id
            await connection.send("hello")
            assert await connection.recv() == "hello"
        await assert_refused(port, "/", "nonsense", 401, "API key invalid")
