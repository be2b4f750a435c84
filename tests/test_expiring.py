"""Keys that end soon are told of once, whichever worker finds them first."""

import asyncio
from datetime import timedelta

import pytest
import stores
from subject import SILENT

from keylatch import APIKeys, expiring, hooks
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

SOON = timedelta(days=6)
LATER = timedelta(days=30)


def hears(keys):
    """Has a list take the keys that end soon."""
    told = []
    keys.on_event(told.append, actions=["expiring"])
    return told


@pytest.fixture
def told(keys):
    """What a callback of the collection has been told."""
    return hears(keys)


@pytest.fixture
def unstarted(secret, clock):
    """A collection in memory."""
    return APIKeys(MemoryStore(), prefix="acme_live", secret=secret, clock=clock, **SILENT)


async def test_a_key_that_ends_soon_is_told_once(keys, told, clock):
    """With its end, and with an entry in its audit trail; nothing else of it changes."""
    soon = await keys.create(name="soon", owner="u1", expires_in=SOON)
    await keys.create(name="later", expires_in=LATER)
    await keys.create(name="never")
    gone = await keys.create(name="gone", expires_in=SOON)
    await keys.revoke(gone.key.id)
    for _ in range(3):
        await keys.flush()
        clock.advance(hours=1)
    (happening,) = told
    assert (happening.action, happening.key, happening.key_id) == (
        "expiring",
        soon.key,
        soon.key.id,
    )
    assert happening.actor is None
    assert happening.details == {"expires_at": soon.key.expires_at.isoformat()}
    assert [event.action for event in await keys.events(soon.key.id)] == ["created", "expiring"]
    assert await keys.get(soon.key.id) == soon.key
    assert (await keys.verify(soon.token)).id == soon.key.id


async def test_a_key_comes_near_its_end_as_time_goes_on(keys, told, clock):
    """From a week before, and not any more when it has ended."""
    new = await keys.create(name="ci", expires_in=LATER)
    clock.advance(days=22.9)
    await keys.flush()
    assert told == []
    clock.advance(days=0.2)
    await keys.flush()
    assert [each.key_id for each in told] == [new.key.id]
    short = await keys.create(name="short", expires_in=timedelta(minutes=1))
    clock.advance(minutes=1)
    await keys.flush()
    assert short.key.id not in [each.key_id for each in told]


async def test_each_collection_tells_of_its_own_keys(store, secret, clock):
    """Those of other prefixes in the same database are another's; imported ones have none."""
    shared = {"secret": secret, "clock": clock} | SILENT
    partner = APIKeys(store, prefix=["acme_live", "acme_test"], imported_tokens=True, **shared)
    internal = APIKeys(store, prefix="acme_in", **shared)
    told = {keys: hears(keys) for keys in (internal, partner)}
    async with internal, partner:
        for prefix in partner.prefixes:
            await partner.create(name=prefix, prefix=prefix, expires_in=SOON)
        await partner.import_token("sk_4eC39HqLyjWDarjtT1zdp7dc", name="imported", expires_in=SOON)
        await internal.create(name="acme_in", expires_in=SOON)
        for keys in told:
            await keys.flush()
    assert [happening.key.name for happening in told[internal]] == ["acme_in"]
    names = {happening.key.name for happening in told[partner]}
    assert names == {"acme_live", "acme_test", "imported"}


async def test_another_end_is_told_of_again(keys, told, clock):
    """Whether it is put off, or comes sooner; the same one is not."""
    key = (await keys.create(name="ci", expires_in=SOON)).key
    await keys.flush()
    await keys.update(key.id, expires_at=clock() + LATER)
    await keys.flush()
    await keys.update(key.id, expires_at=clock() + timedelta(days=2))
    await keys.flush()
    await keys.update(key.id, name="renamed")
    await keys.flush()
    ends = [clock() + SOON, clock() + timedelta(days=2)]
    assert [each.key.expires_at for each in told] == ends


async def test_two_workers_tell_of_a_key_once(store, secret, clock, monkeypatch):
    """Both look at the same time, and both read that nobody has told of any."""
    monkeypatch.setattr(store, "latest_events", _nothing_known)
    options = {"secret": secret, "clock": clock} | SILENT
    told = []
    async with (
        APIKeys(store, prefix="acme_live", **options) as one,
        APIKeys(store, prefix="acme_live", **options) as other,
    ):
        made = [(await one.create(name="ci", expires_in=SOON)).key.id for _ in range(10)]
        for keys in (one, other):
            keys.on_event(told.append, actions=["expiring"])
        for _ in range(2):
            await asyncio.gather(one.flush(), other.flush())
        for key_id in made:
            actions = [event.action for event in await one.events(key_id)]
            assert actions == ["created", "expiring"]
    assert sorted(each.key_id for each in told) == sorted(made)


async def _nothing_known(key_ids, action):
    return {}


@pytest.mark.parametrize("engine", ["postgres-async", "mariadb-sync", "sqlite-async"])
async def test_workers_with_connections_of_their_own_tell_once(engine, secret, clock):
    """As processes have them."""
    told = []
    with stores.key_database(engine) as url:
        workers = [
            APIKeys(SQLAlchemyStore(url), prefix="acme_live", secret=secret, clock=clock, **SILENT)
            for _ in range(3)
        ]
        made = [(await workers[0].create(name="ci", expires_in=SOON)).key.id for _ in range(5)]
        for keys in workers:
            keys.on_event(told.append, actions=["expiring"])
        async with workers[0], workers[1], workers[2]:
            await asyncio.gather(*(keys.flush() for keys in workers))
    assert sorted(each.key_id for each in told) == sorted(made)


