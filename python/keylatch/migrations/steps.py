"""Steps of a migration that may be taken again: MariaDB keeps half of one that was interrupted.

Knows no table and no revision.
"""

import sqlalchemy as sa
from alembic.operations import Operations

from keylatch.errors import SchemaError


def create_table(operations: Operations, name: str, *columns: sa.Column[object]) -> None:
    """Makes a table, unless it is there.

    Raises:
        SchemaError: It is there, but lacks a column, so that somebody else made it.
    """
    inspector = sa.inspect(operations.get_bind())
    if not inspector.has_table(name):
        engine = "InnoDB"  # which has transactions, whatever MariaDB's default is
        operations.create_table(name, *columns, mysql_engine=engine, mariadb_engine=engine)
        return
    present = {column["name"] for column in inspector.get_columns(name)}
    for column in columns:
        if column.name not in present:
            raise SchemaError(
                f"the table {name} is not as keylatch makes it, column {name}.{column.name} is "
                "missing: if your own migrations made the table, make another one from "
                "keylatch.sqlalchemy.metadata; if it is not keylatch's, rename it"
            )


def add_index(operations: Operations, name: str, table: str, columns: list[str]) -> None:
    """Makes an index, unless there is one of its name, on whatever columns."""
    if name not in _indexes(operations, table):
        operations.create_index(name, table, columns)


def replace_index(operations: Operations, name: str, table: str, columns: list[str]) -> None:
    """Makes an index, in place of one of its name on other columns."""
    present = _indexes(operations, table)
    if present.get(name) == columns:
        return
    if name in present:
        operations.drop_index(name, table)
    operations.create_index(name, table, columns)


def drop_index(operations: Operations, name: str, table: str) -> None:
    """Drops an index, unless it is gone."""
    if name in _indexes(operations, table):
        operations.drop_index(name, table)


def _indexes(operations: Operations, table: str) -> dict[str | None, list[str | None]]:
    # An inspector remembers what it saw: each look needs its own.
    indexes = sa.inspect(operations.get_bind()).get_indexes(table)
    return {index["name"]: index["column_names"] for index in indexes}
