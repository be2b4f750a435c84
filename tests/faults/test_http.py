"""What clients of an application are answered while its database fails, and after it."""

import asyncio
import json
import runpy
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import FastAPI, Security
from proxy import Proxy
from subject import SERVERS, holding, nothing_written, tell

from keylatch import APIKey
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, unavailable_error_handler

pytestmark = pytest.mark.anyio

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "app.py"


def application(keys):
    """An application whose routes verify keys and make them."""
    app = FastAPI()
    app.add_exception_handler(UnavailableError, unavailable_error_handler)

    @app.get("/")
    async def protected(key: Annotated[APIKey, Security(APIKeyAuth(keys))]) -> str:
        return key.id

    @app.post("/keys")
    async def create() -> str:
        return (await keys.create(name="new")).key.id

    @app.delete("/keys/{key_id}")
    async def revoke(key_id: str) -> None:
        await keys.revoke(key_id)

    return app


async def answers(ask, keys):
    """What each route answers, all of them asked at once."""
    app = application(keys.keys)
    header = [(b"x-api-key", keys.made["get"].token.encode())]
    revoked = keys.made["revoke"].key.id
    return await asyncio.gather(
        ask(app, header),
        ask(app, path="/keys", method="POST"),
        ask(app, path=f"/keys/{revoked}", method="DELETE"),
    )


def assert_unavailable(replies):
    """503, when to come back, and nothing of what is behind it."""
    for reply in replies:
        assert reply.status == 503
        assert int(reply.header("retry-after")) >= 1
        assert json.loads(reply.body) == {"detail": UnavailableError.public_text}
    assert len({(tuple(reply.headers), reply.body) for reply in replies}) == 1


async def test_a_database_that_does_not_answer(url, subject, ask):
    """Routes that verify a key and routes that make one answer alike, and work again."""
    async with subject(url) as keys:
        with nothing_written(keys):
            with holding(url, "tables"):
                assert_unavailable(await answers(ask, keys))
            await keys.lets_go()
        with keys.patience():
            assert [reply.status for reply in await answers(ask, keys)] == [200, 200, 200]


@pytest.mark.parametrize("engine_name", SERVERS)
async def test_a_database_that_is_down(url, subject, ask):
    """The same when the server is gone."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            proxy.refuse()
            proxy.cut()
            assert_unavailable(await answers(ask, keys))
            proxy.forward()
            with keys.patience():
                assert [reply.status for reply in await answers(ask, keys)] == [200, 200, 200]


@pytest.mark.parametrize("engine_name", ["sqlite-async"])
async def test_the_demo_answers_so(url, secret, ask, monkeypatch):
    """Its route that makes keys is told of the handler."""
    monkeypatch.setenv("DEMO_DATABASE", url)
    monkeypatch.setenv("KEYLATCH_SECRET", secret)
    demo = runpy.run_path(str(DEMO))
    async with demo["keys"] as keys:
        header = [
            (b"x-api-key", (await keys.create(name="a", scopes=["keys:write"])).token.encode()),
            (b"content-type", b"application/json"),
        ]
        wanted = {"path": "/keys", "method": "POST", "body": b'{"name": "b", "scopes": []}'}
        tell(
            url,
            "CREATE TRIGGER fill BEFORE INSERT ON api_key_events"
            " BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        assert_unavailable([await ask(demo["app"], header, **wanted)])
        tell(url, "DROP TRIGGER fill")
        assert (await ask(demo["app"], header, **wanted)).status == 201


async def test_the_handler_takes_no_other_error(ask):
    """Registered for too much, it lets everything else pass."""
    app = FastAPI()
    app.add_exception_handler(ValueError, unavailable_error_handler)

    @app.get("/")
    async def route() -> None:
        raise ValueError("of the host's own")

    with pytest.raises(ValueError, match="of the host's own"):
        await ask(app)
