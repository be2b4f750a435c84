"""Runs units of work on a database: on an engine of either kind, or in the host's transaction.

A unit of work is a function of a SQLAlchemy connection, so that every statement stands once, for
asynchronous and synchronous engines alike. Knows no table.
"""

import asyncio
import contextvars
import logging
import os
import random
import sqlite3
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    NoSuchModuleError,
    UnboundExecutionError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session

from keylatch.errors import ConfigurationError, UnavailableError

T = TypeVar("T")
Unit = Callable[[sa.Connection], T]

logger = logging.getLogger("keylatch")

# Of a transaction that the database gave up in favour of another. Less than a second in all.
_ATTEMPTS: Final = 8
_FIRST_PAUSE: Final = 0.005  # seconds
# Twice as many as a pool of SQLAlchemy holds connections.
_THREADS: Final = 32
# Another transaction won: serialization failure, deadlock (PostgreSQL, appendix A).
_CONFLICT_STATES: Final = {"40001", "40P01"}
# Record has changed since last read, deadlock (MariaDB, error codes).
_CONFLICT_CODES: Final = {1020, 1213}


class ConstraintError(UnavailableError):
    """The database refused a row."""


@dataclass
class _Attempt:
    """How far a transaction of our own has come."""

    committing: bool = False
    given_up: bool = False


