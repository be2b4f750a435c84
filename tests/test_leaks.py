"""Neither a token nor a server secret shows anywhere, while errors are forced everywhere."""

import contextlib
import copy
import json
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest
import rich.pretty
import sqlalchemy as sa
from canaries import PACKAGE, Canaries, WatchedHasher, pickled
from fastapi import FastAPI, Security

from keylatch import APIKey, APIKeys, Hasher, SecretRing, Token, parse
from keylatch.fastapi import APIKeyAuth
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def canaries(secret: str) -> Canaries:
    """The server secret to begin with."""
    return Canaries(secret)


@pytest.fixture
async def keys(tmp_path: Path, secret: str, clock, canaries: Canaries):
    """A collection with a key, in a SQLite file."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}"
    async with APIKeys(url, prefix="acme_live", secret=secret, clock=clock) as keys:
        canaries.add((await keys.create(name="ci", owner="u1", scopes=["a"])).token)
        yield keys


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that any logger says, down to DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)  # until the test ends
    return lambda: caplog.text + "".join(repr(vars(record)) for record in caplog.records)


async def breaking_calls(keys: APIKeys, canaries: Canaries, clock) -> list[Callable]:
    """Calls that each fail with a canary in reach."""
    revoked, expired = (
        await keys.create(name="r"),
        await keys.create(name="e", expires_in=timedelta(hours=1)),
    )
    await keys.revoke(revoked.key.id)
    clock.advance(hours=2)
    for new in (revoked, expired):
        canaries.add(new.token)
    hasher = Hasher(SecretRing(SecretRing.generate("other")))
    stored = keys._hasher.hash(canaries.token())
    return [
        lambda: keys.verify(canaries.mistyped()),
        lambda: keys.verify(canaries.token() + "\ud800"),
        lambda: keys.verify(canaries.token().encode()),
        lambda: keys.verify(Token.mint("acme_live", keys._ring)),
        lambda: keys.verify(canaries.token(1)),
        lambda: keys.verify(canaries.token(2)),
        lambda: keys.verify(canaries.token(0), scopes=["b"]),
        lambda: keys.verify(canaries.token(0), scopes=["b b"]),
        lambda: keys.get(canaries.token()),
        lambda: keys.revoke(canaries.token()),
        lambda: keys.events(canaries.token()),
        lambda: APIKeys(keys._store, prefix="acme", secret=bare_secret(canaries)),
        lambda: APIKeys(keys._store, prefix="acme", secret=f"k1:{bare_secret(canaries)}?"),
        lambda: APIKeys(object(), prefix="acme", secret=f"k1:{bare_secret(canaries)}"),
        lambda: APIKeys(keys._store, prefix="a-b", secret=f"k1:{bare_secret(canaries)}"),
        lambda: SecretRing(f"K1:{bare_secret(canaries)}"),
        lambda: SecretRing(f"k1:{bare_secret(canaries)},k1:{bare_secret(canaries)}"),
        lambda: SecretRing(f"k1:{bare_secret(canaries)}\ud800"),
        lambda: parse(canaries.mistyped()),
        lambda: parse(canaries.token() + "\ud800"),
        lambda: hasher.hash(canaries.token() + "\ud800"),
        lambda: hasher.verify(canaries.token(), stored),
        lambda: hasher.verify(canaries.token(), canaries.token()),
    ]


def bare_secret(canaries: Canaries) -> str:
    """The canary of the server secret, without its kid."""
    return next(iter(canaries._texts - {t.rsplit("_", 1)[1][:43] for t in canaries._tokens}))


async def forced(call: Callable) -> BaseException:
    """The error that a call raises."""
    try:
        result = call()
        if hasattr(result, "__await__"):
            await result
    except Exception as error:  # noqa: BLE001 - any error is what is asked for
        return error
    pytest.fail("the call did not fail")


async def test_no_error_shows_a_canary(keys, canaries, clock, logs):
    """Refusals, misuse and wrong setups: no message, attribute, pickle, traceback or log."""
    for call in await breaking_calls(keys, canaries, clock):
        canaries.assert_absent_from_error(await forced(call))
    canaries.assert_absent("the logs", logs())


@pytest.mark.parametrize("fault", ["DROP TABLE api_keys", "DROP TABLE api_key_events"])
async def test_no_database_error_shows_a_canary(keys, canaries, clock, logs, fault):
    """The database breaks under every call: the same holds, for the key being made too."""
    minted = []
    keys._hasher = WatchedHasher(keys._hasher, minted)
    async with keys._store._database.engine.begin() as connection:
        await connection.execute(sa.text(fault))
    calls = [
        lambda: keys.create(name="ci"),
        lambda: keys.verify(canaries.token()),
        lambda: keys.revoke(canaries.token().split("_")[2]),
        lambda: keys.events(canaries.token().split("_")[2]),
    ]
    failed = 0
    for call in calls:
        with contextlib.suppress(pytest.fail.Exception):
            error = await forced(call)
            failed += 1
            for token in minted:
                canaries.add(token.reveal())
            canaries.assert_absent_from_error(error)
    assert failed >= 3
    assert minted
    canaries.assert_absent("the logs", logs())


async def test_an_unexpected_error_shows_no_canary(keys, canaries, logs, ask, monkeypatch):
    """A bug in a store passes through our frames, which still hold nothing worth stealing."""
    app = FastAPI()

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(APIKeyAuth(keys))]) -> str:
        return key.id

    async def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    for name in ("load", "insert", "change", "events"):
        monkeypatch.setattr(keys._store, name, bug)
    for call in (lambda: keys.verify(canaries.token()), lambda: keys.create(name="ci")):
        canaries.assert_absent_from_error(await forced(call))
    error = await forced(
        lambda: ask(app, [(b"authorization", f"Bearer {canaries.token()}".encode())])
    )
    seen = 0
    # Starlette's own frames hold the request's headers; that is not ours to change.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(PACKAGE):
            seen += 1
            canaries.assert_absent(frame.f_code.co_qualname, repr(frame.f_locals))
    assert seen
    canaries.assert_absent("the logs", logs())


async def test_no_object_shows_a_canary(keys, canaries):
    """No repr, format, pretty-print, copy or pickle of anything that holds a secret shows it."""
    new = await keys.create(name="ci")
    canaries.add(new.token)
    token = parse(new.token)
    auth = APIKeyAuth(keys)
    ring = keys._ring
    record = await keys._store.load(new.key.id)
    objects = [new, token, ring, keys, auth, keys._hasher, record, new.key, keys._store]
    for value in [*objects, objects, {"nested": objects}]:
        for text in (repr(value), str(value), f"{value}", rich.pretty.pretty_repr(value)):
            canaries.assert_absent(type(value).__name__, text)
        canaries.assert_absent(f"the pickle of {type(value).__name__}", pickled(value))
    for value in (new, token, ring, keys._hasher):
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                copying(value)


async def test_no_hash_is_shown_either(keys):
    """A stored hash stays in the database: no repr shows it."""
    record = await keys._store.load((await keys.create(name="ci")).key.id)
    assert record.hash not in repr(record)


async def test_no_database_file_holds_a_canary(keys, canaries, tmp_path):
    """What is on disk yields no token: neither the file nor its log and shared memory."""
    for number in range(20):
        canaries.add((await keys.create(name=str(number), metadata={"n": number})).token)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert b"$hmac-sha256$" in content
    canaries.assert_absent("the database's files", content)


async def test_no_openapi_document_holds_a_canary(keys, canaries, ask):
    """The document shows the scheme, and no default or example out of real life."""
    app = FastAPI()

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(APIKeyAuth(keys))]) -> APIKey:
        return key

    answer = await ask(app, path="/openapi.json")
    assert json.loads(answer.body)["components"]["securitySchemes"]
    canaries.assert_absent("the OpenAPI document", answer.body)
    answer = await ask(app, [(b"x-api-key", canaries.token().encode())])
    assert answer.status == 200
    canaries.assert_absent("a key as JSON", answer.body)


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://u:{}@db/x",
        "postgresql+pg8000://u:{}@db/x",
        "u:{}@db",
        "postgresql+asyncpg://u:{}",
        "postgresql+asyncpg://u:p@ss:{}@db/x",
        "sqlite+aiosqlite:///x?timeout={}",
        "sqlite+nosuch://u:{}@/x",
    ],
)
async def test_the_password_of_a_database_shows_nowhere(canaries, secret, url):
    """A URL that cannot be used is refused without being shown."""
    password = os.urandom(20).hex()
    canaries.add(f"x_{password}")
    hidden, ring = [url.format(password)], SecretRing(secret)
    canaries.assert_absent_from_error(
        await forced(lambda: APIKeys(hidden.pop(), prefix="acme", secret=ring))
    )


async def test_an_engine_of_ours_hides_parameters(tmp_path):
    """Even SQLAlchemy's echo shows no stored hash on an engine that was made here."""
    store = SQLAlchemyStore(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")
    assert store._database.engine.sync_engine.hide_parameters
