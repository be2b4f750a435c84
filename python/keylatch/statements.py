"""Reading and writing keys in SQL: units of work, as functions of a connection.

Every statement stands once, for SQLite, PostgreSQL and MariaDB. Knows records and tables, no
engine and no event loop.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from keylatch import inserting, locks, rows, trail
from keylatch.listing import Cursor, KeyFilter
from keylatch.paging import page
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, differences
from keylatch.store import Decide, DecideKnowing, Leave
from keylatch.tables import api_key_events, api_keys

# Brings a row in any case, of NULLs where there is no key: it must take as long.
_WANTED: Final = sa.select(sa.bindparam("key_id", type_=api_keys.c.id.type).label("id")).subquery()
_LOAD: Final = rows.RECORD.select_from(_WANTED.outerjoin(api_keys, api_keys.c.id == _WANTED.c.id))
# How many rows are changed by one statement: their ids fit into one packet of any database.
_PORTION: Final = 500


def load(connection: sa.Connection, key_id: str) -> KeyRecord | None:
    """Reads a key by its id."""
    with rows.decoding():
        found = rows.found(connection.execute(_LOAD, {"key_id": key_id}).mappings())
    if found is None:
        rows.decode_decoy(connection.dialect)
    return found


def existing(connection: sa.Connection, key_ids: Sequence[str]) -> set[str]:
    """Tells which of these ids keys have."""
    found: set[str] = set()
    for start in range(0, len(key_ids), _PORTION):
        portion = api_keys.c.id.in_(key_ids[start : start + _PORTION])
        found.update(connection.scalars(sa.select(api_keys.c.id).where(portion)))
    return found


def select(
    connection: sa.Connection, wanted: KeyFilter, after: Cursor | None, limit: int
) -> list[APIKey]:
    """Reads keys that pass a filter, all of which is applied before paging."""
    query = page(rows.KEY, wanted, after, dialect=connection.dialect.name).limit(limit)
    with rows.decoding():
        return [rows.key(row) for row in connection.execute(query).mappings()]


def change(
    connection: sa.Connection, key_id: str, decide: Decide, leave: Leave | None = None
) -> Change | None:
    """Changes a key that nobody else can change meanwhile, nor the one by whose leave it is."""
    if leave is None:
        record = locks.lock(connection, key_id)
    else:
        by, look = leave
        records = locks.lock_both(connection, key_id, by)
        look(records.get(by))
        record = records.get(key_id)
    if record is None:
        return None
    changed = decide(record)
    if changed.successor is not None:
        inserting.insert(connection, changed.successor)
    _apply(connection, [(record.key, changed)])
    return changed


def change_knowing(
    connection: sa.Connection, key_id: str, action: str, decide: DecideKnowing
) -> Change | None:
    """Changes a key by the latest entry of an action, with the key's lock held before it is read.

    So whoever waits for the lock reads what the one before has written.
    """
    record = locks.lock(connection, key_id)
    if record is None:
        return None
    latest = trail.events(connection, key_id, action=action, latest=1)
    changed = decide(record, latest[0] if latest else None)
    _apply(connection, [(record.key, changed)])
    return changed


def change_owned(connection: sa.Connection, owner: str, decide: Decide) -> list[Change] | None:
    """Changes a portion of an owner's unrevoked keys. None if none are left; else ask again.

    A rotation that was committed while its key was waited for left a successor, which only
    another statement sees. Somebody else may have revoked the key by then: a portion that came
    out empty does not mean that none are left.
    """
    unrevoked = (api_keys.c.owner == owner, api_keys.c.revoked_at.is_(None))
    query = (
        rows.RECORD.where(*unrevoked)
        .order_by(api_keys.c.created_at, api_keys.c.id)
        .limit(_PORTION)
        .with_for_update()
    )
    locks.lock_sqlite(connection)
    with rows.decoding():
        records = list(map(rows.record, connection.execute(query).mappings()))
    if not records:
        left = sa.select(api_keys.c.id).where(*unrevoked).limit(1)
        if connection.dialect.name in ("mysql", "mariadb"):
            # What it reads without locks may be as old as the host's transaction.
            left = left.with_for_update()
        return None if connection.scalar(left) is None else []
    portion = [(record.key, decide(record)) for record in records]
    _apply(connection, portion)
    return [changed for _, changed in portion]


def purge(connection: sa.Connection, dead_since: datetime) -> int:
    """Deletes a portion of the keys that were dead by a moment. Returns how many."""
    locks.lock_sqlite(connection)
    key_id, ids = api_keys.c.id, list[str]()
    # One range after the other, found without locks: MariaDB would collect both of them whole, and
    # lock the end of the index, where every revocation writes.
    for moment in (api_keys.c.revoked_at, api_keys.c.expires_at):
        dead = sa.select(key_id).where(moment <= dead_since).order_by(moment, key_id)
        if not ids:
            ids += connection.scalars(dead.limit(_PORTION))
    # Nothing brings the dead back: they can only have been purged by somebody else meanwhile.
    ids = list(connection.scalars(sa.select(key_id).where(key_id.in_(ids)).with_for_update()))
    if ids:
        connection.execute(sa.delete(api_key_events).where(api_key_events.c.key_id.in_(ids)))
        locks.expect(connection.execute(sa.delete(api_keys).where(key_id.in_(ids))), len(ids))
    return len(ids)


def rehash(connection: sa.Connection, old: str, new: str, event: KeyEvent) -> bool:
    """Replaces the stored hash of a living key, if it still is the old one, and tells whether."""
    key = api_keys.c
    statement = (
        sa.update(api_keys)
        .where(key.id == event.key_id, key.hash == old, sa.not_(rows.dead(event.at)))
        .values(hash=new, updated_at=event.at)
    )
    if connection.execute(statement).rowcount != 1:
        return False
    trail.write_events(connection, [event])
    return True


def _apply(connection: sa.Connection, changes: Sequence[tuple[APIKey, Change]]) -> None:
    """Writes the fields that changed and no others: a whole row would undo what others wrote."""
    rows = [
        (_edits(old, changed.key, changed.event), old.id)
        for old, changed in changes
        if changed.event is not None
    ]
    for values, alike in groupby(rows, key=itemgetter(0)):
        ids = [key_id for _, key_id in alike]
        statement = sa.update(api_keys).where(api_keys.c.id.in_(ids)).values(values)
        locks.expect(connection.execute(statement), len(ids))
    trail.write_events(connection, [each.event for _, each in changes if each.event is not None])


def _edits(old: APIKey, new: APIKey, event: KeyEvent) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(new, name) for name in differences(old, new)}
    values["updated_at"] = event.at
    if "scopes" in values:
        values["scopes"] = sorted(new.scopes)
    if "revoked_at" in values:
        values["revoked_reason"] = event.details["reason"]
    return values
