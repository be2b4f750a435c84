"""What the tests of faults share: every call, asked of a database that fails, and what must hold.

A fault is caused by the test; here stands what it must not do to anybody who calls.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import pytest
import sqlalchemy as sa
from canaries import Canaries
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keylatch import APIKeys, Hasher, KeyRequest, NewKey, Token, loading
from keylatch.errors import UnavailableError
from keylatch.sqlalchemy import SQLAlchemyStore, metadata

DEADLINE = 0.5  # seconds that a call may take
SLACK = 2.0  # seconds more, on a machine that is busy: to catch what hangs
GAP = 0.35  # seconds that nothing may keep the event loop from its other work
LETTING_GO = 6.0  # seconds until a thread or a driver has given its connection up

# What a collection does by itself it does once, when it starts: a test counts what others do.
SILENT: dict[str, Any] = {"max_staleness": 7200, "poll_interval": 3600, "usage_interval": 3600}

READS = ("get", "list", "events", "verify")
# Those that change a key that is there, and wait for whoever holds it.
EDITS = ("update", "rotate", "revoke", "revoke_all", "purge")
CHANGES = ("create", "create_many", *EDITS)
CALLS = (*READS, *CHANGES)

SERVERS = ("postgres-async", "postgres-sync", "mariadb-async", "mariadb-sync")
# The synchronous drivers, for what the tests themselves do to a database.
DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "mariadb": "mariadb+pymysql",
}


def as_elsewhere(keys: APIKeys) -> APIKeys:
    """A collection that hears of what this process changes no sooner than another one would."""
    loading._loaders.discard(keys._loader)
    return keys


class Heartbeat:
    """Tells for how long the event loop did not come round to other work."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.worst, last = max(self.worst, now - last), now


class _WatchedHasher:
    """Adds the token and the hash of every key that is made to what must show nowhere."""

    def __init__(self, hasher: Hasher, canaries: Canaries) -> None:
        self._hasher = hasher
        self._canaries = canaries
        self.verify = hasher.verify

    def hash(self, token: Token) -> str:
        stored = self._hasher.hash(token)
        self._canaries.add(token.reveal())
        self._canaries.add_text(stored.rpartition("$")[2])
        return stored


class Subject:
    """A collection of keys whose database is about to fail.

    Args:
        source: What the collection is given: a URL or an engine.
        direct: The URL of the same database, which leads past the fault.
        secret: The server secret.
        clock: The tests' clock.
        canaries: What must show nowhere.
        deadline: How long a call may take, in seconds.
    """

    def __init__(
        self,
        source: Any,
        direct: str,
        *,
        secret: str,
        clock: Any,
        canaries: Canaries,
        deadline: float = DEADLINE,
    ) -> None:
        self.deadline = deadline
        self.store = SQLAlchemyStore(source, deadline=deadline)
        self._secret = secret
        self._clock = clock
        self.keys = self._collection()
        self.keys._hasher = _WatchedHasher(self.keys._hasher, canaries)
        self.made: dict[str, NewKey] = {}
        self.canaries = canaries
        self._direct = direct
        self._watch_for_password(source)

    async def __aenter__(self) -> Self:
        with self.patience():
            await self.keys.__aenter__()
            await self.make_keys()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.keys.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def elsewhere(self, source: Any) -> AsyncIterator[None]:
        """The same collection, set up with another URL or engine."""
        here = self.store
        self._watch_for_password(source)
        self._use(SQLAlchemyStore(source, deadline=self.deadline))
        try:
            yield
            await self.lets_go()
        finally:
            await self.store.close()
            self._use(here)

    def _use(self, store: SQLAlchemyStore) -> None:
        self.keys._store = self.keys._loader._store = self.store = store
        self.keys._loader._rehasher._store = store

    def _collection(self) -> APIKeys:
        options = {"secret": self._secret, "clock": self._clock} | SILENT
        return APIKeys(self.store, prefix="acme_live", **options)

    def _watch_for_password(self, source: Any) -> None:
        password = sa.make_url(getattr(source, "url", source)).password
        if password:
            self.canaries.add_text(str(password))

    async def make_keys(self) -> None:
        """A key for each call, through as many connections as a pool holds."""
        names = ("get", *EDITS)
        ends = [timedelta(hours=1) if name == "purge" else None for name in names]
        made = await asyncio.gather(
            *(
                self.keys.create(name=name, owner=name, expires_in=end)
                for name, end in zip(names, ends, strict=True)
            )
        )
        self.made = dict(zip(names, made, strict=True))
        self._clock.advance(hours=2)

    async def does_not_start(self, match: str) -> None:
        """The collection cannot be opened, and leaves nothing open behind."""
        async with Heartbeat() as heart:
            await self.refuses(self._collection().__aenter__(), match)
        assert heart.worst < GAP
        await self.lets_go()

    def call(self, name: str) -> Awaitable[Any]:
        """One of the calls, with a key that no other call has to do with."""
        keys, made = self.keys, self.made
        key_id = made[name].key.id if name in made else ""
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "create": lambda: keys.create(name="create", actor="ada"),
            "create_many": lambda: keys.create_many([KeyRequest(name="create")] * 2),
            "get": lambda: keys.get(key_id),
            "list": lambda: keys.list(owner="get"),
            "update": lambda: keys.update(key_id, scopes=["a"], metadata={"b": 1}),
            "rotate": lambda: keys.rotate(key_id, grace=timedelta(minutes=1)),
            "revoke": lambda: keys.revoke(key_id, reason="leaked"),
            "revoke_all": lambda: keys.revoke_all(owner="revoke_all"),
            "events": lambda: keys.events(made["get"].key.id),
            "purge": lambda: keys.purge(dead_for=timedelta(hours=1)),
            "verify": lambda: keys.verify(made["get"].token),
        }
        keys._engine.flush()  # what is cached does not fail
        return calls[name]()

    async def fails(self, *names: str, match: str = "check") -> None:
        """All of these calls, made at once, say within the deadline that there is no telling."""
        async with Heartbeat() as heart:
            await asyncio.gather(*(self.refuses(self.call(name), match) for name in names))
        assert heart.worst < GAP, f"the event loop stood still for {heart.worst:.3f} s"

    async def refuses(self, call: Awaitable[Any], match: str) -> None:
        """A call says within the deadline that there is no telling."""
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=match) as failed:
            await call
        took = time.monotonic() - began
        assert took < self.deadline + SLACK, f"it took {took:.3f} s"
        assert failed.value.retry_after >= 1
        assert "check" in str(failed.value)
        # The database's own error may hold a statement and its values.
        assert failed.value.__context__ is None
        self.canaries.assert_absent_from_frames(failed.value)

    async def works(self, *names: str) -> None:
        """Each of these calls does what it is for, the first one too."""
        with self.patience():
            await self._works(*names)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """What is about to work may take longer on a machine that is busy."""
        database = self.store._database
        database._deadline = self.deadline + SLACK
        try:
            yield
        finally:
            database._deadline = self.deadline

    async def _works(self, *names: str) -> None:
        for name in names or CALLS:
            answer = await self.call(name)
            match name:
                case "create" | "rotate":
                    assert await self.keys.verify(answer.token)
                case "list":
                    assert answer.items
                case "update":
                    assert answer.scopes == {"a"}
                case "revoke":
                    assert answer.revoked_at
                case "purge":
                    assert answer >= 1
                case _:
                    assert answer
        if set(names or CALLS) & set(CHANGES):
            await self.make_keys()

    def rows(self) -> list[Any]:
        """Everything that is in the tables."""
        with somebody_else(self._direct).connect() as connection:
            return [
                sorted(map(str, connection.execute(sa.select(table))))
                for table in (metadata.tables["api_keys"], metadata.tables["api_key_events"])
            ]

    @property
    def pool(self) -> sa.QueuePool:
        """Where the collection has its connections from."""
        return core(self.store._database.engine).pool

    async def lets_go(self) -> None:
        """No connection stays behind."""
        ends = time.monotonic() + LETTING_GO
        # A pool tells nobody when a connection comes back.
        while self.pool.checkedout() and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert self.pool.checkedout() == 0


