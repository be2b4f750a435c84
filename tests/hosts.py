"""An application of the tests' own, with a table beside keylatch's, on an engine of either kind.

Its sessions and connections are used alike, whether they are asynchronous or not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isawaitable
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from keylatch.tables import api_key_events, api_keys

KINDS = ["session", "connection", "scoped session"]


class Base(DeclarativeBase):
    """What the application's classes are mapped by."""


class User(Base):
    """A user of the application."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(sa.String(50), primary_key=True)


async def settled(value: Any) -> Any:
    """A value, waited for if it has to be."""
    return await value if isawaitable(value) else value


@asynccontextmanager
async def _entered(block: Any) -> AsyncIterator[None]:
    """A block of either kind."""
    if hasattr(block, "__aenter__"):
        async with block:
            yield
    else:
        with block:
            yield


class Transaction:
    """What the host does with one session or connection, of any kind."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, statement: sa.Executable) -> Any:
        """Runs a statement."""
        return await settled(self.connection.execute(statement))

    async def add(self, name: str) -> None:
        """Writes a user."""
        await self.execute(sa.insert(User).values(name=name))

    async def commit(self) -> None:
        """Makes it happen."""
        await settled(self.connection.commit())

    async def rollback(self) -> None:
        """Makes nothing of it happen."""
        await settled(self.connection.rollback())

    def begin(self) -> AbstractAsyncContextManager[None]:
        """Begins; commits at the end, unless there is an exception."""
        return _entered(self.connection.begin())

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Undoes what is done within, if there is an exception."""
        return _entered(self.connection.begin_nested())

    async def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """All users, keys and events, as this transaction sees them."""
        tables = {
            "users": User.__table__.c.name,
            "keys": api_keys.c.id,
            "events": api_key_events.c.id,
        }
        return {
            name: [tuple(row) for row in await self.execute(sa.select(key.table).order_by(key))]
            for name, key in tables.items()
        }


class Host:
    """An application with an engine and a table of users."""

    def __init__(self, engine: sa.Engine | AsyncEngine) -> None:
        self.engine = engine
        self.asynchronous = isinstance(engine, AsyncEngine)
        self.core = engine.sync_engine if self.asynchronous else engine

    @classmethod
    def at(cls, url: str, **options: Any) -> Self:
        """One on a database, with options of its engine."""
        asynchronous = sa.make_url(url).get_dialect().is_async
        return cls((create_async_engine if asynchronous else sa.create_engine)(url, **options))

    async def __aenter__(self) -> Self:
        await self.run(Base.metadata.create_all)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Every connection comes back, and nothing holds a lock on the table."""
        try:
            for _ in range(500):  # a thread that was left behind still has to notice
                if self.core.pool.checkedout():
                    await asyncio.sleep(0.01)
            assert self.core.pool.checkedout() == 0
            await self.run(Base.metadata.drop_all)
        finally:
            await settled(self.engine.dispose())

    def session(self, **options: Any) -> Any:
        """A session that has not begun."""
        maker = async_sessionmaker if self.asynchronous else sessionmaker
        return maker(**{"bind": self.engine} | options)()

    @asynccontextmanager
    async def transaction(self, kind: str = "session") -> AsyncIterator[Transaction]:
        """A session or connection that has not begun. What is not committed is rolled back."""
        match kind:
            case "session":
                connection = self.session()
            case "connection":
                connection = await settled(self.engine.connect())
            case "scoped session" if self.asynchronous:
                connection = async_scoped_session(
                    async_sessionmaker(self.engine), asyncio.current_task
                )
            case "scoped session":
                connection = scoped_session(sessionmaker(self.engine))
        try:
            yield Transaction(connection)
        finally:
            await settled(getattr(connection, "remove", connection.close)())

    async def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """All users, keys and events, as others see them."""
        async with self.transaction("connection") as other:
            return await other.rows()

    async def run(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Does something on a connection, and commits it."""
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.begin() as connection:
                return await connection.run_sync(work)
        with self.engine.begin() as connection:
            return work(connection)
