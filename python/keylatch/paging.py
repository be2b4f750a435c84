"""What ``list`` asks for, in SQL: a filter, an order and a place, such that one index serves all.

Which index that is shows in the clauses: each of its columns is bounded, and stands in the order.
Knows the tables, no connection.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, GenericFunction

from keylatch.listing import NEWEST_FIRST, Cursor, KeyFilter
from keylatch.tables import api_keys

_Columns = Sequence[sa.Column[Any]]
_MARIADB: Final = ("mysql", "mariadb")


def page(
    query: sa.Select[Any], wanted: KeyFilter, after: Cursor | None, *, dialect: str
) -> sa.Select[Any]:
    """Restricts a query to keys that pass a filter and stand behind a place, and orders them."""
    columns = _indexed(wanted)
    if after is not None:
        # Of two bounds of a column SQLite and PostgreSQL begin at the one that comes first.
        query = query.where(_behind(after, columns, wanted, dialect))
    query = query.where(*_conditions(wanted, columns[0]))
    descending = wanted.order.descending
    return query.order_by(*(column.desc() if descending else column for column in columns))


def _indexed(wanted: KeyFilter) -> _Columns:
    """The columns of the index."""
    key = api_keys.c
    ordering = key[wanted.order.moment], key.id
    if wanted.order == NEWEST_FIRST:
        for name in ("owner", "name", "prefix"):
            if getattr(wanted, name) is not None:
                return key[name], *ordering
    return ordering


def _behind(
    after: Cursor, columns: _Columns, wanted: KeyFilter, dialect: str
) -> sa.ColumnElement[bool]:
    beyond = operator.lt if wanted.order.descending else operator.gt
    *leading, moment, key_id = columns
    if dialect in _MARIADB:
        # It finds no place by comparing rows. The first condition finds it, the second is exact.
        up_to = operator.le if wanted.order.descending else operator.ge
        exact = sa.or_(beyond(moment, after.moment), beyond(key_id, after.key_id))
        return sa.and_(up_to(moment, after.moment), exact)
    values = (getattr(wanted, column.name) for column in leading)
    behind: sa.ColumnElement[bool] = beyond(
        sa.tuple_(*columns), (*values, after.moment, after.key_id)
    )
    return behind


def _conditions(wanted: KeyFilter, first: sa.Column[Any]) -> Iterator[sa.ColumnElement[bool]]:
    key = api_keys.c
    for column in (key.owner, key.name, key.prefix):
        value = getattr(wanted, column.name)
        if value is None:
            continue
        if column is first:
            # An equality would drop out of the order, and with it the reason to take this index:
            # PostgreSQL read past everybody else's keys, MariaDB past those of earlier pages.
            yield column >= value
            yield column <= value
        else:
            yield (_beside(column) if column is key.prefix else column) == value
    if wanted.prefixes is not None:
        yield _beside(key.prefix).in_(wanted.prefixes)
    if wanted.scope is not None:
        # The quotes of JSON stand around each name, and no name holds one.
        yield _position(sa.type_coerce(key.scopes, sa.Text), f'"{wanted.scope}"') > 0
    if wanted.unused_since is not None:
        yield sa.func.coalesce(key.last_used_at, key.created_at) < wanted.unused_since
        if first is key.created_at:
            # Nobody uses a key before it is made: so the index is not read from its end.
            yield key.created_at < wanted.unused_since
    if wanted.expiring_before is not None:
        yield key.expires_at < wanted.expiring_before
    if wanted.status is not None:
        yield from _status(wanted)


def _status(wanted: KeyFilter) -> Iterator[sa.ColumnElement[bool]]:
    key = api_keys.c
    if wanted.status == "revoked":
        yield key.revoked_at.is_not(None)
        return
    yield _beside(key.revoked_at).is_(None)
    if wanted.status == "expired":
        yield key.expires_at <= wanted.now
    elif wanted.expiring_before is not None:
        # What lasts is left out already, and without an OR this bounds the index.
        yield key.expires_at > wanted.now
    else:
        yield sa.or_(key.expires_at.is_(None), key.expires_at > wanted.now)


class _beside(FunctionElement[Any]):  # noqa: N801 - reads as SQL
    """A column that SQLite shall take no index for: it has no idea how many rows that leaves."""

    inherit_cache = True

    def __init__(self, column: sa.Column[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_beside)
def _itself(element: _beside, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(_beside, "sqlite")
def _plus(element: _beside, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


class _position(GenericFunction[int]):  # noqa: N801 - SQL's own name for it
    """Where a text stands in another one, case included; 0 if nowhere."""

    name = "instr"
    type = sa.Integer()
    inherit_cache = True


@compiles(_position, "postgresql")
def _strpos(element: _position, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    within, sought = (compiler.process(clause, **options) for clause in element.clauses)
    return f"strpos(CAST({within} AS TEXT), {sought})"
