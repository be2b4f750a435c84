"""Reading and writing keys in SQL: units of work, as functions of a connection.

Every statement stands once, for SQLite, PostgreSQL and MariaDB. Knows records and tables, no
engine and no event loop.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError

from keylatch.errors import UnavailableError
from keylatch.kids import SecretUse, kid_in
from keylatch.listing import Cursor, KeyFilter
from keylatch.paging import page
from keylatch.records import DECOY, APIKey, Change, KeyEvent, KeyRecord, Mark, Use, differences
from keylatch.store import Decide, DuplicateKeyError, Leave
from keylatch.tables import api_key_events, api_keys

_MARK: Final = sa.select(api_key_events.c.id, api_key_events.c.key_id, api_key_events.c.at)
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
# What PostgreSQL's notifications of changed keys are sent on.
CHANNEL: Final = "keylatch"
_NOTIFY: Final = sa.text(
    "SELECT pg_notify(:channel, key_id) "
    "FROM json_array_elements_text(CAST(:key_ids AS json)) AS key_id"
)
_FIELDS: Final = tuple(APIKey.__dataclass_fields__)
_KEY: Final = sa.select(*(api_keys.c[name] for name in _FIELDS))
_RECORD: Final = _KEY.add_columns(api_keys.c.hash)
_FIND: Final = _RECORD.where(api_keys.c.id == sa.bindparam("key_id"))
# Brings a row in any case, of NULLs where there is no key: it must take as long.
_WANTED: Final = sa.select(sa.bindparam("key_id", type_=api_keys.c.id.type).label("id")).subquery()
_LOAD: Final = _RECORD.select_from(_WANTED.outerjoin(api_keys, api_keys.c.id == _WANTED.c.id))
# FOR UPDATE reads what is committed now, also on MariaDB, whose snapshots are older. SQLite has
# no such clause.
_LOCK: Final = _FIND.with_for_update()
# SQLite locks the whole database, with the first statement that may write.
_LOCK_SQLITE: Final = (
    sa.update(api_keys).where(api_keys.c.id == "").values(use_count=api_keys.c.use_count)
)
# How many rows are changed by one statement: their ids fit into one packet of any database.
_PORTION: Final = 500
# How many rows are written by one call of a driver: preparing more would hold up the event loop.
_WRITTEN: Final = 200
# More than a database of SQLite has.
_ALL_PAGES: Final = 2**31 - 1
# Missing entries of the audit trail that are asked for one by one, not as a stretch of numbers.
_FEW: Final = 16


def insert(connection: sa.Connection, new: tuple[KeyRecord, KeyEvent]) -> None:
    """Adds a key and its event. ``DuplicateKeyError`` if the id is taken."""
    rows = _rows([new])
    if connection.dialect.name == "postgresql":
        # An error would spoil the transaction, which may be the host's.
        statement = postgresql.insert(api_keys).on_conflict_do_nothing(index_elements=["id"])
        if not connection.scalars(statement.returning(api_keys.c.id), rows).all():
            raise DuplicateKeyError
    else:
        try:
            connection.execute(sa.insert(api_keys), rows)
        except IntegrityError:
            _refuse_taken(connection, rows)
            raise
    _write_events(connection, [new[1]])


def insert_many(
    connection: sa.Connection,
    new: Sequence[tuple[KeyRecord, KeyEvent]],
    wrote: Callable[[int], None],
) -> None:
    """Adds keys and their events, all or none. ``DuplicateKeyError`` if an id is taken.

    Args:
        connection: To a database.
        new: The keys, each with its event.
        wrote: Called after each step with how many of the keys are written, two halves a key.
    """
    if len({record.key.id for record, _ in new}) < len(new):
        raise DuplicateKeyError
    portions = [new[start : start + _WRITTEN] for start in range(0, len(new), _WRITTEN)]
    rows: list[dict[str, Any]] = []
    halves = 0
    try:
        with _all_or_nothing(connection), _letting_others_read(connection):
            for portion in portions:
                rows = _rows(portion)
                connection.execute(sa.insert(api_keys), rows)
                halves += len(portion)
                wrote(halves // 2)
            # Last: until the commit every feed of changes asks for their numbers again and again.
            for portion in portions:
                _write_events(connection, [event for _, event in portion])
                halves += len(portion)
                wrote(halves // 2)
    except IntegrityError:
        _refuse_taken(connection, rows)
        raise


def load(connection: sa.Connection, key_id: str) -> KeyRecord | None:
    """Reads a key by its id."""
    with _decoding():
        found = _found(connection.execute(_LOAD, {"key_id": key_id}).mappings())
    if found is None:
        _decode_decoy(connection.dialect)
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
    query = page(_KEY, wanted, after, dialect=connection.dialect.name).limit(limit)
    with _decoding():
        return [_key(row) for row in connection.execute(query).mappings()]


def change(
    connection: sa.Connection, key_id: str, decide: Decide, leave: Leave | None = None
) -> Change | None:
    """Changes a key that nobody else can change meanwhile, nor the one by whose leave it is."""
    if leave is None:
        record = _lock(connection, key_id)
    else:
        by, look = leave
        records = _lock_both(connection, key_id, by)
        look(records.get(by))
        record = records.get(key_id)
    if record is None:
        return None
    changed = decide(record)
    if changed.successor is not None:
        insert(connection, changed.successor)
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
        _RECORD.where(*unrevoked)
        .order_by(api_keys.c.created_at, api_keys.c.id)
        .limit(_PORTION)
        .with_for_update()
    )
    _lock_sqlite(connection)
    with _decoding():
        records = list(map(_record, connection.execute(query).mappings()))
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
    _lock_sqlite(connection)
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
        _expect(connection.execute(sa.delete(api_keys).where(key_id.in_(ids))), len(ids))
    return len(ids)


def changes(
    connection: sa.Connection, after: int | None, missing: Sequence[range], limit: int
) -> list[Mark]:
    """Reads entries of the audit trail: those from a number on, and missing ones.

    With None instead of a number, the latest ones. Of a great many not all are read at once.
    """
    number = api_key_events.c.id
    if after is None:
        latest = _MARK.order_by(number.desc()).limit(limit)
        return sorted(map(_mark, connection.execute(latest)), key=attrgetter("number"))
    queries = [_MARK.where(number >= after).order_by(number).limit(limit)]
    # Not along with these: no index serves both. Nor many stretches at once, which PostgreSQL
    # takes for half of the table.
    single = [each for numbers in missing if len(numbers) <= _FEW for each in numbers]
    if single:
        # As many as a power of two, so that few statements have to be prepared.
        padding = (1 << (len(single) - 1).bit_length()) - len(single)
        queries.append(_MARK.where(number.in_(single + single[:1] * padding)))
    queries += [
        _MARK.where(number.between(numbers[0], numbers[-1])).order_by(number).limit(limit)
        for numbers in missing
        if len(numbers) > _FEW
    ]
    marks: list[Mark] = []
    for query in queries:
        if len(marks) < limit:
            marks += map(_mark, connection.execute(query))
    return sorted(marks, key=attrgetter("number"))


def record_usage(connection: sa.Connection, uses: Sequence[Use]) -> list[Use]:
    """Adds uses to the counts of keys, and returns those of keys that somebody else changes now.

    Waiting for these would make others wait for all the rest. Nothing else of a row is written,
    ever: a whole row would undo what others wrote.
    """
    ids = [use.key_id for use in uses]
    _lock_sqlite(connection)
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


def rehash(connection: sa.Connection, old: str, new: str, event: KeyEvent) -> bool:
    """Replaces the stored hash of a living key, if it still is the old one, and tells whether."""
    key = api_keys.c
    statement = (
        sa.update(api_keys)
        .where(key.id == event.key_id, key.hash == old, sa.not_(_dead(event.at)))
        .values(hash=new, updated_at=event.at)
    )
    if connection.execute(statement).rowcount != 1:
        return False
    _write_events(connection, [event])
    return True


def count_secrets(
    connection: sa.Connection, now: datetime, besides: Collection[str]
) -> list[SecretUse]:
    """Counts the keys that need each server secret, but those of some kids. Reads every key."""
    stored, find_kid = api_keys.c.hash, _KID[connection.dialect.name]
    query = sa.select(
        sa.func.substr(stored, 1, 2).label("scheme"),
        sa.literal_column(find_kid).label("kid"),
        sa.case((_dead(now), 1), else_=0).label("dead"),
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


def _dead(now: datetime) -> sa.ColumnElement[bool]:
    key = api_keys.c
    expired = sa.and_(key.expires_at.is_not(None), key.expires_at <= now)
    return sa.or_(key.revoked_at.is_not(None), expired)


def events(
    connection: sa.Connection, key_id: str, *, action: str | None, latest: int | None
) -> list[KeyEvent]:
    """Reads the audit trail of a key, or some of it, the oldest entry first."""
    event = api_key_events.c
    query = (
        sa.select(event.key_id, event.at, event.action, event.actor, event.details)
        .where(event.key_id == key_id)
        .order_by(event.id.desc())
        .limit(latest)
    )
    if action is not None:
        query = query.where(event.action == action)
    with _decoding():
        return [KeyEvent(**row) for row in connection.execute(query).mappings()][::-1]


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
        _expect(connection.execute(statement), len(ids))
    _write_events(connection, [each.event for _, each in changes if each.event is not None])


def _edits(old: APIKey, new: APIKey, event: KeyEvent) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(new, name) for name in differences(old, new)}
    values["updated_at"] = event.at
    if "scopes" in values:
        values["scopes"] = sorted(new.scopes)
    if "revoked_at" in values:
        values["revoked_reason"] = event.details["reason"]
    return values


def _write_events(connection: sa.Connection, new: Sequence[KeyEvent]) -> None:
    names = ("key_id", "at", "action", "actor", "details")
    if new:
        rows = [{name: getattr(event, name) for name in names} for event in new]
        connection.execute(sa.insert(api_key_events), rows)
    # With the commit, whoever makes it. A new key is known to nobody yet.
    changed = [event.key_id for event in new if event.action != "created"]
    if changed and connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY, {"channel": CHANNEL, "key_ids": json.dumps(changed)})


def _refuse_taken(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Tells a taken id from what something of the host's own, such as a trigger, has refused."""
    if any(_lock(connection, row["id"]) for row in rows):
        raise DuplicateKeyError from None


