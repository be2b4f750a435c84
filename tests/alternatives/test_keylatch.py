"""keylatch's column of the README's table beside other libraries."""

import inspect
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated

import pytest
from claims import Claims, bearer, mistyped, rows, statements
from fastapi import FastAPI, Security
from subject import SILENT, as_elsewhere

from keylatch import APIKey, APIKeys, Hasher, RateLimit, SecretRing
from keylatch.errors import ConfigurationError, KeyStateError, RevokedKeyError
from keylatch.fastapi import APIKeyAuth, keys_router

pytestmark = pytest.mark.anyio

shows = Claims("keylatch")


@pytest.fixture
async def keys(path, secret) -> AsyncIterator[APIKeys]:
    """A started collection."""
    async with APIKeys(
        f"sqlite+aiosqlite:///{path}", prefix="acme_live", secret=secret, **SILENT
    ) as keys:
        yield keys


@pytest.fixture
def ours(keys) -> FastAPI:
    """An application with routes that need a key, and routes that manage keys."""
    auth = APIKeyAuth(keys)
    app = FastAPI()
    app.include_router(keys_router(auth), prefix="/api-keys")

    @app.get("/")
    async def items(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.name

    @app.get("/scoped")
    async def scoped(key: Annotated[APIKey, Security(auth, scopes=["b"])]) -> str:
        return key.name

    return app


@shows("what is stored of a key", "HMAC-SHA-256 under a server secret, which has no default")
async def test_keylatch_stores_a_keyed_hash(keys, path, secret, monkeypatch):
    """Another secret of the same kid does not verify it, and without one nothing starts."""
    token = (await keys.create(name="ci")).token
    ((stored,),) = rows(path, "SELECT hash FROM api_keys")
    assert stored.startswith("$hmac-sha256$")
    assert Hasher(SecretRing(secret)).verify(token, stored)
    assert not Hasher(SecretRing(SecretRing.generate())).verify(token, stored)
    monkeypatch.delenv("KEYLATCH_SECRET", raising=False)
    with pytest.raises(ConfigurationError):
        APIKeys(f"sqlite+aiosqlite:///{path}", prefix="acme_live")


@shows("scopes", "yes")
async def test_keylatch_has_scopes(keys, ours, ask):
    """A key without the scope is answered 403, and one with it 200."""
    for scope, status in (("a", 403), ("b", 200)):
        token = (await keys.create(name="ci", scopes=[scope])).token
        assert (await ask(ours, bearer(token), path="/scoped")).status == status


@shows("limits the rate of a key", "yes")
async def test_keylatch_limits_the_rate_of_a_key(keys, ask):
    """A key is answered 429 after its only request, and another one is not."""
    auth = APIKeyAuth(keys, rate_limit=RateLimit(1, per=timedelta(hours=1)))
    app = FastAPI()
    app.get("/", dependencies=[Security(auth)])(lambda: "items")
    for token in [(await keys.create(name="ci")).token for _ in range(2)]:
        for status in (200, 429):
            assert (await ask(app, bearer(token))).status == status


@shows("a key is replaced with an overlap", "yes")
@shows("a key that was switched off can be switched on again", "no")
@shows("who changed a key is recorded", "yes")
async def test_keylatch_rotates_and_revokes_and_tells_who_did(keys):
    """Both keys open during the grace; a revoked one can be changed no more."""
    old = await keys.create(name="ci")
    new = await keys.rotate(old.key.id, grace=timedelta(days=1))
    for token in (old.token, new.token):
        await keys.verify(token)
    await keys.revoke(new.key.id, actor="ops")
    with pytest.raises(KeyStateError):
        await keys.update(new.key.id, expires_at=None)
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)
    assert [(e.action, e.actor) for e in await keys.events(new.key.id)][-1] == ("revoked", "ops")


@shows(
    "a key revoked in one process, in another that has used it",
    "accepted until its next look, once a second",
)
async def test_keylatch_hears_of_a_revocation(keys, path, secret):
    """It goes on with what it has cached until it looks."""
    new = await keys.create(name="ci")
    url = f"sqlite+aiosqlite:///{path}"
    async with APIKeys(url, prefix="acme_live", secret=secret, **SILENT) as other:
        as_elsewhere(other)
        await other.verify(new.token)
        await keys.revoke(new.key.id)
        await other.verify(new.token)
        await other._feed.once()
        with pytest.raises(RevokedKeyError):
            await other.verify(new.token)
    assert inspect.signature(APIKeys).parameters["poll_interval"].default == 1


@shows("queries of a second request with a key", "none; uses are written in batches")
@shows("queries of a mistyped key", "none")
async def test_keylatch_asks_the_database_nothing(keys, ours, ask):
    """Neither for a key that it knows, nor for one whose checksum is wrong."""
    new = await keys.create(name="ci")
    await ask(ours, bearer(new.token))
    with statements() as counts:
        for _ in range(9):
            assert (await ask(ours, bearer(new.token))).status == 200
        assert (await ask(ours, bearer(mistyped(new.token)))).status == 401
    assert counts == {}
    with statements() as counts:
        await keys.flush()
    assert counts["write"] == 2  # one to lock, and one for all uses
    assert (await keys.get(new.key.id)).use_count == 10


@shows("a header that stands twice, with two keys", "refused with 400")
@shows("routes that manage keys", "protected by keys")
async def test_keylatch_refuses_two_keys_and_none(keys, ours, ask):
    """Two at any route, and none at those that manage keys."""
    one, two = [(await keys.create(name=name)).token for name in ("one", "two")]
    assert (await ask(ours, bearer(one, two))).status == 400
    manages = (await keys.create(name="ops", owner="u1", scopes=["keys:write"])).token
    made = {"path": "/api-keys", "method": "POST", "body": b'{"name": "ci"}'}
    json = [(b"content-type", b"application/json")]
    for headers, status in (([], 401), (bearer(one), 403), (bearer(manages), 201)):
        assert (await ask(ours, [*json, *headers], **made)).status == status


def test_the_column_says_what_these_tests_show():
    """Of the version that is installed, and nothing else."""
    assert shows.cells == shows.column()
