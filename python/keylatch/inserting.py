"""New keys in SQL, one or many: all of them, or none. Knows records and tables."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError

from keylatch import locks, rows, trail
from keylatch.records import KeyEvent, KeyRecord
from keylatch.store import DuplicateKeyError
from keylatch.tables import api_keys

# How many rows are written by one call of a driver: preparing more would hold up the event loop.
_WRITTEN: Final = 200
# More than a database of SQLite has.
_ALL_PAGES: Final = 2**31 - 1


def insert(connection: sa.Connection, new: tuple[KeyRecord, KeyEvent]) -> None:
    """Adds a key and its event. ``DuplicateKeyError`` if the id is taken."""
    row = rows.written([new])
    if connection.dialect.name == "postgresql":
        # An error would spoil the transaction, which may be the host's.
        statement = postgresql.insert(api_keys).on_conflict_do_nothing(index_elements=["id"])
        if not connection.scalars(statement.returning(api_keys.c.id), row).all():
            raise DuplicateKeyError
    else:
        try:
            connection.execute(sa.insert(api_keys), row)
        except IntegrityError:
            _refuse_taken(connection, [new[0].key.id])
            raise
    trail.write_events(connection, [new[1]])


def insert_many(
    connection: sa.Connection,
    new: Sequence[tuple[KeyRecord, KeyEvent]],
    wrote: Callable[[int], None],
    unless: Collection[str] = (),
) -> None:
    """Adds keys and their events, all or none. ``DuplicateKeyError`` if an id is taken.

    Args:
        connection: To a database.
        new: The keys, each with its event.
        unless: Further ids that must not be taken either.
        wrote: Called after each step with how many of the keys are written, two halves a key.
    """
    ids = {record.key.id for record, _ in new}
    if len(ids) < len(new):
        raise DuplicateKeyError
    portions = [new[start : start + _WRITTEN] for start in range(0, len(new), _WRITTEN)]
    tried: Collection[str] = ()
    halves = 0
    try:
        with _all_or_nothing(connection), _letting_others_read(connection):
            if unless:
                tried = ids.union(unless)
                _claim(connection, tried, new[0])
            for portion in portions:
                tried = [record.key.id for record, _ in portion]
                connection.execute(sa.insert(api_keys), rows.written(portion))
                halves += len(portion)
                wrote(halves // 2)
            # Last: until the commit every feed of changes asks for their numbers again and again.
            for portion in portions:
                trail.write_events(connection, [event for _, event in portion])
                halves += len(portion)
                wrote(halves // 2)
    except IntegrityError:
        _refuse_taken(connection, tried)
        raise


def _claim(
    connection: sa.Connection, ids: Collection[str], like: tuple[KeyRecord, KeyEvent]
) -> None:
    """Makes whoever adds one of these ids wait until the transaction ends.

    With rows that are gone before it ends: no kind of database can lock a row that is not there.
    Everybody adds them in the same order, or each might wait for the other.
    """
    (row,) = rows.written([like])
    ordered = sorted(ids)
    for start in range(0, len(ordered), _WRITTEN):
        portion = ordered[start : start + _WRITTEN]
        connection.execute(sa.insert(api_keys), [row | {"id": key_id} for key_id in portion])
    for start in range(0, len(ordered), _WRITTEN):
        gone = sa.delete(api_keys).where(api_keys.c.id.in_(ordered[start : start + _WRITTEN]))
        locks.expect(connection.execute(gone), len(ordered[start : start + _WRITTEN]))


def _refuse_taken(connection: sa.Connection, ids: Collection[str]) -> None:
    """Tells a taken id from what something of the host's own, such as a trigger, has refused."""
    if any(locks.lock(connection, key_id) for key_id in ids):
        raise DuplicateKeyError from None


@contextmanager
def _all_or_nothing(connection: sa.Connection) -> Iterator[None]:
    """Leaves nothing of what it did behind in a transaction that goes on."""
    locks.lock_sqlite(connection)  # begins the transaction: a savepoint outside of one would commit
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