@contextmanager
def _all_or_nothing(connection: sa.Connection) -> Iterator[None]:
    """Leaves nothing of what it did behind in a transaction that goes on."""
    _lock_sqlite(connection)  # begins the transaction: a savepoint outside of one would commit
    savepoint = connection.begin_nested()
    try:
        yield
    except Exception as error:
        # After other errors the database may know the savepoint no more; nobody may go on either.
        if isinstance(error, IntegrityError) or not isinstance(error, DBAPIError):
            savepoint.rollback()
        raise
    savepoint.commit()


@contextmanager
def _letting_others_read(connection: sa.Connection) -> Iterator[None]:
    """Keeps SQLite from writing to its file before the commit, which would lock out readers.

    It takes a kilobyte of memory a key. If this fails, the connection may go on like that.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    # Not OFF, which counts only outside of a transaction.
    pages = connection.exec_driver_sql("PRAGMA cache_spill").scalar_one()
    if pages:
        connection.exec_driver_sql(f"PRAGMA cache_spill = {_ALL_PAGES}")
    yield
    connection.exec_driver_sql(f"PRAGMA cache_spill = {int(pages)}")


def _lock(connection: sa.Connection, key_id: str) -> KeyRecord | None:
    """Reads a key that nobody else can change until the transaction ends."""
    _lock_sqlite(connection)
    with _decoding():
        return _found(connection.execute(_LOCK, {"key_id": key_id}).mappings())


def _lock_both(connection: sa.Connection, *key_ids: str) -> dict[str, KeyRecord]:
    """The same of two keys, or of one twice."""
    # The older one first, as where all keys of an owner are changed: or each might wait for the
    # other.
    query = (
        _RECORD.where(api_keys.c.id.in_(key_ids))
        .order_by(api_keys.c.created_at, api_keys.c.id)
        .with_for_update()
    )
    _lock_sqlite(connection)
    with _decoding():
        found = map(_record, connection.execute(query).mappings())
        return {record.key.id: record for record in found}


def _mark(row: Any) -> Mark:
    return Mark(row.id, row.key_id, row.at)


def _expect(result: sa.CursorResult[Any], count: int) -> None:
    """Makes sure that the database did as told, which a trigger or a policy may prevent."""
    if result.rowcount != count:
        raise UnavailableError(
            "the database did not change the keys that it was told to, and nothing was changed: "
            "check its triggers and policies"
        )


def _lock_sqlite(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(_LOCK_SQLITE)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        # Not chained: the error of a JSON parser carries the whole text.
        raise UnavailableError(
            f"a row of the keys' tables is damaged ({type(error).__name__}): restore it, or "
            "delete it"
        ) from None


def _rows(new: Sequence[tuple[KeyRecord, KeyEvent]]) -> list[dict[str, Any]]:
    return [_row(record) | {"updated_at": event.at} for record, event in new]


def _row(record: KeyRecord) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(record.key, name) for name in _FIELDS}
    return values | {"hash": record.hash, "scopes": sorted(record.key.scopes)}


def _found(rows: sa.MappingResult) -> KeyRecord | None:
    # No row in a local where its damage is reported: it has the hash.
    row = rows.one_or_none()
    return None if row is None or row["id"] is None else _record(row)


@functools.cache
def _decoy_fields(dialect: sa.Dialect) -> Sequence[tuple[str, Callable[[Any], Any] | None, Any]]:
    """What a database has of the decoy, by column, and what SQLAlchemy does to each value."""
    fields = []
    for column in _RECORD.selected_columns:
        kind, value = column.type.dialect_impl(dialect), _row(DECOY).get(column.name)
        bind, decode = kind.bind_processor(dialect), kind.result_processor(dialect, None)
        # Without a decoder of SQLAlchemy's the driver has decoded it.
        raw = bind(value) if bind and decode and value is not None else value
        fields.append((str(column.name), decode, raw))
    return fields


def _decode_decoy(dialect: sa.Dialect) -> None:
    """Does what decoding a row does, so that to find none does not take less time."""
    fields = _decoy_fields(dialect)
    _record({name: raw if decode is None else decode(raw) for name, decode, raw in fields})


def _record(row: Mapping[Any, Any]) -> KeyRecord:
    return KeyRecord(_key(row), row["hash"])


def _key(row: Mapping[Any, Any]) -> APIKey:
    values: dict[str, Any] = {name: row[name] for name in _FIELDS}
    if not isinstance(values["scopes"], list):
        raise TypeError("scopes are not a list")
    if not isinstance(values["metadata"], dict):
        raise TypeError("metadata is not an object")
    values["scopes"] = frozenset(values["scopes"])
    return APIKey(**values)
