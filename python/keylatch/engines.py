"""Runs units of work on a database: on an engine of either kind, or in the host's transaction.

A unit of work is a function of a SQLAlchemy connection, so that every statement stands once, for
asynchronous and synchronous engines alike. Knows no table.
"""

import asyncio
import logging
import os
import random
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    UnboundExecutionError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from keylatch.drivers import engine_of, first_line, is_conflict
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.listening import SILENCE, listen, listen_in_thread
from keylatch.threads import Attempt, GivenUpError, Threads

T = TypeVar("T")
Unit = Callable[[sa.Connection], T]
# One of many steps is called with what it calls after each of them.
Steps = Callable[[sa.Connection, Callable[[], None]], T]

logger: Final = logging.getLogger("keylatch")

# Of a transaction that the database gave up in favour of another. Less than a second in all.
_ATTEMPTS: Final = 8
_FIRST_PAUSE: Final = 0.005  # seconds


class ConstraintError(UnavailableError):
    """The database refused a row."""


class Database:
    """An engine of either kind, with a deadline for everything that is asked of it.

    Args:
        source: A URL, or an Engine or AsyncEngine of the host application, which stays the
            host's: it is never disposed of here.
        deadline: How long an answer may take, in seconds.
        writes: A statement that stands for those that write, for sessions of several engines.

    Raises:
        ConfigurationError: The URL or engine cannot be used; the text says what to do.
    """

    def __init__(
        self,
        source: str | sa.Engine | AsyncEngine,
        *,
        deadline: float,
        writes: sa.ClauseElement | None = None,
    ) -> None:
        self._owned = not isinstance(source, sa.Engine | AsyncEngine)
        try:
            self.engine: Final = engine_of(source, deadline)
        finally:
            del source  # its password would show in a traceback with locals
        self._deadline = deadline
        self._writes = writes
        self._process = os.getpid()
        self._threads = Threads()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, unit: Unit[T], connection: Any = None) -> T:
        """Runs a unit of work in a transaction of its own, or in that of a connection.

        A transaction of its own is repeated when the database gives it up for another one, and
        when its connection turns out to be dead.

        Raises:
            As :meth:`run_steps`.
        """
        return await self.run_steps(lambda on, _: unit(on), connection)

    async def run_steps(self, unit: Steps[T], connection: Any = None) -> T:
        """Runs a unit of work of many steps in one transaction: each of them has the deadline.

        Raises:
            UnavailableError: The database failed, or did not answer in time.
            ConstraintError: It refused a row.
            ConfigurationError: The connection commits each statement by itself.
            TypeError: The connection is of no type that is known here.
        """
        self._leave_inherited_connections()
        try:
            if connection is not None:
                return await self._within(connection, unit)
            return await self._in_time(unit)
        except (DBAPIError, InvalidRequestError, PoolTimeoutError, OSError) as error:
            failure = self._failure(error)
        # Not while the other one is handled, which may hold a statement with its values.
        try:
            raise failure
        finally:
            del failure

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Calls ``heard`` with what PostgreSQL is told on a channel, until it is cancelled.

        Raises:
            UnavailableError: The connection was lost, or there is none to be had.
        """
        self._leave_inherited_connections()
        try:
            if isinstance(self.engine, AsyncEngine):
                await listen(self.engine, channel, heard, patience=self._deadline)
            else:
                await self._listen_in_a_thread(self.engine, channel, heard)
        except (DBAPIError, InvalidRequestError, PoolTimeoutError, OSError) as error:
            failure = self._failure(error)
        # Not while the other one is handled, as above.
        try:
            raise failure
        finally:
            del failure

    async def _listen_in_a_thread(
        self, engine: sa.Engine, channel: str, heard: Callable[[str], None]
    ) -> None:
        loop, attempt = asyncio.get_running_loop(), Attempt()
        late = loop.call_later(self._deadline, attempt.cut)

        def go_on() -> None:
            nonlocal late
            late.cancel()
            late = loop.call_later(SILENCE + self._deadline, attempt.cut)

        def listening(connection: sa.Connection) -> None:
            for told in listen_in_thread(connection, channel):
                attempt.go_on()
                loop.call_soon_threadsafe(go_on)
                if told is not None:
                    loop.call_soon_threadsafe(heard, told)

        def blocking() -> None:
            with engine.connect() as connection:
                attempt.on(connection, listening)

        # The collection may end while a thread is still connecting.
        task = asyncio.create_task(self._threads.give(blocking, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait([task])
            task.result()
        except GivenUpError:
            raise TimeoutError from None
        finally:
            late.cancel()
            task.cancel()
            del task

    async def close(self) -> None:
        """Closes the connections of an engine that was made here. It may be used again."""
        self._leave_inherited_connections()
        here = asyncio.get_running_loop()
        if tasks := [task for task in self._tasks if task.get_loop() is here]:
            await asyncio.wait(tasks, timeout=self._deadline)
        self._threads.close()
        if not self._owned:
            return
        if isinstance(self.engine, AsyncEngine):
            await self._dispose(self.engine)
        else:
            await asyncio.to_thread(self.engine.dispose)

    async def _dispose(self, engine: AsyncEngine) -> None:
        """Closes connections one by one, and gently as long as the server answers."""
        patience = self._deadline
        while True:
            try:
                async with asyncio.timeout(patience):
                    return await engine.dispose()
            except TimeoutError:
                patience = 0

    async def _in_time(self, unit: Steps[T]) -> T:
        """In a transaction of our own. Answers by a step's deadline, whatever it takes to clean up.

        That goes on in a task that no cancellation of the caller's reaches a second time.
        """
        attempt = Attempt()
        task = asyncio.create_task(self._repeated(unit, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            while not task.done() and (left := attempt.left(self._deadline)) > 0:
                await asyncio.wait([task], timeout=left)
        finally:
            attempt.given_up = not task.done()
            task.cancel()
        if attempt.given_up:
            raise TimeoutError
        try:
            return task.result()
        finally:
            del task  # it has the error, whose frames would have it

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # somebody has it, or there was nobody left to tell

    async def _repeated(self, unit: Steps[T], attempt: Attempt) -> T:
        for number in range(_ATTEMPTS - 1):
            try:
                return await self._once(unit, attempt)
            except DBAPIError as error:
                if attempt.given_up or not _may_be_repeated(error, attempt):
                    raise
            attempt.committing = False
            # Those that met in a crowd would meet again.
            pause = _FIRST_PAUSE * 2**number
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - it is no secret
        return await self._once(unit, attempt)

    async def _once(self, unit: Steps[T], attempt: Attempt) -> T:
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.connect() as connection:
                return await _run_sync(connection, _transaction, unit, attempt)
        return await self._in_a_thread(self.engine, unit, attempt)

    async def _in_a_thread(self, engine: sa.Engine, unit: Steps[T], attempt: Attempt) -> T:
        def blocking() -> T:
            attempt.go_on()
            with engine.connect() as connection:
                return attempt.on(connection, partial(_transaction, unit=unit, attempt=attempt))

        return await self._threads.give(blocking, attempt)

    async def _within(self, connection: Any, unit: Steps[T]) -> T:
        """In the host's transaction, which only the host commits or rolls back."""
        if isinstance(connection, async_scoped_session | scoped_session):
            connection = connection()
        handled = sys.exception()  # by the host, whose frames are its own

        def in_session(session: Session, come_on: Callable[[], None]) -> T:
            return in_connection(self._of_session(session), come_on)

        def in_connection(connection: sa.Connection, come_on: Callable[[], None]) -> T:
            if not connection.in_transaction():
                connection.begin()  # as a statement would: hosts hang a BEGIN of their own on it
            refuse_autocommit(connection)
            with _spoiling(connection), _holding_no_cursor(handled):
                return unit(connection, come_on)

        def in_thread(attempt: Attempt) -> T:
            host = self._of_session(connection) if isinstance(connection, Session) else connection
            return attempt.on(host, partial(in_connection, come_on=attempt.come_on))

        match connection:
            case AsyncSession():
                async with asyncio.timeout(self._deadline) as timeout:
                    return await _run_sync(connection, in_session, self._renewal(timeout))
            case AsyncConnection():
                async with asyncio.timeout(self._deadline) as timeout:
                    return await _run_sync(connection, in_connection, self._renewal(timeout))
            case Session() | sa.Connection():
                return await self._threads.lend(in_thread, deadline=self._deadline)
        raise TypeError(
            "connection must be a SQLAlchemy session or connection, not "
            f"{type(connection).__name__}"
        )

    def _renewal(self, timeout: asyncio.Timeout) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        return lambda: timeout.reschedule(loop.time() + self._deadline)

    def _of_session(self, session: Session) -> sa.Connection:
        try:
            # A session of several engines is asked for the one that takes what is written here.
            return session.connection({"clause": self._writes})
        except UnboundExecutionError:
            raise ConfigurationError(
                "the session has no engine for keylatch's tables: add those of "
                "keylatch.sqlalchemy.metadata to its binds=, or pass a connection"
            ) from None

    def _failure(self, error: Exception) -> Exception:
        """What a database throws, as ``UnavailableError``, without statement or values."""
        if isinstance(error, TimeoutError):
            logger.error("the database did not answer within %s s", self._deadline)
            return UnavailableError(
                f"the database did not answer within {self._deadline:g} s: check its load, its "
                "locks, and whether its connections are used up"
            )
        if isinstance(error, DBAPIError | PoolTimeoutError | OSError):
            reason = first_line(error)
            logger.error("the database failed: %s", reason)
            kind = ConstraintError if isinstance(error, IntegrityError) else UnavailableError
            return kind(
                f"the database failed ({reason}): check that it is there and lets this process "
                "in, that nobody locks it, that it has connections and disk space left, and that "
                "this process may write to it"
            )
        # Found out when it connects. The text is SQLAlchemy's only word for it.
        if "is not a MariaDB variant" in str(error):
            return ConfigurationError(
                "this server is MySQL, not MariaDB as the URL says: use MariaDB, PostgreSQL or "
                "SQLite"
            )
        return error

    def _leave_inherited_connections(self) -> None:
        """After a fork: closing them is the parent's business, and no thread came along."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._threads.forget()
        self._tasks = set()
        if self._owned:
            self._inherited = self.engine.pool
            engine = self.engine
            (engine.sync_engine if isinstance(engine, AsyncEngine) else engine).dispose(close=False)


async def _run_sync(
    connection: AsyncConnection | AsyncSession, function: Callable[..., T], *arguments: Any
) -> T:
    try:
        return await connection.run_sync(function, *arguments)
    except asyncio.CancelledError as error:
        # SQLAlchemy has closed the connection. But SQLite keeps its locks for as long as there is
        # a cursor, and one would be held by these frames until a garbage collection.
        traceback.clear_frames(error.__traceback__)
        raise


@contextmanager
def _holding_no_cursor(handled: BaseException | None = None) -> Iterator[None]:
    """Has no error hold a cursor, as SQLAlchemy's frames would until they are collected.

    With one, SQLite keeps the locks of a connection that is closed; and whoever frees it waits for
    its connection if that is at work, in the event loop, too.

    Args:
        handled: What was raised before, and is not ours.
    """
    try:
        yield
    except Exception as error:
        held: BaseException | None = error
        while held is not None and held is not handled:
            traceback.clear_frames(held.__traceback__)
            held = held.__context__
        raise


@contextmanager
def _spoiling(connection: sa.Connection) -> Iterator[None]:
    """Lets a host only roll back what failed half way, as PostgreSQL does by itself.

    Otherwise it could commit a change without its event; and where MariaDB has rolled everything
    back, in favour of another transaction, what the host does next without what it did before.
    """
    try:
        yield
    except (DBAPIError, UnavailableError):
        if connection.dialect.name != "postgresql":
            connection.invalidate()
        raise


def refuse_autocommit(connection: sa.Connection) -> None:
    """Without transactions a key could be changed and its event be lost.

    Raises:
        ConfigurationError: The connection commits each statement by itself.
    """
    pooled: Any = connection.connection
    if connection.dialect.name == "sqlite":
        autocommit = _sqlite_autocommits(pooled.driver_connection)
    else:
        try:
            autocommit = connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)
        except NotImplementedError:
            autocommit = False
    if autocommit:
        raise ConfigurationError(
            "the engine or connection commits each statement by itself: make it without the "
            "isolation level AUTOCOMMIT"
        )


def _sqlite_autocommits(driver: Any) -> bool:
    with suppress(sqlite3.ProgrammingError, ValueError):  # closed: the next statement says so
        # A host that turns off the driver's own transactions may still begin them by itself.
        if driver.isolation_level is None and not driver.in_transaction:
            return True
        # Since Python 3.12 there is a switch for it, which aiosqlite hides, and which leaves what
        # a host begins by itself uncommitted.
        return getattr(getattr(driver, "_conn", driver), "autocommit", False) is True
    return False


def _transaction(connection: sa.Connection, unit: Steps[T], attempt: Attempt) -> T:
    attempt.go_on()
    with connection.begin():
        refuse_autocommit(connection)  # the pool may have it from somebody who turned it on
        with _holding_no_cursor():
            result = unit(connection, attempt.come_on)
        attempt.go_on()
        attempt.committing = True
    return result


def _may_be_repeated(error: DBAPIError, attempt: Attempt) -> bool:
    """Whether nothing was written for sure, and another attempt may go better."""
    return is_conflict(error) or (error.connection_invalidated and not attempt.committing)
