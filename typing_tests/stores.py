"""What a type checker makes of stores. It is checked, and never run."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import assert_type

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from keylatch.kids import SecretUse
from keylatch.listing import Cursor, KeyFilter
from keylatch.memory import MemoryStore
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, Mark, Use
from keylatch.sqlalchemy import SQLAlchemyStore, metadata
from keylatch.store import Decide, DecideKnowing, Leave, Store


def kinds() -> None:
    """Each of ours has every method that a store has, as the protocol says."""
    stores: list[Store] = [MemoryStore(), SQLAlchemyStore("sqlite:///keys.db", deadline=5.0)]
    assert_type(stores, list[Store])
    assert_type(metadata, MetaData)


async def tables(store: SQLAlchemyStore) -> None:
    """What looks after the tables."""
    assert_type(await store.check(), str)
    assert_type(await store.upgrade(), tuple[str | None, str])


async def life(store: Store) -> None:
    """What a collection asks of any store for itself."""
    assert_type(await store.open(), None)
    assert_type(await store.close(), None)
    assert_type(store.notifies, bool)
    assert_type(await store.listen(print), None)
    marks = await store.changes(after=None, missing=[range(2)], limit=10)
    assert_type(marks, list[Mark])


async def keys(
    store: Store, session: AsyncSession, record: KeyRecord, decide: Decide, leave: Leave
) -> None:
    """What it does with keys, in a transaction of the host's or not."""
    new: Sequence[tuple[KeyRecord, KeyEvent]] = []
    assert_type(await store.insert(new, connection=session, progress=print), None)
    assert_type(await store.load(record.key.id, connection=session), KeyRecord | None)
    assert_type(await store.existing({record.key.id}, connection=session), set[str])
    assert_type(await store.change(record.key.id, decide, leave=leave), Change | None)
    assert_type(await store.change_owned("u1", decide, connection=session), list[Change])
    assert_type(await store.transaction(session), Callable[[], bool])


async def reading(store: Store, wanted: KeyFilter, place: Cursor, now: datetime) -> None:
    """What it reads of many, and what jobs do."""
    assert_type(await store.select(wanted, after=place, limit=50), list[APIKey])
    assert_type(await store.events("a key id", action="created", latest=1), list[KeyEvent])
    assert_type(await store.purge(now), int)
    assert_type(await store.count_secrets(now, besides=["k1"]), list[SecretUse])


async def reminders(store: Store, decide: DecideKnowing) -> None:
    """What it does about keys that end soon."""
    assert_type(await store.change_knowing("a key id", "expiring", decide), Change | None)
    assert_type(await store.latest_events(["a key id"], "expiring"), dict[str, KeyEvent])


async def usage(store: Store, use: Use, event: KeyEvent) -> None:
    """What is written beside requests."""
    assert_type(await store.record_usage([use]), list[Use])
    assert_type(await store.rehash("old", "new", event), bool)
