"""Bad input and bad surroundings: a clear error that says what to do, and nothing half-written."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine
from subject import as_elsewhere

from keylatch import APIKeys, SecretRing
from keylatch.errors import (
    ConfigurationError,
    KeylatchError,
    RevokedKeyError,
    UnavailableError,
)
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - a naive one is the point

BAD_VALUES = [
    ({"expires_at": NAIVE}, ValueError, "aware"),
    ({"expires_at": datetime(2025, 12, 31, tzinfo=UTC)}, ValueError, "future"),
    ({"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, ValueError, "future"),
    (
        {"expires_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
        ValueError,
        "year",
    ),
    ({"expires_at": datetime(9999, 1, 1, tzinfo=UTC)}, ValueError, "9999"),
    ({"expires_at": "2030-01-01"}, TypeError, "datetime"),
    ({"expires_in": timedelta(0)}, ValueError, "future"),
    ({"expires_in": timedelta(seconds=-1)}, ValueError, "future"),
    ({"expires_in": timedelta.max}, ValueError, "year"),
    ({"expires_in": 3600}, TypeError, "timedelta"),
    (
        {"expires_in": timedelta(1), "expires_at": datetime(2030, 1, 1, tzinfo=UTC)},
        ValueError,
        "not both",
    ),
    ({"scopes": [""]}, ValueError, "1 to 64"),
    ({"scopes": ["a b"]}, ValueError, "1 to 64"),
    ({"scopes": [":a"]}, ValueError, "begins"),
    ({"scopes": ["a\n"]}, ValueError, "1 to 64"),
    ({"scopes": ["é"]}, ValueError, "letters"),
    ({"scopes": ["a" * 65]}, ValueError, "1 to 64"),
    ({"scopes": [f"s{number}" for number in range(65)]}, ValueError, "at most 64"),
    ({"scopes": "items:read"}, TypeError, "list"),
    ({"scopes": [7]}, TypeError, "str"),
    ({"owner": "a" * 1_000_000}, ValueError, "255"),
    ({"owner": ""}, ValueError, "1 to 255"),
    ({"owner": "a\x00b"}, ValueError, "control"),
    ({"owner": "a\u2028b"}, ValueError, "line breaks"),
    ({"owner": "\ud800"}, ValueError, "surrogates"),
    ({"owner": 7}, TypeError, "str"),
    ({"name": ""}, ValueError, "1 to 255"),
    ({"name": "a" * 256}, ValueError, "255"),
    ({"name": None}, TypeError, "str"),
    ({"actor": "a\x1b[31m"}, ValueError, "control"),
    ({"metadata": {"a": "b" * 8192}}, ValueError, "8192"),
    ({"metadata": {"a": float("nan")}}, ValueError, "finite"),
    ({"metadata": {"a": object()}}, ValueError, "JSON"),
    ({"metadata": {"a": "\ud800"}}, ValueError, "JSON"),
    ({"metadata": ["a"]}, TypeError, "dict"),
]


@pytest.mark.parametrize(("values", "error", "text"), BAD_VALUES, ids=lambda value: str(value)[:40])
async def test_create_refuses_bad_values_and_writes_nothing(keys, values, error, text):
    """Each bad value is named with its bound, and no key comes of it."""
    with pytest.raises(error, match=text):
        await keys.create(**({"name": "ci"} | values))
    assert (await keys.list()).items == []


async def test_bounds_themselves_are_allowed(keys):
    """The largest of everything is stored and comes back whole."""
    metadata = {"a": "ü" * 4091 + "b"}
    assert len(json.dumps(metadata, ensure_ascii=False).encode()) == 8192
    new = await keys.create(
        name="n" * 255,
        owner="👩‍🚀" * 85,
        scopes=[f"s{number}".ljust(64, "x") for number in range(64)],
        metadata=metadata,
        actor="a" * 255,
        expires_at=datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    )
    assert await keys.get(new.key.id) == new.key
    assert (await keys.revoke(new.key.id, reason="r" * 255, actor="a" * 255)).revoked_at


@pytest.mark.parametrize(
    "values", [{"reason": ""}, {"reason": "r" * 256}, {"reason": "a\nb"}, {"actor": "a" * 256}]
)
async def test_revoke_refuses_bad_values_and_revokes_nothing(keys, values):
    """A revocation that cannot be recorded does not happen."""
    new = await keys.create(name="ci")
    with pytest.raises(ValueError, match="must"):
        await keys.revoke(new.key.id, **values)
    assert await keys.verify(new.token)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": 501}, ValueError),
        ({"limit": True}, TypeError),
        ({"limit": "9"}, TypeError),
        ({"status": "dead"}, ValueError),
        ({"owner": ""}, ValueError),
        ({"cursor": ""}, ValueError),
        ({"cursor": "\ud800"}, ValueError),
        ({"cursor": base64.urlsafe_b64encode(b"c0.\0").decode()}, ValueError),
        ({"cursor": base64.urlsafe_b64encode(b"c0.x' OR 1=1").decode()}, ValueError),
        ({"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LmE="}, ValueError),
    ],
)
async def test_list_refuses_bad_filters(keys, values, error):
    """A filter that cannot be is an error, not an empty page."""
    with pytest.raises(error):
        await keys.list(**values)


@given(cursor=st.text())
def test_no_cursor_breaks_list(cursor):
    """Any text for a cursor is a ValueError or a page."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=SecretRing.generate())
    with contextlib.suppress(ValueError):
        assert asyncio.run(keys.list(cursor=cursor)).items == []


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = {
    "owner": ANYTHING,
    "actor": ANYTHING,
    "scopes": ANYTHING | st.lists(ANYTHING),
    "metadata": ANYTHING | st.dictionaries(st.text() | st.integers(), ANYTHING),
    "expires_in": ANYTHING | st.timedeltas(),
    "expires_at": ANYTHING | st.datetimes(timezones=st.none() | st.timezones()),
}


