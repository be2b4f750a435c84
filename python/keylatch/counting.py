"""What is counted in SQL: the uses of keys, and the keys of each server secret.

Knows the columns that this takes, and no other.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from keylatch import locks, rows
from keylatch.kids import SecretUse, kid_in
from keylatch.records import Use
from keylatch.tables import api_keys

# As one document, so that there is one statement, whatever their number.
_ADD_TO_SQLITE: Final = """
UPDATE api_keys
SET use_count = use_count + n, last_used_at = max(coalesce(last_used_at, used_at), used_at)
FROM (
    SELECT
        json_extract(value, '$.id') AS used_id,
        json_extract(value, '$.count') AS n,
        json_extract(value, '$.at') AS used_at
    FROM json_each(:uses)
)
WHERE id = used_id
"""
_ADD_TO_POSTGRESQL: Final = """
UPDATE api_keys
SET use_count = use_count + uses.count, last_used_at = greatest(last_used_at, uses.at)
FROM (
    SELECT id, count, at AT TIME ZONE 'UTC' AS at
    FROM json_to_recordset(CAST(:uses AS json)) AS use (id text, count bigint, at timestamp)
) AS uses
WHERE api_keys.id = uses.id
"""
# In this order: the other way round it would lock, and wait for, all keys that there are.
_ADD_TO_MARIADB: Final = """
UPDATE JSON_TABLE(
    :uses, '$[*]' COLUMNS (
        used_id VARCHAR(16) PATH '$.id', n BIGINT PATH '$.count', used_at DATETIME(6) PATH '$.at'
    )
) AS uses STRAIGHT_JOIN api_keys FORCE INDEX (PRIMARY) ON id = used_id
SET use_count = use_count + n, last_used_at = greatest(coalesce(last_used_at, used_at), used_at)
"""
_ADD_USES: Final = {
    "sqlite": sa.text(_ADD_TO_SQLITE),
    "postgresql": sa.text(_ADD_TO_POSTGRESQL),
    "mysql": sa.text(_ADD_TO_MARIADB),
    "mariadb": sa.text(_ADD_TO_MARIADB),
}
# What stands in a stored hash behind kid= or keyid=, "" if neither does.
_KID_IN_MARIADB: Final = "substring_index(substring_index(hash, 'id=', -1), '$', 1)"
_KID: Final = {
    "sqlite": """
        CASE WHEN instr(hash, 'id=') = 0 THEN '' ELSE substr(
            substr(hash, instr(hash, 'id=') + 3),
            1,
            instr(substr(hash, instr(hash, 'id=') + 3), '$') - 1
        ) END
    """,
    "postgresql": "split_part(split_part(hash, 'id=', 2), '$', 1)",
    "mysql": _KID_IN_MARIADB,
    "mariadb": _KID_IN_MARIADB,
}


def record_usage(connection: sa.Connection, uses: Sequence[Use]) -> list[Use]:
    """Adds uses to the counts of keys, and returns those of keys that somebody else changes now.

    Waiting for these would make others wait for all the rest. Nothing else of a row is written,
    ever: a whole row would undo what others wrote.
    """
    ids = [use.key_id for use in uses]
    locks.lock_sqlite(connection)
    query = sa.select(api_keys.c.id).where(api_keys.c.id.in_(ids)).order_by(api_keys.c.id)
    free = set(connection.scalars(query.with_for_update(skip_locked=True)))
    document = [
        {"id": use.key_id, "count": use.count, "at": f"{use.last_at:%Y-%m-%d %H:%M:%S.%f}"}
        for use in uses
        if use.key_id in free
    ]
    statement = _ADD_USES[connection.dialect.name]
    connection.execute(statement, {"uses": json.dumps(document)})
    if len(free) == len(uses):
        return []
    locked = set(connection.scalars(query)) - free
    return [use for use in uses if use.key_id in locked]


def count_secrets(
    connection: sa.Connection, now: datetime, besides: Collection[str]
) -> list[SecretUse]:
    """Counts the keys that need each server secret, but those of some kids. Reads every key."""
    stored, find_kid = api_keys.c.hash, _KID[connection.dialect.name]
    query = sa.select(
        sa.func.substr(stored, 1, 2).label("scheme"),
        sa.literal_column(find_kid).label("kid"),
        sa.case((rows.dead(now), 1), else_=0).label("dead"),
        sa.case((api_keys.c.prefix == "", 1), else_=0).label("imported"),
        sa.func.count(),
    ).group_by("scheme", "kid", "dead", "imported")
    for kid in besides:
        # Most keys. To tell a kid of every one of them takes twice as long.
        query = query.where(stored.not_like(f"$hmac-sha256$v=1$kid={kid}$%"))
    living: Counter[str | None] = Counter()
    dead: Counter[str | None] = Counter()
    imported: Counter[str | None] = Counter()
    for scheme, text, is_dead, is_imported, count in connection.execute(query):
        found = kid_in(scheme, text)
        (dead if is_dead else living)[found] += count
        imported[found] += count if is_imported and not is_dead else 0
    return [SecretUse(each, living[each], dead[each], imported[each]) for each in imported]
