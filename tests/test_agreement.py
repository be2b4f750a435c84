"""Whatever headers a request has: all that protects is of one mind, and of a plain reading's."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from connections import CAN_ANSWER, talk
from fastapi import FastAPI, Security, WebSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import Headers, expected, header_lists

from keylatch import APIKeys, SecretRing, Token, parse
from keylatch._native import TokenHeaders
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import AuthenticationError, InvalidKeyError
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

SECRET = SecretRing.generate()
STRANGER = Token.mint("acme", SecretRing(SECRET)).reveal()  # of nobody's key
# Those of `make fuzz` take some minutes.
EXAMPLES = 100_000 if os.environ.get("KEYLATCH_SOAK") else 150


class World:
    """A key, and applications that ask for it in each way."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.keys = APIKeys(MemoryStore(), prefix="acme", secret=SECRET)
        self.run(self.keys.__aenter__())
        self.token = self.run(self.keys.create(name="ci")).token
        self.key_id = parse(self.token).key_id
        auth = APIKeyAuth(self.keys)
        self.apps = [self.app(auth), APIKeyMiddleware(self.app(None), self.keys)]
        self.apps.append(APIKeyMiddleware(self.app(auth), self.keys))

    def run(self, call: Any) -> Any:
        """Waits for something."""
        return self.runner.run(call)

    def app(self, auth: APIKeyAuth | None) -> FastAPI:
        """A route and a WebSocket."""
        app = FastAPI(openapi_url=None, dependencies=[Security(auth)] if auth else [])

        @app.get("/")
        async def route() -> str:
            return "reached"

        @app.websocket("/")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.close()

        return app

    async def judged(self, headers: Headers) -> str | type[AuthenticationError]:
        """What the collection itself says."""
        try:
            key = await self.keys.authenticate(headers, sources=TokenHeaders())
        except AuthenticationError as error:
            return type(error)
        return key.id

    def close(self) -> None:
        """Ends."""
        self.run(self.keys.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One for all examples."""
    world = World()
    yield world
    world.close()


class Headed:
    """Header lists that carry the world's own token: it is drawn before there is one."""

    def __init__(self, headers: Headers) -> None:
        self.headers = headers

    def of(self, token: str) -> Headers:
        """The headers."""
        return [(name, value.replace(b"{token}", token.encode())) for name, value in self.headers]

    def __repr__(self) -> str:
        return repr(self.headers)


HEADERS = (
    header_lists("{token}", "{token}", STRANGER)
    | st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=200)), max_size=5)
    | st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key"]),
            st.tuples(
                st.sampled_from([b"", b"Bearer "]),
                st.binary(max_size=3),
                st.just(b"{token}"),
                st.binary(max_size=3) | st.just(b"a" * 5000),
            ).map(b"".join),
        ),
        min_size=1,
        max_size=2,
    )
).map(Headed)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it keeps nothing
)
@given(headed=HEADERS)
def test_all_that_protects_is_of_one_mind(world, ask, headed):
    """Collection, dependency and middleware, over HTTP and for WebSockets; and none ever fails."""
    headers = headed.of(world.token)
    read = expected(headers)
    wanted = read if isinstance(read, type) else world.key_id
    if read == STRANGER:
        wanted = InvalidKeyError
    assert world.run(world.judged(headers)) == wanted
    answers = [world.run(ask(app, headers)) for app in world.apps]
    assert len({(each.status, tuple(sorted(each.headers)), each.body) for each in answers}) == 1
    status = wanted.status if isinstance(wanted, type) else 200
    assert answers[0].status == status
    for app in world.apps:
        start, end = world.run(talk(app, headers, **CAN_ANSWER))
        closed = world.run(talk(app, headers))
        if status == 200:
            assert [start["type"], end["type"]] == ["websocket.accept", "websocket.close"]
            assert closed == [start, end]
        else:
            assert (start["status"], end["body"]) == (status, answers[0].body)
            assert sorted(start["headers"]) == sorted(answers[0].headers)
            assert [each["code"] for each in closed] == [1008]