@given(values=st.fixed_dictionaries({"name": ANYTHING}, optional=VALUES))
def test_create_raises_what_it_documents_and_nothing_else(values):
    """Whatever is passed, a key is made, or a ValueError or TypeError says why not."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=SecretRing.generate())
    with contextlib.suppress(ValueError, TypeError):
        assert asyncio.run(keys.create(**values)).token


@given(token=st.text() | st.text(alphabet="abc_01", min_size=70, max_size=100))
def test_no_token_breaks_verify(token):
    """Any text for a token is refused as a token."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=SecretRing.generate())
    with pytest.raises(KeylatchError):
        asyncio.run(keys.verify(token))


@pytest.mark.parametrize(
    "prefix", ["", "1a", "a" * 25, "a__b", "_a", "a_", "a-b", "ä", "a b", "\ud800"]
)
def test_a_prefix_outside_the_format_is_refused_at_once(secret, prefix):
    """The collection cannot be made, and the text says what a prefix is."""
    with pytest.raises(ValueError, match="a prefix is 1 to 24 letters"):
        APIKeys(MemoryStore(), prefix=prefix, secret=secret)


@pytest.mark.parametrize("value", [None, "", " ", "k1", "k1:", "k1:short", "k1:" + "A" * 43])
def test_there_is_no_default_secret(monkeypatch, value):
    """A missing, empty or weak secret is an error that says how to make one."""
    monkeypatch.delenv("KEYLATCH_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("KEYLATCH_SECRET", value)
    with pytest.raises(ConfigurationError, match="keylatch secret"):
        APIKeys(MemoryStore(), prefix="acme")


def test_the_secret_is_read_from_the_environment(monkeypatch, secret):
    """KEYLATCH_SECRET is all the configuration there is."""
    monkeypatch.setenv("KEYLATCH_SECRET", f" {secret}\n")
    assert APIKeys(MemoryStore(), prefix="acme")._ring.kids == ["k1"]


@pytest.mark.parametrize(
    ("database", "text"),
    [
        ("", "pass a URL"),
        ("not a url", "pass a URL"),
        ("nosuch://x", "no dialect"),
        ("sqlite+nosuch:///x.db", "no dialect"),
        ("mssql+pyodbc://u:hunter2@db/x", "not installed"),
        ("postgresql+pg8000://u:hunter2@db/x", "pg8000 is not installed"),
        ("sqlite://", "MemoryStore"),
        ("sqlite+aiosqlite://", "MemoryStore"),
        ("sqlite+aiosqlite:///:memory:", "MemoryStore"),
        ("sqlite+aiosqlite:///file::memory:?uri=true", "MemoryStore"),
        ("sqlite+aiosqlite:///file:x?mode=memory&cache=shared&uri=true", "MemoryStore"),
        (None, "pass a URL"),
        (7, "pass a URL"),
        (sa.create_engine("sqlite://"), "MemoryStore"),
        (create_async_engine("sqlite+aiosqlite://"), "MemoryStore"),
    ],
)
@pytest.mark.filterwarnings("ignore:Selection of the StaticPool")  # SQLAlchemy's, of mode=memory
def test_a_database_that_cannot_be_used_is_refused_at_once(secret, database, text):
    """The text says what to pass, and never echoes a URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match=text) as refused:
        APIKeys(database, prefix="acme", secret=secret)
    assert "hunter2" not in f"{refused.value!r}{refused.value.__cause__!r}"


def url(path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


async def test_an_unwritable_database_is_an_error_that_says_so(tmp_path, secret):
    """A read-only database refuses changes, stays as it was, and still verifies."""
    path = tmp_path / "keys.db"
    async with APIKeys(url(path), prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci")
    read_only = f"file:{path}?mode=ro&uri=true"
    async with APIKeys(url(read_only), prefix="acme", secret=secret) as keys:
        for change in (keys.create(name="ci"), keys.revoke(new.key.id)):
            with pytest.raises(UnavailableError, match=r"readonly.*may write to it"):
                await change
        assert await keys.verify(new.token)
        assert len((await keys.list()).items) == 1
        assert len(await keys.events(new.key.id)) == 1


async def test_a_database_that_cannot_be_opened_is_an_error_that_says_so(tmp_path, secret):
    """A path that is a directory fails at start, and at first use without a start."""
    keys = APIKeys(url(tmp_path), prefix="acme", secret=secret)
    with pytest.raises(UnavailableError, match="unable to open database file"):
        async with keys:
            pass
    with pytest.raises(UnavailableError):
        await keys.list()
    # aiosqlite lets the thread of a failed connection run on; it must not outlive the loop.
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("change", ["create", "revoke"])
async def test_a_key_and_its_event_are_written_together(tmp_path, secret, change):
    """When the event cannot be written, the change did not happen."""
    store = SQLAlchemyStore(url(tmp_path / "keys.db"))
    async with APIKeys(store, prefix="acme", secret=secret) as keys:
        new = await keys.create(name="first")
        async with store._database.engine.begin() as connection:
            await connection.execute(
                sa.text(
                    "CREATE TRIGGER full BEFORE INSERT ON api_key_events "
                    "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
                )
            )
        with pytest.raises(UnavailableError, match="disk full"):
            await (keys.create(name="ci") if change == "create" else keys.revoke(new.key.id))
        assert (await keys.list()).items == [new.key]
        assert await keys.verify(new.token) == new.key


async def test_a_row_that_the_host_refuses_is_no_duplicate(tmp_path, secret):
    """A trigger of the host's own is named as what failed, not taken for a colliding id."""
    store = SQLAlchemyStore(url(tmp_path / "keys.db"))
    async with APIKeys(store, prefix="acme", secret=secret) as keys:
        async with store._database.engine.begin() as connection:
            await connection.execute(
                sa.text(
                    "CREATE TRIGGER quota BEFORE INSERT ON api_keys "
                    "BEGIN SELECT RAISE(ABORT, 'quota reached'); END"
                )
            )
        with pytest.raises(UnavailableError, match="quota reached"):
            await keys.create(name="ci")


@pytest.mark.parametrize(
    "damage",
    [
        "scopes = '{'",
        "scopes = 'null'",
        "scopes = '\"a\"'",
        "metadata = '[1]'",
        "metadata = 'null'",
        "created_at = 'x'",
        "created_at = 7",
    ],
)
async def test_a_damaged_row_is_unavailable_and_opens_nothing(tmp_path, secret, damage):
    """What cannot be read is a doubt: neither let in, nor refused as wrong, nor a crash."""
    store = SQLAlchemyStore(url(tmp_path / "keys.db"))
    async with APIKeys(store, prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci", scopes=["a"])
        async with store._database.engine.begin() as connection:
            await connection.execute(sa.text(f"UPDATE api_keys SET {damage}"))
        for call in (keys.verify(new.token, scopes=["a"]), keys.get(new.key.id), keys.list()):
            with pytest.raises(UnavailableError, match="damaged"):
                await call


async def test_an_engine_of_the_host_is_used_and_left_open(tmp_path, secret):
    """An AsyncEngine stays the caller's: keylatch neither changes nor disposes of it."""
    engine = create_async_engine(url(tmp_path / "host.db"))
    async with APIKeys(engine, prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci")
    async with engine.connect() as connection:
        count = await connection.scalar(sa.text("SELECT count(*) FROM api_keys"))
    assert count == 1
    async with APIKeys(engine, prefix="acme", secret=secret) as keys:
        assert await keys.verify(new.token)
    await engine.dispose()


async def test_workers_may_make_the_tables_at_once(tmp_path, secret):
    """Workers that start together on an empty file all start, in one process or in several."""
    path = url(tmp_path / "keys.db")
    code = (
        "import asyncio, sys; from keylatch import APIKeys\n"
        "async def main():\n"
        "    async with APIKeys(sys.argv[1], prefix='acme') as keys:\n"
        "        await keys.verify((await keys.create(name='ci')).token)\n"
        "asyncio.run(main())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, path], env=os.environ | {"KEYLATCH_SECRET": secret}
        )
        for _ in range(4)
    ]
    workers = [APIKeys(path, prefix="acme", secret=secret) for _ in range(8)]
    await asyncio.gather(*(worker.__aenter__() for worker in workers))
    token = (await workers[0].create(name="ci")).token
    assert await workers[7].verify(token)
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len((await workers[0].list()).items) == 5
    await asyncio.gather(*(worker.__aexit__(None, None, None) for worker in workers))


async def test_what_one_worker_revokes_is_refused_by_the_other(tmp_path, secret):
    """Whatever is cached there, at the next look for changes."""
    path = url(tmp_path / "keys.db")
    async with (
        APIKeys(path, prefix="acme", secret=secret) as one,
        APIKeys(path, prefix="acme", secret=secret) as two,
    ):
        as_elsewhere(two)
        new = await one.create(name="ci")
        assert await two.verify(new.token)
        await one.revoke(new.key.id)
        with pytest.raises(RevokedKeyError):
            await one.verify(new.token)
        await two._feed.once()
        with pytest.raises(RevokedKeyError):
            await two.verify(new.token)