async def test_a_new_start_tells_of_nothing_again(store, secret, clock):
    """The audit trail remembers, not the process."""
    options = {"secret": secret, "clock": clock} | SILENT
    for count in (1, 0):
        keys = APIKeys(store, prefix="acme_live", **options)
        told = hears(keys)
        async with keys:
            if count:
                await keys.create(name="ci", expires_in=SOON)
            await keys.flush()
        assert len(told) == count


async def test_it_is_looked_for_without_a_flush(unstarted, monkeypatch):
    """At the start, or once a callback asks, and then again and again."""
    monkeypatch.setattr(expiring, "_INTERVAL", 0.01)
    heard = asyncio.Queue()
    early = await unstarted.create(name="early", expires_in=SOON)
    async with unstarted as keys:

        @keys.on_event(actions=["expiring"])
        async def tell(happening):
            heard.put_nowait(happening.key_id)

        assert await heard.get() == early.key.id
        late = await keys.create(name="late", expires_in=SOON)
        assert await heard.get() == late.key.id


async def test_nobody_looks_if_nobody_listens(keys, monkeypatch):
    """A callback of other actions costs the database nothing."""
    keys.on_event(print, actions=["created"])

    async def fail(*args, **options):
        raise AssertionError("looked")

    monkeypatch.setattr(keys._store, "select", fail)
    await keys.flush()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "keylatch-expiring"]


async def test_many_keys_are_told_of_no_faster_than_they_are_heard(unstarted, monkeypatch):
    """What is written to have been told of waits for room, so that none is dropped."""
    monkeypatch.setattr(expiring, "_PORTION", 7)
    monkeypatch.setattr(hooks, "_MOST_AHEAD", 3)
    most = 0
    told = []
    async with unstarted as keys:
        made = [(await keys.create(name="ci", expires_in=SOON)).key.id for _ in range(30)]

        @keys.on_event(actions=["expiring"])
        async def tell(happening):
            nonlocal most
            most = max(most, keys.health().waiting_events)
            told.append(happening.key_id)

        await keys.flush()
    assert sorted(told) == sorted(made)
    assert most <= 3


async def test_a_callback_that_hangs_holds_up_no_flush(unstarted, monkeypatch):
    """Nor the end; what it has no room for is left to the next worker."""
    monkeypatch.setattr(hooks, "_MOST_AHEAD", 2)
    monkeypatch.setattr(hooks, "PATIENCE", 0.2)
    monkeypatch.setattr(hooks, "PARTING", 0.1)
    async with unstarted as keys:
        for _ in range(5):
            await keys.create(name="ci", expires_in=SOON)

        @keys.on_event(actions=["expiring"])
        async def hang(happening):
            await keys.flush()
            await asyncio.Event().wait()

        await keys.flush()
        assert keys.health().waiting_events == 2
    again = hears(unstarted)
    unstarted._hooks._listeners.pop(0)
    await unstarted.flush()
    assert len(again) == 3


async def test_a_database_that_is_away_is_asked_again(keys, told, monkeypatch):
    """The flush says so, and tells what else waits."""
    others = []
    keys.on_event(others.append, actions=["created"])
    new = await keys.create(name="ci", expires_in=SOON)

    async def fail(*args, **options):
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(keys._store, "select", fail)
        with pytest.raises(UnavailableError):
            await keys.flush()
    assert len(others) == 1
    await keys.flush()
    assert [each.key_id for each in told] == [new.key.id]


@pytest.mark.parametrize("committed", [True, False])
async def test_what_is_cut_off_while_it_is_written_is_told_if_it_is_there(
    keys, told, clock, monkeypatch, committed
):
    """Once, by whoever wrote it, or by the next look."""
    new = await keys.create(name="ci", expires_in=SOON)
    whole = keys._store.change_knowing

    async def cut(key_id, action, decide):
        if committed:
            await whole(key_id, action, decide)
        else:
            decide(await keys._store.load(key_id), None)
        raise UnavailableError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(keys._store, "change_knowing", cut)
        with pytest.raises(UnavailableError):
            await keys.flush()
    clock.advance(seconds=1)
    await keys.flush()
    await keys.flush()
    assert [each.key_id for each in told] == [new.key.id]


async def test_without_a_start_a_flush_looks(unstarted, clock):
    """As a job may do."""
    told = hears(unstarted)
    await unstarted.create(name="ci", expires_in=LATER)
    await unstarted.flush()
    assert told == []
    clock.advance(days=28)
    await unstarted.flush()
    await unstarted.flush()
    assert len(told) == 1


def test_the_clock_of_the_pytest_plugin_brings_keys_near_their_end(
    keylatch_keys, keylatch_key, keylatch_clock
):
    """In a test without an event loop."""
    told = hears(keylatch_keys)
    new = keylatch_key(expires_in=timedelta(days=90))
    asyncio.run(keylatch_keys.flush())
    assert told == []
    keylatch_clock.advance(timedelta(days=84))
    asyncio.run(keylatch_keys.flush())
    assert [each.key_id for each in told] == [new.key.id]


@pytest.mark.parametrize("within", [timedelta(minutes=59), timedelta(days=367), 7, None])
def test_how_long_before_has_bounds(secret, within):
    """An hour to 366 days."""
    with pytest.raises(ConfigurationError, match="1 hour to 366 days"):
        APIKeys(MemoryStore(), prefix="acme", secret=secret, expiring_within=within)


async def test_it_can_be_told_earlier(secret, clock):
    """By as long as the collection is made for."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=secret, clock=clock, expiring_within=LATER)
    told = hears(keys)
    await keys.create(name="ci", expires_in=timedelta(days=29))
    await keys.flush()
    assert len(told) == 1