class _GivenUpError(Exception):
    """Nobody waits for this transaction any more: it is rolled back."""


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
            self.engine = _engine(source, deadline)
        finally:
            del source  # its password would show in a traceback with locals
        self._deadline = deadline
        self._writes = writes
        self._process = os.getpid()
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, unit: Unit[T], connection: Any = None) -> T:
        """Runs a unit of work in a transaction of its own, or in that of a connection.

        A transaction of its own is repeated when the database gives it up for another one, and
        when its connection turns out to be dead.

        Raises:
            UnavailableError: The database failed, or did not answer in time.
            ConstraintError: It refused a row.
            ConfigurationError: The connection commits each statement by itself.
            TypeError: The connection is of no type that is known here.
        """
        self._leave_inherited_connections()
        async with self._errors():
            if connection is not None:
                return await self._within(connection, unit)
            async with asyncio.timeout(self._deadline):
                if isinstance(self.engine, AsyncEngine):
                    return await self._repeated(unit, self._asynchronously(self.engine))
                return await self._repeated(unit, self._in_a_thread(self.engine))

    async def close(self) -> None:
        """Closes the connections of an engine that was made here. It may be used again."""
        self._leave_inherited_connections()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if not self._owned:
            return
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            await asyncio.to_thread(self.engine.dispose)

    async def _repeated(
        self, unit: Unit[T], once: Callable[[Unit[T], _Attempt], Awaitable[T]]
    ) -> T:
        for number in range(_ATTEMPTS - 1):
            attempt = _Attempt()
            try:
                return await once(unit, attempt)
            except DBAPIError as error:
                if not _may_be_repeated(error, attempt):
                    raise
            finally:
                attempt.given_up = True  # a thread that is still at it has nobody to answer to
            # Those that met in a crowd would meet again.
            pause = _FIRST_PAUSE * 2**number
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - it is no secret
        return await once(unit, _Attempt())

    def _asynchronously(self, engine: AsyncEngine) -> Callable[[Unit[T], _Attempt], Awaitable[T]]:
        async def once(unit: Unit[T], attempt: _Attempt) -> T:
            async with engine.connect() as connection:
                return await _run_sync(connection, _transaction, unit, attempt)

        return once

    def _in_a_thread(self, engine: sa.Engine) -> Callable[[Unit[T], _Attempt], Awaitable[T]]:
        def blocking(unit: Unit[T], attempt: _Attempt) -> T:
            if attempt.given_up:
                raise _GivenUpError
            with engine.connect() as connection:
                return _transaction(connection, unit, attempt)

        async def once(unit: Unit[T], attempt: _Attempt) -> T:
            try:
                return await self._thread(blocking, unit, attempt)
            finally:
                attempt.given_up = True

        return once

    async def _within(self, connection: Any, unit: Unit[T]) -> T:
        """In the host's transaction, which only the host commits or rolls back."""
        if isinstance(connection, async_scoped_session | scoped_session):
            connection = connection()

        def in_session(session: Session) -> T:
            return in_connection(self._of_session(session))

        def in_connection(connection: sa.Connection) -> T:
            if not connection.in_transaction():
                connection.begin()  # as a statement would: hosts hang a BEGIN of their own on it
            refuse_autocommit(connection)
            return unit(connection)

        match connection:
            case AsyncSession():
                async with asyncio.timeout(self._deadline):
                    return await _run_sync(connection, in_session)
            case AsyncConnection():
                async with asyncio.timeout(self._deadline):
                    return await _run_sync(connection, in_connection)
            case Session():
                return await self._uninterrupted(in_session, connection)
            case sa.Connection():
                return await self._uninterrupted(in_connection, connection)
        raise TypeError(
            "connection must be a SQLAlchemy session or connection, not "
            f"{type(connection).__name__}"
        )

    def _of_session(self, session: Session) -> sa.Connection:
        try:
            # A session of several engines is asked for the one that takes what is written here.
            return session.connection({"clause": self._writes})
        except UnboundExecutionError:
            raise ConfigurationError(
                "the session has no engine for keylatch's tables: add those of "
                "keylatch.sqlalchemy.metadata to its binds=, or pass a connection"
            ) from None

    async def _uninterrupted(self, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread that is waited for even if the caller is cancelled.

        What belongs to the host must not be used by two threads at once, and the host goes on to
        roll it back.
        """
        future = self._thread(function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):  # anyio cancels until it is obeyed
                    await asyncio.wait([future])
            raise

    def _thread(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="keylatch")
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, context.run, function, *arguments)

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """Turns what a database throws into ``UnavailableError``, without statement or values."""
        try:
            yield
        except TimeoutError:
            logger.error("the database did not answer within %s s", self._deadline)
            raise UnavailableError(
                f"the database did not answer within {self._deadline:g} s: check its load, its "
                "locks, and whether its connections are used up"
            ) from None
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            reason = _first_line(error.orig if isinstance(error, DBAPIError) else error)
            logger.error("the database failed: %s", reason)
            kind = ConstraintError if isinstance(error, IntegrityError) else UnavailableError
            raise kind(
                f"the database failed ({reason}): check that it is there, that its disk has "
                "room, and that this process may write to it"
            ) from None
        except InvalidRequestError as error:
            # Found out when it connects. The text is SQLAlchemy's only word for it.
            if "is not a MariaDB variant" not in str(error):
                raise
            raise ConfigurationError(
                "this server is MySQL, not MariaDB as the URL says: use MariaDB, PostgreSQL or "
                "SQLite"
            ) from None

    def _leave_inherited_connections(self) -> None:
        """After a fork: closing them is the parent's business, and no thread came along."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._threads = None
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


def _transaction(connection: sa.Connection, unit: Unit[T], attempt: _Attempt) -> T:
    with connection.begin():
        result = unit(connection)
        if attempt.given_up:
            raise _GivenUpError
        attempt.committing = True
    return result


def _may_be_repeated(error: DBAPIError, attempt: _Attempt) -> bool:
    """Whether nothing was written for sure, and another attempt may go better."""
    reason: Any = error.orig
    conflict = getattr(reason, "sqlstate", None) in _CONFLICT_STATES or (
        bool(reason.args) and reason.args[0] in _CONFLICT_CODES
    )
    return conflict or (error.connection_invalidated and not attempt.committing)


def _first_line(error: BaseException | None) -> str:
    """What a database says, without the details behind it, which may hold a row."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


def _engine(source: str | sa.Engine | AsyncEngine, deadline: float) -> sa.Engine | AsyncEngine:
    # No error is chained, and no local stays: either would show the URL and its password.
    try:
        if isinstance(source, sa.Engine | AsyncEngine):
            return source
        url = sa.make_url(source)
        dialect = url.get_dialect()
        options: dict[str, Any] = {
            "hide_parameters": True,
            "connect_args": _connect_arguments(dialect.driver, deadline),
        }
        if dialect.is_async:
            return create_async_engine(url, **options)
        return sa.create_engine(url, **options)
    except NoSuchModuleError:
        reason = "SQLAlchemy knows no dialect of the database URL's name"
    except ArgumentError:
        reason = (
            "the database cannot be read as one: pass a URL such as sqlite+aiosqlite:///keys.db, "
            "an Engine or AsyncEngine, or a Store"
        )
    except ModuleNotFoundError as error:
        reason = f"the database driver is not installed: pip install {error.name}"
    finally:
        source = ""
        url = None  # type: ignore[assignment]
    raise ConfigurationError(reason)


def _connect_arguments(driver: str, deadline: float) -> dict[str, Any]:
    """What keeps a thread from waiting for ever: what is asynchronous can be cancelled instead."""
    seconds = max(1, round(deadline))
    if driver == "psycopg":
        return {"connect_timeout": seconds, "options": f"-c statement_timeout={seconds}s"}
    if driver == "pymysql":
        return dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)
    return {}
