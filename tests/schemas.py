"""What tests of the tables share: a unit of work run on a URL, and how the tables look.

Knows the tables as they are now, and how a row of the first revision is written.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from keylatch import Hasher, SecretRing, mint, parse
from keylatch.engines import Database
from keylatch.sqlalchemy import metadata


async def run(source: Any, unit: Callable[[sa.Connection], Any]) -> Any:
    """Runs a unit of work in a transaction, whatever the driver is."""
    database = Database(source, deadline=30)
    try:
        return await database.run(unit)
    finally:
        await database.close()


def execute(*statements: str) -> Callable[[sa.Connection], None]:
    """A unit of work: statements as they stand."""

    def unit(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    return unit


def differences(connection: sa.Connection) -> list[Any]:
    """What the autogeneration of Alembic would change."""
    options = {"compare_type": True, "compare_server_default": True}
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def structure(connection: sa.Connection) -> dict[str, Any]:
    """The tables as the database describes them, with what autogeneration does not compare."""
    inspector = sa.inspect(connection)
    return {
        name: {
            "columns": [
                column | {"type": column["type"].compile(connection.dialect)}
                for column in inspector.get_columns(name)
            ],
            "primary key": inspector.get_pk_constraint(name),
            "indexes": sorted(inspector.get_indexes(name), key=lambda index: index["name"]),
        }
        for name in inspector.get_table_names()
    }


def key_of_0001(secret: str) -> tuple[str, Callable[[sa.Connection], None]]:
    """A token, and a unit of work that adds its key to tables of the first revision."""
    ring = SecretRing(secret)
    token = mint("acme_live", ring)
    key_id, stored = parse(token).key_id, Hasher(ring).hash(token)

    def unit(connection: sa.Connection) -> None:
        zone = "+00" if connection.dialect.name == "postgresql" else ""
        moment = f"'2026-01-01 00:00:00.123456{zone}'"
        execute(
            "INSERT INTO api_keys (id, prefix, hash, name, owner, scopes, metadata, created_at,"
            f" updated_at, use_count) VALUES ('{key_id}', 'acme_live', '{stored}', 'ci', 'u1',"
            f""" '["items:read"]', '{{"team": "data"}}', {moment}, {moment}, 7)""",
            "INSERT INTO api_key_events (key_id, at, action, actor, details) VALUES"
            f" ('{key_id}', {moment}, 'created', NULL, '{{}}')",
        )(connection)

    return token, unit
