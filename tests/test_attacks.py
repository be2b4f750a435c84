"""What an attacker, or an engineer in a hurry, tried against keylatch, and what came of it."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Security
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

import keylatch
from keylatch import APIKey, APIKeys, Hasher, Page, SecretRing, Token
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore
from keylatch.records import Change, KeyEvent, KeyRecord

pytestmark = pytest.mark.anyio

JSON = [(b"content-type", b"application/json")]
FORGED = {
    "id": "0123456789abcdef",
    "prefix": "acme_live",
    "name": "ci",
    "owner": "root",
    "scopes": ["admin"],
    "metadata": {},
    "created_at": "2026-01-01T00:00:00Z",
}


async def test_a_forgotten_security_lets_nobody_say_who_they_are(keys, ask):
    """A parameter that is only annotated as a key is never read out of the request's body."""
    app, auth = FastAPI(), APIKeyAuth(keys)

    @app.post("/bare")
    async def bare(key: APIKey) -> str | None:
        return key.owner

    @app.post("/annotated")
    async def annotated(key: Annotated[APIKey, auth], name: str = "") -> str | None:
        return key.owner

    @app.post("/nested")
    async def nested(keys: list[APIKey]) -> str | None:
        return keys[0].owner

    for path, body in (("/bare", FORGED), ("/annotated", FORGED), ("/nested", [FORGED])):
        answer = await ask(app, JSON, path=path, method="POST", body=json.dumps(body).encode())
        assert answer.status == 422
        assert b"a key comes from Security(auth)" in answer.body


async def test_routes_still_answer_with_keys_and_document_them(keys, ask):
    """Keys go out as JSON, alone and in pages, and the OpenAPI document shows their fields."""
    app, auth = FastAPI(), APIKeyAuth(keys)

    @app.get("/")
    async def one(key: Annotated[APIKey, Security(auth)]) -> APIKey:
        return key

    @app.get("/page")
    async def page() -> Page:
        return await keys.list()

    new = await keys.create(name="ci", scopes=["a"])
    answer = json.loads((await ask(app, [(b"x-api-key", new.token.encode())])).body)
    assert (answer["id"], answer["scopes"]) == (new.key.id, ["a"])
    assert json.loads((await ask(app, path="/page")).body)["items"] == [answer]
    document = json.loads((await ask(app, path="/openapi.json")).body)
    assert document["components"]["schemas"]["APIKey"]["properties"].keys() == answer.keys()


@pytest.mark.parametrize("name", ["{secret}", "{secret},{secret}", "{bare}", " {secret}\n"])
def test_a_secret_passed_for_the_name_of_a_variable_is_not_echoed(secret, name):
    """SecretRing.from_env(os.environ["KEYLATCH_SECRET"]) fails without saying the secret."""
    bare = secret.split(":")[1]
    with pytest.raises(ConfigurationError, match=r"keylatch secret|not its value") as refused:
        SecretRing.from_env(name.format(secret=secret, bare=bare))
    assert bare not in str(refused.value)


def test_the_name_of_a_variable_that_is_not_set_is_told():
    """A name as variables have it is safe to say, and worth it."""
    with pytest.raises(ConfigurationError, match="variable ACME_SECRET_2 is not set"):
        SecretRing.from_env("ACME_SECRET_2")


def nested(levels: int) -> dict[str, Any]:
    """An object of that many levels."""
    value: Any = ']}[{\\"'
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize("levels", [17, 33, 400, 970, 2000])
async def test_metadata_too_deep_to_be_read_again_is_not_stored(keys, levels):
    """One row that only a shallow stack could read would break verify and every list."""
    with pytest.raises(ValueError, match="metadata must be"):
        await keys.create(name="ci", metadata=nested(levels))
    assert (await keys.list()).items == []


async def test_metadata_of_16_levels_is_stored(keys):
    """Brackets in its texts do not count, and the audit trail holds it twice."""
    new = await keys.create(name="ci", metadata=nested(16))
    assert (await keys.verify(new.token)).metadata == nested(16)
    changed = nested(16) | {"b": 1}
    await keys.update(new.key.id, metadata=changed)
    assert (await keys.events(new.key.id))[1].details["metadata"]["to"] == changed


