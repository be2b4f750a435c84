"""How a worker hears of changes that others made: by numbers, which no clock sets back."""

import asyncio
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from subject import SILENT, as_elsewhere

from keylatch import APIKeys
from keylatch.errors import InvalidKeyError, RevokedKeyError, UnavailableError
from keylatch.feed import Gaps, Poll
from keylatch.memory import MemoryStore
from keylatch.records import Mark
from keylatch.tables import api_key_events

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other(host, secret, clock):
    """Another worker on the same database, which is told when to look for changes."""
    async with APIKeys(
        host.engine, prefix="acme_live", secret=secret, clock=clock, **SILENT
    ) as other:
        yield as_elsewhere(other)


async def revoked(keys, token: str) -> bool:
    """Whether a worker refuses a key as revoked; it opens otherwise."""
    try:
        await keys.verify(token)
    except RevokedKeyError:
        return True
    return False


async def test_a_change_is_heard_of(host_keys, other):
    """The other worker goes on with what it has cached until it looks, and no longer."""
    new = await host_keys.create(name="ci")
    assert not await revoked(other, new.token)
    await host_keys.revoke(new.key.id)
    assert not await revoked(other, new.token)
    await other._feed.once()
    assert await revoked(other, new.token)


async def test_a_clock_that_is_slow_hides_no_change(host_keys, other, clock):
    """A worker whose clock is hours behind revokes, and all others hear of it all the same."""
    new, late = await host_keys.create(name="ci"), await host_keys.create(name="late")
    await other._feed.once()
    assert not await revoked(other, new.token)
    assert not await revoked(other, late.token)
    clock.advance(hours=5)
    await host_keys.revoke(late.key.id)
    await other._feed.once()
    clock.advance(hours=-5)
    await host_keys.revoke(new.key.id)
    await other._feed.once()
    assert await revoked(other, new.token)
    assert await revoked(other, late.token)


@pytest.mark.parametrize("engine_name", ["postgres-async", "postgres-sync", "mariadb-async"])
async def test_a_transaction_that_commits_late_is_heard_of(host, host_keys, other):
    """Its entry has an earlier number than those that were seen before it committed."""
    slow, fast = await host_keys.create(name="slow"), await host_keys.create(name="fast")
    await other._feed.once()
    assert not await revoked(other, slow.token)
    async with host.transaction() as transaction:
        await host_keys.revoke(slow.key.id, connection=transaction.connection)
        await host_keys.revoke(fast.key.id)
        await other._feed.once()
        assert await revoked(other, fast.token)
        assert not await revoked(other, slow.token)
        assert other._feed._gaps.ranges()
        await other._feed.once()
        await transaction.commit()
    await other._feed.once()
    assert await revoked(other, slow.token)
    assert not other._feed._gaps.ranges()


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async"])
async def test_a_transaction_that_was_open_at_the_start_is_heard_of(host, host_keys, secret, clock):
    """What was missing among the latest entries then is asked for as well."""
    slow, fast = await host_keys.create(name="slow"), await host_keys.create(name="fast")
    async with host.transaction() as transaction:
        await host_keys.revoke(slow.key.id, connection=transaction.connection)
        await host_keys.update(fast.key.id, name="renamed")
        async with APIKeys(
            host.engine, prefix="acme_live", secret=secret, clock=clock, **SILENT
        ) as other:
            as_elsewhere(other)
            assert not await revoked(other, slow.token)
            await transaction.commit()
            await other._feed.once()
            assert await revoked(other, slow.token)


async def test_what_was_rolled_back_is_waited_for_in_vain(host, host_keys, other):
    """Nothing is evicted for it, and later changes are heard of."""
    new = await host_keys.create(name="ci")
    await other._feed.once()
    async with host.transaction() as transaction:
        await host_keys.revoke(new.key.id, connection=transaction.connection)
        await transaction.rollback()
    await host_keys.update(new.key.id, name="renamed")
    for _ in range(3):
        await other._feed.once()
        assert (await other.verify(new.token)).name == "renamed"
    await host_keys.revoke(new.key.id)
    await other._feed.once()
    assert await revoked(other, new.token)


async def test_a_database_that_was_restored_is_read_anew(host, host_keys, other):
    """Its numbers begin where the backup ended, and stand for other changes than before."""
    new, lost = await host_keys.create(name="ci"), await host_keys.create(name="lost")
    await host_keys.update(lost.key.id, name="renamed")
    await other._feed.once()
    assert not await revoked(other, new.token)
    last = other._feed._last
    entry = {"id": last.number, "key_id": new.key.id, "at": last.at, "action": "revoked"}
    async with host.transaction() as transaction:
        gone = sa.delete(api_key_events).where(api_key_events.c.id == last.number)
        await transaction.execute(gone)
        await transaction.execute(sa.insert(api_key_events).values(**entry, details={}))
        await transaction.execute(sa.text("UPDATE api_keys SET revoked_at = created_at"))
        await transaction.commit()
    await other._feed.once()
    assert await revoked(other, new.token)


