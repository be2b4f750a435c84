"""The tables of the article's app: its keys, row by row, and the plaintext in them.

Knows these tables and the engine that they are read with; no key of keylatch's.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError

from keylatch.engines import Database, Steps
from keylatch.errors import ConfigurationError, UnavailableError

T = TypeVar("T")

# Rows that are read at once.
_PORTION: Final = 500
# In seconds; to count the rows of a big table takes a while.
_DEADLINE: Final = 60.0
# What passlib takes for one.
_BCRYPT: Final = re.compile(r"\$2[abxy]?\$[0-9]{2}\$[./A-Za-z0-9]{53}")

_users: Final = sa.table("users", sa.column("user_id", sa.String))
_keys: Final = sa.table(
    "user_api_keys",
    sa.column("id", sa.Integer),
    sa.column("user_id", sa.String),
    sa.column("secret_key", sa.String),
    sa.column("public_key", sa.String),
)


@dataclass(frozen=True, slots=True)
class ArticleKey:
    """A row of ``user_api_keys``. ``repr`` hides its secret.

    Attributes:
        row: Its id.
        user_id: Whose it is.
        user: The ``user_id`` of that user, as the user's own row has it; None if there is none.
        secret: The token, in plaintext; empty if there is none.
        has_hash: Whether ``public_key`` is ``MV_PUBLIC_`` and a bcrypt hash, so that the app takes
            the token at all.
    """

    row: int
    user_id: str | None
    user: str | None
    secret: str = field(repr=False)
    has_hash: bool


class ArticleDatabase:
    """The database of the article's app. Nothing but :meth:`empty` writes to it.

    Args:
        url: Of SQLite, PostgreSQL or MariaDB, with a driver of either kind.

    Raises:
        ConfigurationError: The URL cannot be used; the text says what to do.
    """

    def __init__(self, url: str) -> None:
        try:
            self._database = Database(url, deadline=_DEADLINE)
        except ConfigurationError as error:
            raise ConfigurationError(_of_the_article(error)) from None
        finally:
            del url  # its password would show in a traceback with locals

    async def count(self) -> int:
        """How many keys there are.

        Raises:
            ConfigurationError: The tables are not the article's.
            UnavailableError: The database failed, or did not answer in time.
        """
        return await self._run(lambda on, _: _count(on))

    async def rows(self) -> AsyncIterator[Sequence[ArticleKey]]:
        """All keys by their ids, some hundreds at a time, each portion in its own transaction.

        Raises:
            UnavailableError: The database failed, or did not answer in time.
        """
        after: int | None = None
        while found := await self._run(lambda on, _: _portion(on, after)):  # noqa: B023
            yield found
            after = found[-1].row

    async def empty(
        self, chosen: Callable[[ArticleKey], bool], progress: Callable[[int], None]
    ) -> int:
        """Empties ``secret_key`` of the chosen rows in one transaction: of all, or of none.

        Args:
            chosen: Tells of a row as it is now whether it is one of them.
            progress: Called with how many rows were looked at.

        Returns:
            How many were emptied.

        Raises:
            UnavailableError: The database failed, and every secret is still there.
        """

        def unit(connection: sa.Connection, come_on: Callable[[], None]) -> int:
            emptied = seen = 0
            for portion in _portions(connection):
                emptied += _empty(connection, [key for key in portion if chosen(key)])
                seen += len(portion)
                come_on()
                progress(seen)
            return emptied

        return await self._run(unit)

    async def _run(self, unit: Steps[T]) -> T:
        try:
            return await self._database.run_steps(unit)
        except UnavailableError as error:
            raise UnavailableError(_of_the_article(error)) from None

    async def close(self) -> None:
        """Lets go of connections."""
        await self._database.close()


def _of_the_article(error: Exception) -> str:
    return str(error).replace("the database", "the article's database", 1)


def _count(connection: sa.Connection) -> int:
    inspector = sa.inspect(connection)
    for table in (_users, _keys):
        try:
            there = {column["name"] for column in inspector.get_columns(table.name)}
        except NoSuchTableError:
            there = set()
        if not there.issuperset(table.c.keys()):
            columns = ", ".join(table.c.keys())
            raise ConfigurationError(
                f"this is no database of the article's app: it needs a table {table.name} with "
                f"the columns {columns}"
            )
    return connection.scalar(sa.select(sa.func.count()).select_from(_keys)) or 0


def _portions(connection: sa.Connection) -> Iterator[Sequence[ArticleKey]]:
    after = None
    while found := _portion(connection, after):
        yield found
        after = found[-1].row


def _portion(connection: sa.Connection, after: int | None) -> Sequence[ArticleKey]:
    user = (
        sa.select(_users.c.user_id).where(_users.c.user_id == _keys.c.user_id).limit(1)
    ).scalar_subquery()
    columns: list[sa.ColumnElement[Any]]
    columns, encoding = [_keys.c.user_id, user, _keys.c.secret_key, _keys.c.public_key], "utf-8"
    if connection.dialect.name == "sqlite":  # which keeps what is no text, and fails to read it
        columns = [sa.cast(column, sa.LargeBinary) for column in columns]
        encoding = connection.exec_driver_sql("PRAGMA encoding").scalar_one()
    query = sa.select(_keys.c.id, *columns).order_by(_keys.c.id).limit(_PORTION)
    if after is not None:
        query = query.where(_keys.c.id > after)
    return [
        _key(number, *(_text(value, encoding) for value in values))
        for number, *values in connection.execute(query)
    ]


def _key(
    row: int, user_id: str | None, user: str | None, secret: str | None, public_key: str | None
) -> ArticleKey:
    _, marked, stored = (public_key or "").partition("MV_PUBLIC_")
    has_hash = bool(marked) and _BCRYPT.fullmatch(stored) is not None
    return ArticleKey(row, user_id, user, secret or "", has_hash=has_hash)


def _text(value: Any, encoding: str) -> str | None:
    """What is no text becomes one that no token is."""
    if value is None:
        return None
    return value.decode(encoding, "replace") if isinstance(value, bytes) else str(value)


def _empty(connection: sa.Connection, keys: Sequence[ArticleKey]) -> int:
    if not keys:
        return 0
    # Whoever has written another secret meanwhile keeps it.
    statement = (
        sa.update(_keys)
        .where(_keys.c.id == sa.bindparam("row"), _keys.c.secret_key == sa.bindparam("secret"))
        .values(secret_key="")
    )
    connection.execute(statement, [{"row": key.row, "secret": key.secret} for key in keys])
    # Not every driver counts the rows of many statements.
    emptied = sa.select(sa.func.count()).where(
        _keys.c.id.in_([key.row for key in keys]), _keys.c.secret_key == ""
    )
    return connection.scalar(emptied) or 0
