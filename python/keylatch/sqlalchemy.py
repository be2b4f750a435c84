"""A store in a SQL database, through SQLAlchemy. Sees records and the Store protocol only.

This version knows SQLite, through ``aiosqlite``. Tables are made at the first use.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.records import APIKey, Cursor, KeyEvent, KeyRecord, Status
from keylatch.store import DuplicateKeyError
from keylatch.tables import api_key_events, api_keys, metadata

__all__ = ["SQLAlchemyStore", "metadata"]

logger = logging.getLogger("keylatch")

_KEY_COLUMNS: Final = [api_keys.c[name] for name in APIKey.__dataclass_fields__]
_LOAD: Final = sa.select(*_KEY_COLUMNS, api_keys.c.hash).where(
    api_keys.c.id == sa.bindparam("key_id")
)


class ConstraintError(UnavailableError):
    """The database refused a row."""


class SQLAlchemyStore:
    """Keeps keys in a SQL database.

    Args:
        database: A URL such as ``sqlite+aiosqlite:///keys.db``, or an AsyncEngine of the host
            application. An engine stays the caller's: it is never disposed of here.

    Raises:
        ConfigurationError: The URL or engine cannot be used; the text says what to do.
    """

    def __init__(self, database: str | AsyncEngine) -> None:
        self._owns_engine = not isinstance(database, AsyncEngine)
        try:
            self._engine = _engine(database)
        finally:
            del database  # its password would show in a traceback with locals
        self._process = os.getpid()
        if self._engine.dialect.name != "sqlite":
            raise ConfigurationError(
                f"this version of keylatch keeps keys in SQLite only, not in "
                f"{self._engine.dialect.name}: pass sqlite+aiosqlite:///<file>"
            )
        if _is_in_memory(self._engine.url):
            raise ConfigurationError(
                "a SQLite database in memory is another one in each connection: pass a file, or "
                "use keylatch.memory.MemoryStore for tests"
            )
        if isinstance(self._engine.pool, StaticPool):
            raise ConfigurationError(
                "a StaticPool shares one connection, so that requests undo each other's changes, "
                "revocations among them: make the engine without it"
            )

    async def open(self) -> None:
        """Makes the tables, where they are missing. ``UnavailableError`` if that cannot be."""
        async with self._transaction() as connection:
            await _refuse_autocommit(connection)
            for table in metadata.sorted_tables:
                await connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    await connection.execute(CreateIndex(index, if_not_exists=True))

    async def close(self) -> None:
        """Closes the connections of an engine that was made here."""
        if self._owns_engine:
            self._leave_inherited_connections()
            await self._engine.dispose()

    async def insert(self, record: KeyRecord, event: KeyEvent) -> None:
        """Adds a key and its event in one transaction."""
        key = record.key
        values = {name: getattr(key, name) for name in APIKey.__dataclass_fields__}
        values |= {"hash": record.hash, "scopes": sorted(key.scopes), "updated_at": key.created_at}
        try:
            async with self._transaction() as connection:
                await connection.execute(sa.insert(api_keys).values(values))
                await connection.execute(_insert_event(event))
        except ConstraintError:
            # The id is taken; or something of the host's own, such as a trigger, refused the row.
            if await self.load(key.id) is None:
                raise
            raise DuplicateKeyError from None

    async def load(self, key_id: str) -> KeyRecord | None:
        """Reads a key by its id."""
        async with self._reading() as connection:
            row = (await connection.execute(_LOAD, {"key_id": key_id})).mappings().one_or_none()
            return None if row is None else KeyRecord(_key(row), row["hash"])

    async def select(
        self,
        *,
        owner: str | None,
        status: Status | None,
        now: datetime,
        after: Cursor | None,
        limit: int,
    ) -> list[APIKey]:
        """Reads keys, the newest first; every filter is applied before paging."""
        key = api_keys.c
        query = sa.select(*_KEY_COLUMNS).order_by(key.created_at.desc(), key.id.desc())
        if owner is not None:
            query = query.where(key.owner == owner)
        if status is not None:
            query = query.where(_has_status(status, now))
        if after is not None:
            query = query.where(
                sa.or_(
                    key.created_at < after.created_at,
                    sa.and_(key.created_at == after.created_at, key.id < after.key_id),
                )
            )
        async with self._reading() as connection:
            rows = (await connection.execute(query.limit(limit))).mappings().all()
            return [_key(row) for row in rows]

    async def revoke(self, event: KeyEvent) -> bool:
        """Revokes a key and writes its event in one transaction."""
        statement = (
            sa.update(api_keys)
            .where(api_keys.c.id == event.key_id, api_keys.c.revoked_at.is_(None))
            .values(
                revoked_at=event.at, revoked_reason=event.details["reason"], updated_at=event.at
            )
        )
        async with self._transaction() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                return False
            await connection.execute(_insert_event(event))
        return True

    async def events(self, key_id: str) -> list[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first."""
        event = api_key_events.c
        query = (
            sa.select(event.key_id, event.at, event.action, event.actor, event.details)
            .where(event.key_id == key_id)
            .order_by(event.id)
        )
        async with self._reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
            return [KeyEvent(**row) for row in rows]

    def _leave_inherited_connections(self) -> None:
        """After a fork: their threads stayed with the parent, so nothing would answer on them."""
        if self._owns_engine and self._process != os.getpid():
            self._process = os.getpid()
            self._inherited = self._engine.pool  # closing them is the parent's business
            self._engine.sync_engine.dispose(close=False)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        self._leave_inherited_connections()
        with _database_errors():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        self._leave_inherited_connections()
        with _database_errors():
            async with self._engine.connect() as connection:
                try:
                    yield connection
                except (TypeError, ValueError) as error:
                    # Not chained: the error of a JSON parser carries the whole text.
                    raise UnavailableError(
                        f"a row of the keys' tables is damaged ({type(error).__name__}): restore "
                        "it, or delete it"
                    ) from None