async def test_an_audit_trail_that_was_purged_is_no_trouble(host_keys, other, clock):
    """Also where the last entry goes, whose number SQLite gives again."""
    new, dead = await host_keys.create(name="ci"), await host_keys.create(name="dead")
    await host_keys.revoke(dead.key.id)
    await other._feed.once()
    assert not await revoked(other, new.token)
    clock.advance(hours=1)
    await host_keys.purge(dead_for=timedelta(hours=1))
    await host_keys.update(new.key.id, name="renamed")
    await host_keys.revoke(new.key.id)
    await other._feed.once()
    assert await revoked(other, new.token)


async def test_who_heard_nothing_for_long_reads_everything_anew(
    host_keys, other, clock, monkeypatch
):
    """What changed while its machine slept may be purged by now, with every trace of it."""
    dead = await host_keys.create(name="dead")
    await host_keys.create(name="last")
    await other._feed.once()
    assert not await revoked(other, dead.token)
    await host_keys.revoke(dead.key.id)
    clock.advance(hours=1)
    assert await host_keys.purge(dead_for=timedelta(hours=1)) == 1
    woken = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: woken)
    await other._feed.once()
    with pytest.raises(InvalidKeyError):
        await other.verify(dead.token)


class Failing(MemoryStore):
    """A store that fails when it is told to, and may come back as another one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    async def changes(self, **options):
        """Fails, or not."""
        if self.down:
            raise UnavailableError("the database failed: check it")
        return await super().changes(**options)


async def test_after_a_failure_everything_is_read_anew(secret):
    """What answers again may be another database, which has forgotten the latest changes."""
    store = Failing()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        heard = keys._feed.heard_at
        store.down = True
        with pytest.raises(UnavailableError):
            await keys._feed.once()
        assert keys._feed.heard_at == heard
        assert keys.health().cached_keys == 1
        store.down = False
        await keys._feed.once()
        assert keys.health().cached_keys == 0
        assert keys._feed.heard_at > heard


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async"])
async def test_a_failure_does_not_make_it_forget_what_is_missing(
    host, host_keys, other, monkeypatch
):
    """However much was written meanwhile, a transaction that was open before is heard of."""
    monkeypatch.setattr("keylatch.feed._WINDOW", 3)
    slow, fast = await host_keys.create(name="slow"), await host_keys.create(name="fast")
    async with host.transaction() as transaction:
        await host_keys.revoke(slow.key.id, connection=transaction.connection)
        await host_keys.update(fast.key.id, name="renamed")
        await other._feed.once()
        changes, other._store.changes = other._store.changes, None
        with pytest.raises(TypeError):
            await other._feed.once()
        for number in range(9):
            await host_keys.update(fast.key.id, name=str(number))
        other._store.changes = changes
        await other._feed.once()
        assert not await revoked(other, slow.token)
        await transaction.commit()
    await other._feed.once()
    assert await revoked(other, slow.token)


async def test_the_feed_goes_on_after_a_failure(secret, caplog):
    """Whatever the store throws, it is tried again, and said in the log."""
    store = Failing()
    async with APIKeys(
        store, prefix="acme", secret=secret, poll_interval=0.05, max_staleness=0.2
    ) as keys:

        async def broken(**_):
            raise ZeroDivisionError

        store.changes, changes = broken, store.changes
        while not caplog.records:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert "feed of changes failed" in caplog.text
        store.changes = changes
        while not keys.health().fresh:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_a_long_trail_is_read_in_portions(secret, monkeypatch):
    """However much was changed at once, one look finds all of it."""
    monkeypatch.setattr("keylatch.feed._PORTION", 7)
    store = MemoryStore()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        feed = Poll(keys._engine, store, interval=1)
        await feed.once()
        made = [await keys.create(name="ci") for _ in range(100)]
        await feed.once()
        assert feed._last.key_id == made[-1].key.id
        assert not feed._gaps.ranges()


async def test_gaps_open_and_fill():
    """Numbers may come in any order, and those that never come are given up, the oldest first."""
    gaps = Gaps()
    gaps.open(5, 5)
    assert gaps.ranges() == []
    gaps.open(1, 10)
    gaps.fill(4)
    assert gaps.ranges() == [range(1, 4), range(5, 10)]
    for number in (1, 9, 9, 77):
        gaps.fill(number)
    assert gaps.ranges() == [range(2, 4), range(5, 9)]
    for start in range(100, 10_000, 10):
        gaps.open(start, start + 2)
    gaps.forget()
    assert len(gaps.ranges()) == 256
    assert gaps.ranges()[-1] == range(9_990, 9_992)


async def test_stores_agree_on_their_entries(keys):
    """Numbers go up, and what is asked for comes in their order."""
    assert await keys._store.changes(after=None, missing=(), limit=3) == []
    made = [(await keys.create(name=str(number))).key.id for number in range(5)]
    marks = await keys._store.changes(after=None, missing=(), limit=500)
    assert [mark.key_id for mark in marks] == made
    assert all(isinstance(mark, Mark) and mark.at.tzinfo for mark in marks)
    numbers = [mark.number for mark in marks]
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 1
    changes = keys._store.changes
    assert await changes(after=None, missing=(), limit=2) == marks[-2:]
    assert await changes(after=numbers[1], missing=(), limit=2) == marks[1:3]
    found = await changes(after=numbers[4], missing=[range(numbers[0], numbers[1])], limit=9)
    assert found == [marks[0], marks[4]] or isinstance(keys._store, MemoryStore)