async def test_an_engine_without_transactions_is_refused(tmp_path, secret):
    """In AUTOCOMMIT a key would be written, or revoked, and its event could be lost."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", isolation_level="AUTOCOMMIT"
    )
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        async with APIKeys(engine, prefix="acme", secret=secret):
            pass
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        await APIKeys(engine, prefix="acme", secret=secret).create(name="ci")
    await engine.dispose()


async def test_an_engine_that_begins_by_itself_is_accepted(tmp_path, secret):
    """SQLAlchemy's own recipe for SQLite turns the driver's transactions off, and emits BEGIN."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")

    @sa.event.listens_for(engine.sync_engine, "connect")
    def connect(connection, _record) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection) -> None:
        connection.exec_driver_sql("BEGIN")

    async with APIKeys(engine, prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci")
        assert (await keys.revoke(new.key.id)).revoked_at
    await engine.dispose()


def test_an_engine_of_one_shared_connection_is_refused(tmp_path, secret):
    """In a StaticPool a request that ends rolls back the revocation that another one makes."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}"
    with pytest.raises(ConfigurationError, match="StaticPool"):
        APIKeys(create_async_engine(url, poolclass=StaticPool), prefix="acme", secret=secret)


class ForgetfulStore(MemoryStore):
    """A store that loses revocations, as one that writes to a replica would."""

    async def change(self, key_id, decide, *, connection=None) -> Change:
        """Says that it did."""
        return decide(await self.load(key_id))


async def test_a_lost_revocation_is_an_error(secret):
    """Revoke never returns while the key goes on working."""
    async with APIKeys(ForgetfulStore(), prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci")
        with pytest.raises(UnavailableError, match="revoke it again"):
            await keys.revoke(new.key.id)


class ClosedStore(MemoryStore):
    """A store whose database is down."""

    async def open(self) -> None:
        """Fails."""
        raise UnavailableError("connection refused")


async def test_one_warning_says_that_nothing_was_started(secret, caplog):
    """Even while the database is down, and each request tries to open it."""
    keys = APIKeys(ClosedStore(), prefix="acme", secret=secret)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await keys.list()
    warnings = [record for record in caplog.records if "lifespan" in record.getMessage()]
    assert len(warnings) == 1


def assert_absent_from_locals(error: BaseException | None, text: str) -> None:
    """Fails if a traceback with locals would show the text, in a frame of ours or behind it."""
    while error is not None:
        ours = False
        for frame, _ in traceback.walk_tb(error.__traceback__):
            ours |= frame.f_code.co_filename.startswith(str(Path(keylatch.__file__).parent))
            assert not (ours and text in repr(frame.f_locals)), frame.f_code.co_qualname
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("scheme", ["hmac-sha256", "argon2id"])
async def test_a_hash_that_cannot_be_verified_shows_in_no_traceback(store, secret, clock, scheme):
    """A missing server secret is a 503, which error trackers record with the locals."""
    other = SecretRing(SecretRing.generate("k2"))
    token = Token.mint("acme", other)
    stored = Hasher(other, scheme=scheme, memory_kib=7168, iterations=1).hash(token)
    key = APIKey(
        id=token.key_id,
        prefix="acme",
        name="ci",
        owner=None,
        scopes=frozenset(),
        metadata={},
        created_at=clock.now,
    )
    event = KeyEvent(key_id=key.id, at=clock.now, action="created", actor=None, details={})
    async with APIKeys(store, prefix="acme", secret=secret) as keys:
        await store.insert([(KeyRecord(key, stored), event)])
        with pytest.raises(UnavailableError, match="server secret k2") as refused:
            await keys.verify(token)
    assert_absent_from_locals(refused.value, stored[-20:])


async def test_a_damaged_row_shows_no_hash(tmp_path, secret):
    """What cannot be read is reported without what could be read of it."""
    async with APIKeys(
        f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", prefix="acme", secret=secret
    ) as keys:
        new = await keys.create(name="ci", owner="u1")
        stored = (await keys._store.load(new.key.id)).hash
        async with keys._store._database.engine.begin() as connection:
            await connection.execute(sa.text("UPDATE api_keys SET scopes = '{}'"))
        for call in (
            keys.verify(new.token),
            keys.revoke(new.key.id),
            keys.revoke_all(owner="u1"),
        ):
            with pytest.raises(UnavailableError, match="damaged") as refused:
                await call
            error = refused.value
            error.__context__ = None  # suppressed: nobody shows it
            assert_absent_from_locals(error, stored[-20:])


FORK = """
import asyncio, os, signal, sys
from keylatch import APIKeys

keys = APIKeys(sys.argv[1], prefix="acme")
new = asyncio.run(keys.create(name="ci"))

async def child():
    await keys.verify(new.token)
    await keys.create(name="made in the child")
    await keys._store.close()

process = os.fork()
if process == 0:
    signal.alarm(20)  # instead of hanging for ever
    asyncio.run(child())
    os._exit(0)
_, status = os.waitpid(process, 0)
assert status == 0, status
assert len(asyncio.run(keys.list()).items) == 2
asyncio.run(keys._store.close())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_worker_does_not_wait_for_its_parents_connections(tmp_path, secret):
    """Keys used before a server forks its workers go on working, in them and in the parent."""
    command = [sys.executable, "-c", FORK, f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}"]
    environment = os.environ | {"KEYLATCH_SECRET": secret}
    subprocess.run(command, env=environment, check=True, timeout=60)


@pytest.mark.parametrize("headers", ["X-Key", "Key", "X-API-Key"])
async def test_one_header_name_is_no_list_of_letters(keys, headers):
    """A bare text would make each of its letters a header that carries tokens."""
    with pytest.raises(ConfigurationError, match="list of names"):
        APIKeyAuth(keys, headers=headers)


@pytest.mark.parametrize("cursor", [7, b"", ["a"]])
async def test_a_cursor_of_another_type_is_a_type_error(keys, cursor):
    """As for every other value that callers pass in."""
    with pytest.raises(TypeError, match="cursor must be a str"):
        await keys.list(cursor=cursor)
