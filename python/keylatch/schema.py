"""Whether the tables in a database are those of this version. Makes them in SQLite only.

Knows the tables, and no Alembic: a worker that starts must not need it.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from keylatch.engines import refuse_autocommit
from keylatch.errors import ConfigurationError, SchemaError
from keylatch.tables import REVISIONS, keylatch_version, metadata


def prepare(connection: sa.Connection) -> None:
    """Makes the tables in an empty SQLite database, and refuses those of another version.

    Raises:
        SchemaError: They are missing, older or newer; the text says what to run.
        ConfigurationError: The connection commits each statement by itself.
    """
    refuse_autocommit(connection)
    if connection.dialect.name == "sqlite" and not has_tables(connection):
        begin_immediate(connection)
        _create(connection)
    check(connection)


def check(connection: sa.Connection) -> str:
    """Says which revision the tables are of: that of this version.

    Raises:
        SchemaError: They are missing, older or newer; the text says what to run.
        ConfigurationError: The server is MySQL.
    """
    refuse_mysql(connection)
    if not has_tables(connection):
        if stored_revision(connection) is not None:
            raise SchemaError(
                "the tables of keylatch are gone from the database, although it has their "
                "revision: restore them from a backup, or drop the table keylatch_version and run "
                "`keylatch db upgrade`"
            )
        raise SchemaError(
            "the database has no tables of keylatch: run `keylatch db upgrade`, or make a "
            "migration of your own from keylatch.sqlalchemy.metadata"
        )
    revision = stored_revision(connection)
    if revision is None and (missing := lacking(connection)):
        raise SchemaError(
            f"the tables of keylatch are not those of this version, {missing} is missing: run "
            "`keylatch db upgrade`, or, if your own migrations made them, make another one from "
            "keylatch.sqlalchemy.metadata"
        )
    refuse_newer(revision)
    if revision is not None and revision != REVISIONS[-1]:
        raise SchemaError(
            f"the tables of keylatch are older than this version (revision {revision}, not "
            f"{REVISIONS[-1]}): run `keylatch db upgrade`"
        )
    if missing := lacking(connection):
        raise SchemaError(
            f"the tables of keylatch are damaged, {missing} is missing: restore it from a backup"
        )
    _refuse_engines_without_transactions(connection)
    return REVISIONS[-1]


def _refuse_engines_without_transactions(connection: sa.Connection) -> None:
    """MariaDB has engines that would lose events, and keep what was rolled back."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        return
    query = (
        "SELECT t.table_name FROM information_schema.tables t JOIN information_schema.engines e "
        "ON e.engine = t.engine WHERE t.table_schema = DATABASE() AND e.transactions <> 'YES' "
        "AND t.table_name IN ('api_keys', 'api_key_events') ORDER BY 1"
    )
    for name in connection.exec_driver_sql(query).scalars():
        raise SchemaError(
            f"the table {name} has an engine without transactions: run ALTER TABLE {name} "
            "ENGINE=InnoDB"
        )


def refuse_mysql(connection: sa.Connection) -> None:
    """MySQL is spoken to like MariaDB, but would compare texts in another way.

    Raises:
        ConfigurationError: The server is MySQL.
    """
    dialect: Any = connection.dialect
    if dialect.name == "mysql" and not dialect.is_mariadb:
        raise ConfigurationError(
            "this server is MySQL, which lacks the collation utf8mb4_nopad_bin: use MariaDB, "
            "PostgreSQL or SQLite"
        )


def refuse_newer(revision: str | None) -> None:
    """What a later version made of the tables is unknown here.

    Raises:
        SchemaError: The revision is none of this version's; the text says what to install.
    """
    if revision is not None and revision not in REVISIONS:
        raise SchemaError(
            f"the tables of keylatch are newer than this version (revision {revision}, known up "
            f"to {REVISIONS[-1]}): install the version of keylatch that made them"
        )


def begin_immediate(connection: sa.Connection) -> None:
    """Locks a SQLite database for writing, before anything is read that the writing rests on."""
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        # Python begins a transaction before the first INSERT only, not before a CREATE.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def stored_revision(connection: sa.Connection) -> str | None:
    """The revision that our migrations left, None if they never ran here."""
    if not sa.inspect(connection).has_table(keylatch_version.name):
        return None
    return connection.scalar(sa.select(keylatch_version.c.version_num))


def has_tables(connection: sa.Connection) -> bool:
    """Whether there are any, whoever made them."""
    return sa.inspect(connection).has_table("api_keys")


def lacking(connection: sa.Connection) -> str:
    """A table, column or index that is not there, "" if all are."""
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        if table is keylatch_version:
            continue  # the host's own migrations have one of their own
        if not inspector.has_table(table.name):
            return f"table {table.name}"
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        indexes = {index["name"] for index in inspector.get_indexes(table.name)}
        for column in table.columns:
            if column.name not in columns:
                return f"column {table.name}.{column.name}"
        for index in table.indexes:
            if index.name not in indexes:
                return f"index {index.name}"
    return ""


def _create(connection: sa.Connection) -> None:
    # Another worker may have been faster.
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    if stored_revision(connection) is None:
        connection.execute(sa.insert(keylatch_version).values(version_num=REVISIONS[-1]))
