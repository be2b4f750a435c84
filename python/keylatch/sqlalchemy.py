"""A store in a SQL database, through SQLAlchemy: SQLite, PostgreSQL or MariaDB.

Connects the statements to the engine that they run on.
"""

import asyncio
import weakref
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from keylatch import counting, inserting, schema, statements, trail
from keylatch.engines import Database
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.kids import SecretUse
from keylatch.listening import can_listen
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, Mark, Use
from keylatch.store import Connection, Decide, DecideKnowing, Leave, Progress
from keylatch.tables import api_keys, metadata

# How often in a row others may be faster with every key of an owner.
_MOST_EMPTY: Final = 20
# An hour: what takes longer is no answer to a request.
MAX_DEADLINE: Final = 3600

__all__ = ["SQLAlchemyStore", "metadata"]


class SQLAlchemyStore:
    """Keeps keys in a SQL database.

    Tables are made in SQLite only, at the first use; elsewhere ``keylatch db upgrade`` makes
    them, or a migration of the host's own from :data:`metadata`.

    Args:
        database: A URL such as ``sqlite+aiosqlite:///keys.db`` or
            ``postgresql+asyncpg://user@host/name``, or an AsyncEngine or Engine of the host
            application. An engine stays the host's: it is never disposed of here. A synchronous
            one is used in threads.
        deadline: How long the database may take to answer, in seconds, before a call raises
            ``UnavailableError``. The driver of an engine that is made here waits no longer
            either. A synchronous engine of the host's needs timeouts of its own: a thread that is
            still connecting cannot be called back, and has its place in the pool meanwhile.

    Raises:
        ConfigurationError: The URL or engine cannot be used; the text says what to do.
    """

    def __init__(self, database: str | sa.Engine | AsyncEngine, *, deadline: float = 5.0) -> None:
        if not 0 < deadline <= MAX_DEADLINE:
            raise ConfigurationError(
                f"deadline must be more than 0 and at most {MAX_DEADLINE} seconds"
            )
        try:
            self._database = Database(database, deadline=deadline, writes=sa.update(api_keys))
        finally:
            del database  # its password would show in a traceback with locals
        engine = self._database.engine
        if engine.dialect.name not in ("sqlite", "postgresql", "mysql", "mariadb"):
            raise ConfigurationError(
                "keylatch keeps keys in SQLite, PostgreSQL or MariaDB, not in "
                f"{engine.dialect.name}"
            )
        if _is_in_memory(engine.url):
            raise ConfigurationError(
                "a SQLite database in memory is another one in each connection: pass a file, or "
                "use keylatch.memory.MemoryStore for tests"
            )
        if isinstance(engine.pool, StaticPool):
            raise ConfigurationError(
                "a StaticPool shares one connection, so that requests undo each other's changes, "
                "revocations among them: make the engine without it"
            )

    async def open(self) -> None:
        """Makes the tables in an empty SQLite file, and refuses those of another version."""
        await self._database.run(schema.prepare)

    async def check(self) -> str:
        """Says which revision the tables are of: that of this version. Makes none.

        Raises:
            SchemaError: They are missing, older or newer; the text says what to run.
            UnavailableError: The database failed, or did not answer in time.
        """
        return await self._database.run(schema.check)

    async def upgrade(self) -> tuple[str | None, str]:
        """Makes the tables, or brings those of an older version up to date; there is no way back.

        Like ``keylatch db upgrade``, for programs; the extra ``cli`` brings Alembic, which it
        needs. An index of a big table takes a while: give this store a deadline that allows it.

        Returns:
            The revision that the tables were of, None if there were none, and the one they are of.

        Raises:
            SchemaError: The tables are newer than this version, or not keylatch's.
            ConfigurationError: Alembic is not installed, or the server cannot be used.
            UnavailableError: The database failed, or did not answer in time: upgrade again.
        """
        from keylatch.migrations import upgrade

        return await self._database.run(upgrade)

    async def close(self) -> None:
        """Closes the connections of an engine that was made here."""
        await self._database.close()

    async def insert(
        self,
        new: Sequence[tuple[KeyRecord, KeyEvent]],
        *,
        unless: Collection[str] = (),
        connection: Connection | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Adds keys and their events in one transaction. Many have the deadline for each step."""
        if len(new) == 1 and not unless:
            await self._database.run(partial(inserting.insert, new=new[0]), connection)
            return
        loop = asyncio.get_running_loop()

        def unit(on: sa.Connection, come_on: Callable[[], None]) -> None:
            def wrote(count: int) -> None:
                come_on()
                if progress is not None:
                    loop.call_soon_threadsafe(progress, count)

            inserting.insert_many(on, new, wrote, unless)

        await self._database.run_steps(unit, connection)

    async def load(self, key_id: str, *, connection: Connection | None = None) -> KeyRecord | None:
        """Reads a key by its id."""
        return await self._database.run(partial(statements.load, key_id=key_id), connection)

    async def existing(
        self, key_ids: Collection[str], *, connection: Connection | None = None
    ) -> set[str]:
        """Tells which of these ids keys have."""
        unit = partial(statements.existing, key_ids=list(key_ids))
        return await self._database.run(unit, connection)

    async def select(
        self,
        wanted: KeyFilter,
        *,
        after: Cursor | None,
        limit: int,
        connection: Connection | None = None,
    ) -> list[APIKey]:
        """Reads keys in the filter's order."""
        unit = partial(statements.select, wanted=wanted, after=after, limit=limit)
        return await self._database.run(unit, connection)

    async def change(
        self,
        key_id: str,
        decide: Decide,
        *,
        leave: Leave | None = None,
        connection: Connection | None = None,
    ) -> Change | None:
        """Changes a key and writes its event in one transaction."""
        unit = partial(statements.change, key_id=key_id, decide=decide, leave=leave)
        return await self._database.run(unit, connection)

    async def change_knowing(
        self, key_id: str, action: str, decide: DecideKnowing
    ) -> Change | None:
        """Changes a key by the latest entry of an action, in one transaction."""
        unit = partial(statements.change_knowing, key_id=key_id, action=action, decide=decide)
        return await self._database.run(unit)

    async def change_owned(
        self, owner: str, decide: Decide, *, connection: Connection | None = None
    ) -> list[Change]:
        """Changes every unrevoked key of an owner, in as many transactions as it takes."""
        unit = partial(statements.change_owned, owner=owner, decide=decide)
        changes: list[Change] = []
        empty = 0
        while (portion := await self._database.run(unit, connection)) is not None:
            changes += portion
            empty = 0 if portion else empty + 1
            if empty > _MOST_EMPTY:
                raise UnavailableError(
                    "the database shows keys of this owner that it does not let be changed: check "
                    "its policies"
                )
        return changes

    async def purge(self, dead_since: datetime, *, connection: Connection | None = None) -> int:
        """Deletes dead keys and their events, in as many transactions as it takes."""
        unit = partial(statements.purge, dead_since=dead_since)
        count = 0
        while portion := await self._database.run(unit, connection):
            count += portion
        return count

    async def changes(
        self, *, after: int | None, missing: Sequence[range], limit: int
    ) -> list[Mark]:
        """Reads entries of the audit trail, in their order."""
        unit = partial(trail.changes, after=after, missing=missing, limit=limit)
        return await self._database.run(unit)

    @property
    def notifies(self) -> bool:
        """Whether this is PostgreSQL, with a driver whose notifications are known here."""
        return can_listen(self._database.engine)

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Calls ``heard`` with the id of each key that changes, as soon as the change commits.

        Takes a connection of the engine's for itself, beside its pool.

        Raises:
            UnavailableError: The connection was lost.
        """
        await self._database.listen(trail.CHANNEL, heard)

    async def record_usage(self, uses: Sequence[Use]) -> list[Use]:
        """Adds uses to the counts of keys, in one transaction."""
        return await self._database.run(partial(counting.record_usage, uses=uses))

    async def rehash(self, old: str, new: str, event: KeyEvent) -> bool:
        """Replaces the stored hash of a key and writes its event in one transaction."""
        unit = partial(statements.rehash, old=old, new=new, event=event)
        return await self._database.run(unit)

    async def count_secrets(
        self, now: datetime, *, besides: Collection[str] = ()
    ) -> list[SecretUse]:
        """Counts the keys that need each server secret. Reads every key."""
        unit = partial(counting.count_secrets, now=now, besides=besides)
        return await self._database.run(unit)

    async def transaction(self, connection: Connection) -> Callable[[], bool]:
        """Returns what tells whether the transaction of a connection, as it is now, is over."""
        transaction = await self._database.run(sa.Connection.get_transaction, connection)
        if transaction is None:
            return lambda: True
        # Not held: a session that its owner forgets goes back to its pool.
        found = weakref.ref(transaction)

        def over() -> bool:
            transaction = found()
            return transaction is None or not transaction.is_active

        return over

    async def events(
        self,
        key_id: str,
        *,
        action: str | None = None,
        latest: int | None = None,
        connection: Connection | None = None,
    ) -> list[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first."""
        unit = partial(trail.events, key_id=key_id, action=action, latest=latest)
        return await self._database.run(unit, connection)

    async def latest_events(self, key_ids: Collection[str], action: str) -> dict[str, KeyEvent]:
        """Reads the latest entry of an action of each key, by the key's id."""
        unit = partial(trail.latest_events, key_ids=list(key_ids), action=action)
        return await self._database.run(unit)


def _is_in_memory(url: sa.URL) -> bool:
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"
