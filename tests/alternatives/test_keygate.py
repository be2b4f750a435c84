"""fastapi-keygate's column of the README's table beside other libraries."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from claims import Claims, bearer, mistyped, rows, statements, tables
from fastapi import Depends, FastAPI
from keygate import ApiKey, AsyncKeyGate

pytestmark = pytest.mark.anyio

shows = Claims("fastapi-keygate")


@pytest.fixture
async def gates(path) -> AsyncIterator[tuple[AsyncKeyGate, AsyncKeyGate]]:
    """Two processes that use fastapi-keygate, with the same keys."""
    both = [AsyncKeyGate(db_url=f"sqlite+aiosqlite:///{path}") for _ in range(2)]
    yield both[0], both[1]
    for gate in both:
        await gate.aclose()


def gated(gate: AsyncKeyGate) -> FastAPI:
    """An application with routes that need a key."""
    app = FastAPI()
    gate.install(app)

    @app.get("/")
    async def items(key: ApiKey = Depends(gate.require)) -> str:  # noqa: B008, FAST002 - as there
        return key.name

    @app.get("/scoped", dependencies=[Depends(gate.require_scopes("b"))])
    async def scoped() -> str:
        return "items"

    return app


@shows("what is stored of a key", "SHA-256")
async def test_keygate_stores_a_plain_hash(gates, path):
    """Of the token alone."""
    token = (await gates[0].create_key("u1")).key
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert rows(path, "SELECT key_hash FROM keygate_keys") == [(digest,)]


@shows("scopes", "yes")
@shows("limits the rate of a key", "yes")
async def test_keygate_has_scopes_and_rate_limits(gates, ask):
    """A key without the scope is answered 403, and one after its only request 429."""
    app = gated(gates[0])
    lacking = (await gates[0].create_key("u1", scopes=["a"])).key
    having = (await gates[0].create_key("u1", scopes=["b"], per_hour=1)).key
    assert (await ask(app, bearer(lacking), path="/scoped")).status == 403
    for status in (200, 429):
        assert (await ask(app, bearer(having), path="/scoped")).status == status


@shows("a key is replaced with an overlap", "yes")
@shows("a key that was switched off can be switched on again", "no")
@shows("a key revoked in one process, in another that has used it", "refused")
async def test_keygate_rotates_and_revokes(gates, ask):
    """Both keys open during the grace; a revoked one can be changed no more."""
    gate, elsewhere = gates
    app = gated(gate)
    old = await gate.create_key("u1", name="ci")
    new = await gate.rotate(old.id, timedelta(days=1))
    for key in (old, new):
        assert (await ask(app, bearer(key.key))).status == 200
    assert await elsewhere.revoke(new.id)
    assert (await ask(app, bearer(new.key))).status == 401
    assert await gate.update_key(new.id, expires_at=None) is None
    assert (await ask(app, bearer(new.key))).status == 401


@shows("queries of a second request with a key", "1 read and 1 write")
@shows("queries of a mistyped key", "1")
async def test_keygate_writes_with_each_request(gates, ask):
    """A row of usage."""
    app = gated(gates[0])
    token = (await gates[0].create_key("u1", name="ci")).key
    assert (await ask(app, bearer(token))).status == 200
    with statements() as counts:
        assert (await ask(app, bearer(token))).status == 200
    assert counts == {"read": 1, "write": 1}
    with statements() as counts:
        assert (await ask(app, bearer(mistyped(token)))).status == 401
    assert counts == {"read": 1}


@shows("a header that stands twice, with two keys", "the first one counts")
async def test_keygate_takes_the_first_key(gates, ask):
    """Whichever that is."""
    app = gated(gates[0])
    tokens = [(await gates[0].create_key("u1", name=name)).key for name in ("one", "two")]
    assert (await ask(app, bearer(*tokens))).body == b'"one"'
    assert (await ask(app, bearer(*reversed(tokens)))).body == b'"two"'


@shows("routes that manage keys", "behind an admin secret")
@shows("who changed a key is recorded", "no")
async def test_keygate_has_routes_behind_a_secret(gates, path, ask):
    """What is done there to a key leaves no row that tells of it."""
    gate = gates[0]
    gate.admin_secret = "admin"
    app = gated(gate)
    key = await gate.create_key("u1", name="ci")
    one = {"path": f"/keygate/keys/{key.id}", "method": "DELETE"}
    assert (await ask(app, **one)).status == 403
    assert (await ask(app, [(b"x-admin-secret", b"admin")], **one)).status == 204
    assert tables(path) == {"keygate_keys", "keygate_owners", "keygate_usage"}
    assert rows(path, "SELECT * FROM keygate_owners UNION SELECT * FROM keygate_usage") == []


def test_the_column_says_what_these_tests_show():
    """Of the version that is installed, and nothing else."""
    assert shows.cells == shows.column()
