"""What answers tell the holder of a key that was rotated: that it was, and until when it opens."""

import asyncio
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated

import pytest
from fastapi import FastAPI, HTTPException, Response, Security
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from starlette.requests import Request

from keylatch import APIKey
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, keys_router

pytestmark = pytest.mark.anyio

GRACE = timedelta(hours=24)


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.fixture
def app(keys) -> FastAPI:
    """An application that answers in each way that FastAPI has."""
    auth = APIKeyAuth(keys)
    app = FastAPI()
    needs_key = Annotated[APIKey, Security(auth)]

    @app.get("/value")
    async def value(key: needs_key) -> str:
        return key.id

    @app.get("/optional")
    async def optional(key: Annotated[APIKey | None, Security(auth.optional)]) -> str:
        return "" if key is None else key.id

    @app.get("/events", response_class=EventSourceResponse)
    async def events(key: needs_key):
        yield {"key": key.id}

    @app.get("/own")
    async def own(key: needs_key, response: Response) -> str:
        response.headers["Sunset"] = "Sat, 01 Jan 2028 00:00:00 GMT"
        return key.id

    @app.get("/text")
    async def text(key: needs_key) -> PlainTextResponse:
        return PlainTextResponse(key.id, headers={"Sunset": "mine"})

    @app.get("/stream")
    async def stream(key: needs_key) -> StreamingResponse:
        return StreamingResponse(iter([key.id]))

    @app.get("/missing")
    async def missing(key: needs_key) -> str:
        raise HTTPException(404)

    app.include_router(keys_router(auth), prefix="/api-keys")
    return app


async def in_grace(keys, clock):
    """A key that was rotated a while ago, and its token."""
    new = await keys.create(name="ci", owner="u1", scopes=["keys:read"])
    clock.now += timedelta(seconds=10)
    rotated_at = clock.now
    await keys.rotate(new.key.id, grace=GRACE)
    clock.now += timedelta(minutes=1)
    return new.token, rotated_at


@pytest.mark.parametrize("path", ["/value", "/optional", "/events", "/api-keys"])
async def test_a_route_tells_of_a_rotation(app, keys, clock, ask, path):
    """With the moments of the rotation and of the end; a key that was not rotated hears nothing."""
    token, rotated_at = await in_grace(keys, clock)
    for _ in range(2):  # looked up, and remembered
        answer = await ask(app, path=path, headers=bearer(token))
        assert answer.status == 200
        headers = {name: value.decode() for name, value in answer.headers}
        assert headers[b"deprecation"] == f"@{int(rotated_at.timestamp())}"
        sunset = parsedate_to_datetime(headers[b"sunset"])
        assert sunset == (rotated_at + GRACE).replace(microsecond=0)
    new = await keys.create(name="ci", owner="u1", scopes=["keys:read"])
    answer = await ask(app, path=path, headers=bearer(new.token))
    assert answer.status == 200
    assert not {b"deprecation", b"sunset"} & {name for name, _ in answer.headers}


async def test_a_key_that_ends_sooner_says_so(app, keys, clock, ask):
    """An end that came before that of the grace period, or was moved, is what counts."""
    token, rotated_at = await in_grace(keys, clock)
    key = await keys.verify(token)
    await keys.update(key.id, expires_at=clock.now + timedelta(minutes=5))
    answer = await ask(app, path="/value", headers=bearer(token))
    headers = dict(answer.headers)
    assert headers[b"deprecation"] == f"@{int(rotated_at.timestamp())}".encode()
    assert parsedate_to_datetime(headers[b"sunset"].decode()) == (
        clock.now + timedelta(minutes=5)
    ).replace(microsecond=0)


@pytest.mark.parametrize("path", ["/value", "/text", "/stream", "/missing", "/nowhere", "/own"])
async def test_the_middleware_tells_with_every_answer(app, keys, clock, ask, path):
    """Once, also with those that a route makes itself; what the application says goes first."""
    token, rotated_at = await in_grace(keys, clock)
    answer = await ask(APIKeyMiddleware(app, keys), path=path, headers=bearer(token))
    names = [name for name, _ in answer.headers]
    assert names.count(b"deprecation") == names.count(b"sunset") == 1
    headers = dict(answer.headers)
    assert headers[b"deprecation"] == f"@{int(rotated_at.timestamp())}".encode()
    own = {"/text": b"mine", "/own": b"Sat, 01 Jan 2028 00:00:00 GMT"}
    if path in own:
        assert headers[b"sunset"] == own[path]


async def test_routes_say_what_they_like(app, keys, clock, ask):
    """A route's own header replaces ours; an answer that it makes itself is left alone."""
    token, _ = await in_grace(keys, clock)
    answer = await ask(app, path="/own", headers=bearer(token))
    assert [value for name, value in answer.headers if name == b"sunset"] == [
        b"Sat, 01 Jan 2028 00:00:00 GMT"
    ]
    answer = await ask(app, path="/text", headers=bearer(token))
    assert (b"sunset", b"mine") in answer.headers
    assert b"deprecation" not in dict(answer.headers)


async def test_the_database_is_asked_once_and_not_waited_for(app, keys, clock, ask, monkeypatch):
    """Without it the key passes all the same, and is told of its end only."""
    token, _ = await in_grace(keys, clock)
    asked = []

    async def fails(*args, **options):
        asked.append(args)
        raise UnavailableError("down")

    async def hangs(*args, **options):
        asked.append(args)
        await asyncio.sleep(3600)

    store, reads = keys._store, keys._store.events
    for broken in (fails, hangs):
        monkeypatch.setattr(store, "events", broken)
        keys._grace._paused_until = 0.0
        for _ in range(3):
            answer = await ask(app, path="/value", headers=bearer(token))
            assert answer.status == 200
            assert b"sunset" in dict(answer.headers)
            assert b"deprecation" not in dict(answer.headers)
    assert len(asked) == 2
    keys._grace._paused_until = 0.0
    monkeypatch.setattr(store, "events", reads)
    answer = await ask(app, path="/value", headers=bearer(token))
    assert b"deprecation" in dict(answer.headers)
    monkeypatch.setattr(store, "events", fails)
    answer = await ask(app, path="/value", headers=bearer(token))
    assert b"deprecation" in dict(answer.headers)


async def test_a_shortened_audit_trail_is_asked_once(keys, clock, monkeypatch):
    """What is not there any more is no reason for a query with each request."""
    token, _ = await in_grace(keys, clock)
    asked = []

    async def nothing(*args, **options):
        asked.append(args)
        return []

    monkeypatch.setattr(keys._store, "events", nothing)
    key = await keys.verify(token)
    for _ in range(3):
        assert list(await keys.grace_headers(key)) == ["Sunset"]
    assert len(asked) == 1


async def test_many_keys_in_grace_take_little_memory(keys, clock):
    """The oldest make room."""
    key, _ = await in_grace(keys, clock)
    found = await keys.verify(key)
    await keys.grace_headers(found)
    keys._grace._known |= {str(number): clock.now for number in range(1023)}
    token, _ = await in_grace(keys, clock)
    assert "Deprecation" in await keys.grace_headers(await keys.verify(token))
    assert len(keys._grace._known) == 1024
    assert found.id not in keys._grace._known
    assert "Deprecation" in await keys.grace_headers(found)


async def test_the_dependency_can_be_called_by_hand(keys, clock):
    """As ever, without an answer to put anything on."""
    from fastapi.security import SecurityScopes

    token, _ = await in_grace(keys, clock)
    request = Request({"type": "http", "headers": bearer(token)})
    key = await APIKeyAuth(keys)(request, SecurityScopes())
    assert key.successor is not None