@asynccontextmanager
async def host_engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine | sa.Engine]:
    """An engine as the host makes it, with the drivers' own limits, or none."""
    if sa.make_url(url).get_dialect().is_async:
        engine = create_async_engine(url, **options)
        yield engine
        await engine.dispose()
    else:
        synchronous = sa.create_engine(url, **options)
        yield synchronous
        synchronous.dispose()


def core(engine: AsyncEngine | sa.Engine) -> sa.Engine:
    """The engine that has the events and the pool."""
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def somebody_else(url: str) -> sa.Engine:
    """A way into the database that nobody else has to do with."""
    lent = sa.make_url(url)
    return sa.create_engine(
        lent.set(drivername=DRIVERS[lent.get_backend_name()]), poolclass=sa.NullPool
    )


def tell(url: str, *statements: str) -> None:
    """Somebody else changes the database."""
    with somebody_else(url).connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()


# How somebody else holds the keys, so that the calls of a kind have to wait.
LOCKS = {
    "sqlite": {
        "tables": ["BEGIN EXCLUSIVE"],
        "reading": ["BEGIN", "SELECT id FROM api_keys"],
    },
    "postgresql": {
        "tables": ["LOCK TABLE api_keys, api_key_events IN ACCESS EXCLUSIVE MODE"],
        "rows": ["SELECT id FROM api_keys FOR UPDATE"],
    },
    "mariadb": {
        "tables": ["LOCK TABLES api_keys WRITE, api_key_events WRITE"],
        "rows": [
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",  # locks no gaps
            "BEGIN",
            "SELECT id FROM api_keys FOR UPDATE",
        ],
    },
}


@contextmanager
def holding(url: str, what: str) -> Iterator[None]:
    """Somebody else holds the tables, or the rows of all keys."""
    with somebody_else(url).connect() as connection:
        for statement in LOCKS[sa.make_url(url).get_backend_name()][what]:
            connection.exec_driver_sql(statement)
        yield
        with suppress(DBAPIError):  # the test may have killed it
            connection.rollback()


@contextmanager
def nothing_written(subject: Subject) -> Iterator[None]:
    """The tables are afterwards as they were before, also once everything has been let go."""
    before = subject.rows()
    yield
    assert subject.rows() == before
