"""Reading keys that nobody else can change until a transaction ends. Knows no change of them."""

from typing import Any, Final

import sqlalchemy as sa

from keylatch import rows
from keylatch.errors import UnavailableError
from keylatch.records import KeyRecord
from keylatch.tables import api_keys

_FIND: Final = rows.RECORD.where(api_keys.c.id == sa.bindparam("key_id"))
# FOR UPDATE reads what is committed now, also on MariaDB, whose snapshots are older. SQLite has
# no such clause.
_LOCK: Final = _FIND.with_for_update()
# SQLite locks the whole database, with the first statement that may write.
_LOCK_SQLITE: Final = (
    sa.update(api_keys).where(api_keys.c.id == "").values(use_count=api_keys.c.use_count)
)


def lock(connection: sa.Connection, key_id: str) -> KeyRecord | None:
    """Reads a key that nobody else can change until the transaction ends."""
    lock_sqlite(connection)
    with rows.decoding():
        return rows.found(connection.execute(_LOCK, {"key_id": key_id}).mappings())


def lock_both(connection: sa.Connection, *key_ids: str) -> dict[str, KeyRecord]:
    """The same of two keys, or of one twice."""
    # The older one first, as where all keys of an owner are changed: or each might wait for the
    # other.
    query = (
        rows.RECORD.where(api_keys.c.id.in_(key_ids))
        .order_by(api_keys.c.created_at, api_keys.c.id)
        .with_for_update()
    )
    lock_sqlite(connection)
    with rows.decoding():
        found = map(rows.record, connection.execute(query).mappings())
        return {record.key.id: record for record in found}


def lock_sqlite(connection: sa.Connection) -> None:
    """Has SQLite let nobody else write until the transaction ends. Elsewhere rows are locked."""
    if connection.dialect.name == "sqlite":
        connection.execute(_LOCK_SQLITE)


def expect(result: sa.CursorResult[Any], count: int) -> None:
    """Makes sure that the database did as told, which a trigger or a policy may prevent."""
    if result.rowcount != count:
        raise UnavailableError(
            "the database did not change the keys that it was told to, and nothing was changed: "
            "check its triggers and policies"
        )
