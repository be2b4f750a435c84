"""Callbacks are told of changes in a host's transaction once it commits, and of no others."""

import asyncio
import gc
from contextlib import suppress
from datetime import timedelta

import pytest
from hosts import KINDS

from keylatch import KeyRequest
from keylatch.errors import KeyStateError, UnavailableError

pytestmark = pytest.mark.anyio


class UndoError(Exception):
    """Rolls something back."""


@pytest.fixture
async def key(host_keys):
    """A key that was there before."""
    return (await host_keys.create(name="ci", owner="u1")).key


@pytest.fixture
def told(host_keys, key):
    """What a callback has been told since."""
    told = []
    host_keys.on_event(told.append)
    return told


async def change(keys, key, **options):
    """Makes every kind of change, and returns what is to be told of them."""
    new = await keys.create(name="new", **options)
    many = await keys.create_many(
        [KeyRequest(name=f"{n}", owner="u2") for n in range(3)], **options
    )
    await keys.update(key.id, name="renamed", **options)
    successor = await keys.rotate(key.id, grace=timedelta(hours=1), **options)
    await keys.revoke(key.id, **options)
    gone = await keys.revoke_all(owner="u2", **options)
    return [
        ("created", new.key.id),
        *[("created", each.key.id) for each in many],
        ("updated", key.id),
        ("rotated", key.id),
        ("created", successor.key.id),
        ("revoked", key.id),
        *[("revoked", key_id) for key_id in gone],
    ]


def said(told):
    """What it was told, without the rest."""
    return [(each.action, each.key_id) for each in told]


@pytest.mark.parametrize("kind", KINDS)
async def test_only_a_commit_is_told_of(host, host_keys, key, told, kind):
    """Not what is rolled back; and what is committed not before it is."""
    for commits in (False, True):
        async with host.transaction(kind) as transaction:
            expected = await change(host_keys, key, connection=transaction.connection)
            await host_keys.flush()
            assert told == []
            assert host_keys.health().waiting_events == len(expected)
            await (transaction.commit if commits else transaction.rollback)()
        await host_keys.flush()
        assert said(told) == (expected if commits else [])
        assert host_keys.health().waiting_events == 0


async def test_a_commit_is_told_of_without_a_flush(host, host_keys, key):
    """A moment later."""
    heard = asyncio.Event()
    told = []

    @host_keys.on_event
    async def tell(happening):
        told.append(happening)
        heard.set()

    async with host.transaction() as transaction:
        await host_keys.revoke(key.id, connection=transaction.connection)
        await transaction.commit()
        await heard.wait()
    assert said(told) == [("revoked", key.id)]


async def test_what_a_savepoint_undoes_is_not_told(host, host_keys, key, told):
    """The rest of its transaction is, whether before, within or after it."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        before = await host_keys.create(name="before", **own)
        async with transaction.savepoint():
            kept = await host_keys.create(name="kept", **own)
        with suppress(UndoError):
            async with transaction.savepoint():
                await host_keys.revoke(key.id, **own)
                await host_keys.create_many([KeyRequest(name="undone")] * 3, **own)
                raise UndoError
        after = await host_keys.create(name="after", **own)
        await transaction.commit()
    await host_keys.flush()
    assert said(told) == [("created", each.key.id) for each in (before, kept, after)]
    assert (await host_keys.get(key.id)).revoked_at is None


async def test_a_transaction_that_goes_on_is_another_one(host, host_keys, key, told):
    """A session that commits and goes on may roll the next one back."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        new = await host_keys.create(name="new", **own)
        await transaction.commit()
        await host_keys.revoke(key.id, **own)
        await host_keys.flush()
        assert said(told) == [("created", new.key.id)]
        await transaction.rollback()
    await host_keys.flush()
    assert said(told) == [("created", new.key.id)]


async def test_many_changes_of_a_key_in_one_transaction_are_all_told(host, host_keys, key, told):
    """In their order, and not of the latest alone."""
    async with host.transaction() as transaction:
        for number in range(130):
            await host_keys.update(key.id, name=f"{number}", connection=transaction.connection)
        await transaction.commit()
    while host_keys.health().waiting_events:
        await host_keys.flush()  # once takes five seconds at most
    assert [each.key.name for each in told] == [f"{number}" for number in range(130)]


async def test_a_session_that_is_forgotten_has_changed_nothing(host, host_keys, key, told):
    """Nor is it kept alive by what is held back."""
    async with host.transaction() as transaction:
        await host_keys.revoke(key.id, connection=transaction.connection)
    del transaction
    gc.collect()
    await host_keys.flush()
    assert told == []
    assert host_keys.health().waiting_events == 0


async def test_a_change_that_fails_within_is_not_told(host, host_keys, key, told):
    """The host may commit what it did before."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await host_keys.revoke(key.id, **own)
        with pytest.raises(KeyStateError):
            await host_keys.update(key.id, name="late", **own)
        await transaction.commit()
    await host_keys.flush()
    assert said(told) == [("revoked", key.id)]


async def test_many_transactions_are_told_of_by_how_each_ended(host, host_keys, key, told):
    """One after the other, every third of them rolled back."""
    expected = []
    for number in range(12):
        async with host.transaction() as transaction:
            new = await host_keys.create(name="new", connection=transaction.connection)
            if number % 3:
                await transaction.commit()
                expected.append(("created", new.key.id))
    await host_keys.flush()
    assert sorted(said(told)) == sorted(expected)


async def test_while_the_database_is_away_nothing_is_lost(host, host_keys, key, told, monkeypatch):
    """It is asked again."""
    read, away = host_keys._store.events, True

    async def events(*args, **options):
        if away:
            raise UnavailableError("away")
        return await read(*args, **options)

    monkeypatch.setattr(host_keys._store, "events", events)
    async with host.transaction() as transaction:
        await host_keys.revoke(key.id, connection=transaction.connection)
        await transaction.commit()
    await host_keys.flush()
    assert told == []
    assert host_keys.health().waiting_events == 1
    away = False
    await host_keys.flush()
    assert said(told) == [("revoked", key.id)]


@pytest.mark.parametrize("committed", [True, False])
async def test_a_change_that_failed_in_its_commit_is_told_if_it_is_there(
    host_keys, key, told, monkeypatch, committed
):
    """The call says that it failed, or is cancelled, and the audit trail says what became of it."""
    whole = host_keys._store.change

    async def cut(*args, **options):
        if committed:
            await whole(*args, **options)
        else:
            args[1](await host_keys._store.load(key.id))  # it was decided, and rolled back
        raise asyncio.CancelledError

    monkeypatch.setattr(host_keys._store, "change", cut)
    with pytest.raises(asyncio.CancelledError):
        await host_keys.revoke(key.id)
    await host_keys.flush()
    assert said(told) == ([("revoked", key.id)] if committed else [])
    assert host_keys.health().waiting_events == (0 if committed else 1)


async def test_a_change_that_was_repeated_is_told_once(host_keys, key, told, monkeypatch):
    """Where the database gave up the first attempt, and nobody knows what became of the second."""
    whole = host_keys._store.change

    async def cut(*args, **options):
        args[1](await host_keys._store.load(key.id))  # it was decided, and rolled back
        await whole(*args, **options)
        raise asyncio.CancelledError

    monkeypatch.setattr(host_keys._store, "change", cut)
    with pytest.raises(asyncio.CancelledError):
        await host_keys.revoke(key.id)
    await host_keys.flush()
    assert said(told) == [("revoked", key.id)]
    assert host_keys.health().waiting_events == 0