def _engine(database: str | AsyncEngine) -> AsyncEngine:
    # No error is chained, and no local stays: either would show the URL and its password.
    try:
        if isinstance(database, AsyncEngine):
            return database
        return create_async_engine(database, hide_parameters=True)
    except NoSuchModuleError:
        reason = "SQLAlchemy knows no dialect of the database URL's name"
    except ArgumentError:
        reason = (
            "the database cannot be read as one: pass a URL such as sqlite+aiosqlite:///keys.db, "
            "an AsyncEngine, or a Store"
        )
    except ModuleNotFoundError as error:
        reason = f"the database driver is not installed: pip install {error.name}"
    except sa.exc.InvalidRequestError:
        reason = (
            "the database URL names a driver that is not asynchronous: write it like "
            "sqlite+aiosqlite:///keys.db"
        )
    finally:
        del database
    raise ConfigurationError(reason)


async def _refuse_autocommit(connection: AsyncConnection) -> None:
    """Without transactions a key could be changed and its event be lost."""
    driver = (await connection.get_raw_connection()).driver_connection
    # A host that turns off the driver's own transactions may still begin them by itself.
    if driver is not None and driver.isolation_level is None and not driver.in_transaction:
        raise ConfigurationError(
            "the engine commits each statement by itself: make it without the isolation level "
            "AUTOCOMMIT"
        )


def _is_in_memory(url: sa.URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turns what a database throws into ``UnavailableError``, without statement or values."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        logger.error("the database failed: %s: %s", type(reason).__name__, reason)
        kind = ConstraintError if isinstance(error, IntegrityError) else UnavailableError
        raise kind(
            f"the database failed ({type(reason).__name__}: {reason}): check that it is there, "
            "that its disk has room, and that this process may write to it"
        ) from None


def _insert_event(event: KeyEvent) -> sa.Insert:
    return sa.insert(api_key_events).values(
        key_id=event.key_id,
        at=event.at,
        action=event.action,
        actor=event.actor,
        details=event.details,
    )


def _has_status(status: Status, now: datetime) -> sa.ColumnElement[bool]:
    revoked = api_keys.c.revoked_at.is_not(None)
    expired = sa.and_(api_keys.c.expires_at.is_not(None), api_keys.c.expires_at <= now)
    return {
        "revoked": revoked,
        "expired": sa.and_(sa.not_(revoked), expired),
        "active": sa.and_(sa.not_(revoked), sa.not_(expired)),
    }[status]


def _key(row: sa.RowMapping) -> APIKey:
    values: dict[str, Any] = {name: row[name] for name in APIKey.__dataclass_fields__}
    if not isinstance(values["scopes"], list):
        raise TypeError("scopes are not a list")
    values["scopes"] = frozenset(values["scopes"])
    return APIKey(**values)
