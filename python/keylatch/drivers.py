"""Where database drivers differ: how long they wait, what they say, and how a wait is cut short.

Knows drivers, and SQLAlchemy as far as it calls them; no transaction and no event loop.
"""

import math
import socket
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keylatch.errors import ConfigurationError

# Statements give up a little before the deadline, as a part of it: then it is certain that nothing
# was written, and the connection stays good.
_IN_TIME: Final = 0.9
# Another transaction won: serialization failure, deadlock (PostgreSQL, appendix A).
_CONFLICT_STATES: Final = {"40001", "40P01"}
# Record has changed since last read, deadlock (MariaDB, error codes).
_CONFLICT_CODES: Final = {1020, 1213}


class Line:
    """The way from a thread that waits to its server, which another thread can cut.

    Args:
        connection: What the thread is about to wait for.
    """

    def __init__(self, connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._lock = Lock()
        self._socket: socket.socket | None = None
        # A socket of its own on the same line, so that it never cuts another one of that number.
        # PyMySQL tells no number. SQLite has none, and gives up by itself.
        with suppress(Exception):
            number = (driver if hasattr(driver, "fileno") else driver._sock).fileno()  # noqa: SLF001
            self._socket = socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)

    def cut(self) -> None:
        """Has the thread, and everybody else who uses the connection, find it dead."""
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def is_conflict(error: DBAPIError) -> bool:
    """Whether the database gave a transaction up in favour of another one."""
    said: Any = error.orig
    return getattr(said, "sqlstate", None) in _CONFLICT_STATES or (
        bool(said.args) and said.args[0] in _CONFLICT_CODES
    )


def first_line(error: BaseException) -> str:
    """What a database says, without the details behind it, which may hold a row."""
    said = error.orig if isinstance(error, DBAPIError) else error
    text = str(said).strip()
    return f"{type(said).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


def engine_of(source: str | sa.Engine | AsyncEngine, deadline: float) -> sa.Engine | AsyncEngine:
    """The engine of the host application, or one that is made here and waits for no longer.

    Raises:
        ConfigurationError: The URL or engine cannot be used; the text says what to do.
    """
    # No error is chained, and no local stays: either would show the URL and its password.
    try:
        if isinstance(source, sa.Engine | AsyncEngine):
            return source
        return _made(sa.make_url(source), deadline)
    except NoSuchModuleError:
        reason = (
            "SQLAlchemy knows no dialect of the database URL's name: begin the URL with "
            "sqlite+aiosqlite://, postgresql+asyncpg:// or mariadb+asyncmy://"
        )
    except (ArgumentError, TypeError, ValueError):
        reason = (
            "the database cannot be read as one: pass a URL such as sqlite+aiosqlite:///keys.db, "
            "an Engine or AsyncEngine, or a Store; in a URL's password, write @ as %40, : as %3A "
            "and / as %2F"
        )
    except ModuleNotFoundError as error:
        reason = (
            f"the database driver {error.name} is not installed: install it, or name another one "
            "in the URL, as in postgresql+asyncpg:// or mariadb+asyncmy://"
        )
    finally:
        source = ""
    raise ConfigurationError(reason)


def _made(url: sa.URL, deadline: float) -> sa.Engine | AsyncEngine:
    dialect: Any = url.get_dialect()
    options: dict[str, Any] = {
        "hide_parameters": True,
        "connect_args": _limits(dialect.driver, url, deadline),
    }
    if issubclass(dialect.get_pool_class(url), sa.QueuePool):
        options["pool_timeout"] = deadline
    if dialect.is_async:
        engine = create_async_engine(url, **options)
        _explain_refusals(engine.sync_engine)
        _limit_statements(engine.sync_engine, deadline)
        return engine
    synchronous = sa.create_engine(url, **options)
    _explain_refusals(synchronous)
    _limit_statements(synchronous, deadline)
    return synchronous


def _limits(driver: str, url: sa.URL, deadline: float) -> dict[str, Any]:
    """How long a driver waits, where a thread cannot be called back. What the URL says, counts."""
    limits: dict[str, Any] = {}
    always: dict[str, Any] = {}
    match driver:
        case "psycopg":
            limits = {"connect_timeout": math.ceil(deadline)}
            options = " ".join(url.normalized_query.get("options", ()))
            if "statement_timeout" not in options:
                milliseconds = math.ceil(deadline * _IN_TIME * 1000)
                always = {"options": f"{options} -c statement_timeout={milliseconds}".strip()}
        case "pymysql":
            limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), deadline)
        case "pysqlite" | "aiosqlite":
            limits = {"timeout": deadline * _IN_TIME}
    return {name: value for name, value in limits.items() if name not in url.query} | always


def _explain_refusals(engine: sa.Engine) -> None:
    """Has it said that a driver refused an option of the URL, such as asyncpg ``sslmode``."""

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        try:
            return dialect.connect(*arguments, **options)
        except (TypeError, ValueError) as error:
            # Of these texts only this one is known to hold a name and no value.
            named = "keyword argument" in str(error)
            reason = str(error) if named else type(error).__name__
        finally:
            del arguments, options  # the password would show in a traceback with locals
        raise ConfigurationError(
            f"{dialect.driver} refused what stands behind the ? of the database URL ({reason}): "
            "each driver has options of its own, such as ssl in asyncpg and sslmode in psycopg"
        )


def _limit_statements(engine: sa.Engine, deadline: float) -> None:
    """Has MariaDB stop at what it was asked when its client has given up.

    PostgreSQL is told so by its drivers.
    """
    dialect: Any = engine.dialect
    if dialect.name not in ("mysql", "mariadb"):
        return

    @sa.event.listens_for(engine, "connect")
    def limit(connection: Any, _: object) -> None:
        if dialect.is_mariadb:  # which is known by now; MySQL has no such variable
            cursor = connection.cursor()
            cursor.execute(f"SET SESSION max_statement_time = {deadline * _IN_TIME:f}")
            cursor.close()
