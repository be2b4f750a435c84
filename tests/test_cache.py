"""What a started collection answers without its database, and when it asks after all."""

import asyncio
import copy
import gc
import json
import os
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from subject import SILENT, core

from keylatch import APIKeys, Hasher, SecretRing, Token, loading
from keylatch.errors import (
    ConfigurationError,
    ExpiredKeyError,
    InvalidKeyError,
    RevokedKeyError,
    UnavailableError,
)
from keylatch.memory import MemoryStore
from keylatch.records import APIKey, KeyEvent, KeyRecord
from keylatch.stretching import Stretching

pytestmark = pytest.mark.anyio


class Counted:
    """A store that tells how often keys were loaded, and can hold loads up."""

    def __init__(self, store):
        self._load = store.load
        self.loads = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        store.load = self.load

    async def load(self, key_id, **options):
        """Counts."""
        self.loads += 1
        await self.go_on.wait()
        return await self._load(key_id, **options)


@contextmanager
def statements(keys) -> Iterator[list[str]]:
    """Collects what is sent to the database meanwhile."""
    sent: list[str] = []

    def look(_connection, _cursor, statement, *_):
        sent.append(statement)

    engine = core(keys._store._database.engine)
    sa.event.listen(engine, "before_cursor_execute", look)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", look)


async def test_a_known_key_costs_no_query(host_keys):
    """Ten thousand requests with it send nothing to the database."""
    new = await host_keys.create(name="ci", scopes=["items:read"])
    await host_keys.verify(new.token)
    with statements(host_keys) as sent:
        for _ in range(10_000):
            key = await host_keys.verify(new.token, scopes=["items:read"])
    assert key == new.key
    assert sent == []


async def test_a_key_that_many_want_at_once_is_loaded_once(host_keys):
    """A thousand requests wait for one query."""
    new = await host_keys.create(name="ci")
    with statements(host_keys) as sent:
        found = await asyncio.gather(*(host_keys.verify(new.token) for _ in range(1000)))
    assert set(found) == {new.key}
    assert len(sent) == 1


async def test_who_stops_waiting_takes_nobody_along(keys):
    """The load goes on for those who still wait, and fills the cache."""
    new = await keys.create(name="ci")
    store = Counted(keys._store)
    store.go_on.clear()
    first, second = (asyncio.create_task(keys.verify(new.token)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.go_on.set()
    assert await second == new.key
    assert await keys.verify(new.token) == new.key
    assert store.loads == 1


async def test_who_stops_waiting_for_a_store_that_is_broken_leaves_no_complaint(secret, caplog):
    """Whatever it raises then, nobody is left to tell."""
    store = MemoryStore()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")

        async def load(_):
            await asyncio.sleep(0.01)
            raise ZeroDivisionError

        store.load = load
        request = asyncio.create_task(keys.verify(new.token))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.sleep(0.05)
        gc.collect()
        assert not caplog.records


async def test_an_unknown_key_is_asked_for_once_in_a_while(keys, secret):
    """A client in a loop with a key that was purged costs nothing."""
    store = Counted(keys._store)
    token = Token.mint("acme_live", SecretRing(secret))
    for _ in range(1000):
        with pytest.raises(InvalidKeyError):
            await keys.verify(token)
    assert store.loads == 1


@pytest.mark.parametrize("engine_name", ["sqlite-async", "postgres-async", "mariadb-async"])
async def test_forged_tokens_share_a_few_lookups(host_keys):
    """Without a right seal there are fifty a second for all of them, and then no telling."""
    ring = SecretRing(SecretRing.generate())
    forged = [Token.mint("acme_live", ring) for _ in range(100_000)]
    refused = {InvalidKeyError: 0, UnavailableError: 0}
    with statements(host_keys) as sent:
        began = asyncio.get_running_loop().time()
        for token in forged:
            try:
                await host_keys.verify(token)
            except (InvalidKeyError, UnavailableError) as error:
                refused[type(error)] += 1
        took = asyncio.get_running_loop().time() - began
    assert len(sent) == refused[InvalidKeyError]
    assert 50 <= len(sent) <= 50 + 50 * took + 1
    assert refused[UnavailableError] == 100_000 - len(sent)


async def test_a_wrong_secret_for_a_known_key_costs_no_query(host_keys, wrong_secret):
    """It is refused by the row that is cached, and nothing of it is counted."""
    new = await host_keys.create(name="ci")
    await host_keys.verify(new.token)
    with statements(host_keys) as sent:
        for _ in range(1000):
            with pytest.raises(InvalidKeyError):
                await host_keys.verify(wrong_secret(new.token))
    assert sent == []
    host_keys._engine.close_usage()
    assert host_keys._engine.take_usage(10)[0][1] == 1


async def test_a_cached_key_ends_to_the_microsecond(keys, clock):
    """It opens until just before its end, and a clock that is set back an hour opens it again."""
    new = await keys.create(name="ci", expires_in=timedelta(hours=2))
    await keys.verify(new.token)
    clock.advance(hours=2, microseconds=-1)
    assert await keys.verify(new.token)
    for _ in range(2):
        clock.advance(microseconds=1)
        with pytest.raises(ExpiredKeyError):
            await keys.verify(new.token)
    clock.advance(hours=-1)
    assert await keys.verify(new.token)


async def test_a_collection_that_was_not_started_caches_nothing(store, secret):
    """Every request reads the database, which is the truth."""
    keys = APIKeys(store, prefix="acme", secret=secret)
    new = await keys.create(name="ci")
    counted = Counted(store)
    for _ in range(3):
        assert await keys.verify(new.token)
    assert counted.loads == 3
    assert not keys.health().started
    await APIKeys(store, prefix="acme", secret=secret).revoke(new.key.id)
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)
    await store.close()


async def test_a_collection_that_has_ended_caches_nothing(store, secret):
    """No feed tells it what changes."""
    keys = APIKeys(store, prefix="acme", secret=secret)
    async with keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
    await APIKeys(store, prefix="acme", secret=secret).revoke(new.key.id)
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)
    await store.close()


async def test_applications_may_share_a_collection(store, secret):
    """It ends with the last of them."""
    keys = APIKeys(store, prefix="acme", secret=secret)
    async with keys:
        async with keys:
            new = await keys.create(name="ci")
        assert await keys.verify(new.token)
        assert keys.health().started
    assert not keys.health().started


async def test_collections_of_one_process_share_what_they_change(store, secret):
    """Whichever of them revokes, all refuse at once: no look for changes comes between."""
    async with (
        APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys,
        APIKeys(store, prefix=["acme", "partner"], secret=secret, **SILENT) as partners,
    ):
        new = await keys.create(name="ci", owner="ada")
        other = await keys.create(name="ci", owner="bob")
        for token in (new.token, other.token):
            assert await partners.verify(token)
        await keys.revoke(new.key.id)
        await keys.revoke_all(owner="bob")
        for token in (new.token, other.token):
            with pytest.raises(RevokedKeyError):
                await partners.verify(token)


async def test_a_transaction_that_changes_many_keys_is_no_burden(host, host_keys):
    """Thousands of keys whose fate is open until it commits, and then none."""
    made = [await host_keys.create(name="ci", owner="ada") for _ in range(5)]
    loader = host_keys._loader
    open_for_long = [True]
    loader.doubt([f"{number:016}" for number in range(20_000)], lambda: not open_for_long[0])
    async with host.transaction() as transaction:
        await host_keys.revoke_all(owner="ada", connection=transaction.connection)
        assert len(loader._doubts) == 20_005
        await transaction.commit()
    for new in made:
        with pytest.raises(RevokedKeyError):
            await host_keys.verify(new.token)
    open_for_long[0] = False
    loader._many_doubts = 20_000  # as if that many had come since they were last gone through
    async with host.transaction() as transaction:
        await host_keys.update(
            (await host_keys.create(name="ci")).key.id,
            name="renamed",
            connection=transaction.connection,
        )
        assert len(loader._doubts) == 1


class Slow(MemoryStore):
    """A store that takes a moment to open and to close, and may fail to tell of changes."""

    fails = hangs = False

    async def open(self):
        """Lets others go on."""
        await asyncio.sleep(0.01)

    async def close(self):
        """Does so, too."""
        await asyncio.sleep(0.01)

    async def changes(self, **options):
        """Fails, hangs, or tells."""
        if self.fails:
            raise ConfigurationError("the store is set up in a wrong way: mend it")
        if self.hangs:
            await asyncio.Event().wait()
        return await super().changes(**options)


async def test_applications_may_start_and_end_at_once(secret):
    """It starts once, ends with the last of them, and can be started again."""
    keys, before = APIKeys(Slow(), prefix="acme", secret=secret, **SILENT), asyncio.all_tasks()
    for _ in range(2):
        await asyncio.gather(keys.__aenter__(), keys.__aenter__())
        await keys.__aexit__(None, None, None)
        assert keys.health().started
        await asyncio.gather(keys.__aexit__(None, None, None), keys.__aenter__())
        assert keys.health().started
        assert keys.health().fresh
        await keys.__aexit__(None, None, None)
        assert not keys.health().started
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_a_start_that_failed_can_be_made_again(secret, fault):
    """Also one that was cancelled: it is not taken for one that began."""
    store = Slow()
    keys = APIKeys(store, prefix="acme", secret=secret, **SILENT)
    setattr(store, fault, True)
    with pytest.raises((ConfigurationError, TimeoutError)):
        async with asyncio.timeout(0.1):
            await keys.__aenter__()
    setattr(store, fault, False)
    async with keys:
        assert keys.health().fresh
    assert not keys.health().started


async def test_an_end_that_is_cancelled_is_one(secret):
    """No cached row counts, since no feed tells what becomes of it."""
    keys = APIKeys(Slow(), prefix="acme", secret=secret, **SILENT)
    await keys.__aenter__()
    await keys.verify((await keys.create(name="ci")).token)
    end = asyncio.create_task(keys.__aexit__(None, None, None))
    await asyncio.sleep(0)
    end.cancel()
    with pytest.raises(asyncio.CancelledError):
        await end
    assert not keys.health().fresh
    assert not keys.health().cached_keys


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-sync"])
async def test_a_transaction_may_be_older_than_the_start(host, secret):
    """A revocation that is open when the collection starts counts from its commit."""
    keys = APIKeys(host.engine, prefix="acme_live", secret=secret, **SILENT)
    new = await keys.create(name="ci")
    async with host.transaction() as transaction:
        await keys.revoke(new.key.id, connection=transaction.connection)
        async with keys:
            assert await keys.verify(new.token)
            await transaction.commit()
            with pytest.raises(RevokedKeyError):
                await keys.verify(new.token)


@pytest.mark.parametrize("engine_name", ["postgres-sync", "sqlite-sync"])
async def test_a_revocation_of_many_that_was_cancelled_may_be_committed(
    host, host_keys, monkeypatch
):
    """It had been written when its caller was told to stop, and counts from the commit."""
    new = await host_keys.create(name="ci", owner="ada")
    async with host.transaction() as transaction:
        change_owned = host_keys._store.change_owned

        async def cancelled(*arguments, **options):
            await change_owned(*arguments, **options)
            raise asyncio.CancelledError

        monkeypatch.setattr(host_keys._store, "change_owned", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await host_keys.revoke_all(owner="ada", connection=transaction.connection)
        assert await host_keys.verify(new.token)
        await transaction.commit()
        with pytest.raises(RevokedKeyError):
            await host_keys.verify(new.token)


@pytest.mark.parametrize("engine_name", ["postgres-sync", "mariadb-sync", "sqlite-sync"])
async def test_a_session_that_its_owner_forgets_goes_back(host, host_keys):
    """Nothing of ours holds on to it, with its locks, until the process ends."""
    new = await host_keys.create(name="ci")
    await host_keys.revoke(new.key.id, connection=host.session())
    async with asyncio.timeout(5):
        while host.core.pool.checkedout():
            await asyncio.sleep(0.01)
            gc.collect()
    assert await host_keys.verify(new.token)
    assert (await host_keys.revoke(new.key.id)).revoked_at


@pytest.mark.parametrize("engine_name", ["sqlite-async"])
async def test_a_transaction_of_many_changes_does_not_stop_the_event_loop(
    host, host_keys, clock, secret, monkeypatch
):
    """What is done for a key does not grow with the number of keys."""
    ring, asked = SecretRing(secret), 0
    _, one, event = slow_key(ring, clock.now)
    key_ids = [Token.mint("acme_live", ring).key_id for _ in range(500)]
    records = [replace(one, key=replace(one.key, id=key_id, owner="ada")) for key_id in key_ids]
    events = [replace(event, key_id=key_id) for key_id in key_ids]
    await host_keys._store.insert(list(zip(records, events, strict=True)))

    def over() -> bool:
        nonlocal asked
        asked += 1
        return False

    async def transaction(_):
        return over

    monkeypatch.setattr(host_keys._store, "transaction", transaction)
    # Whatever other tests have left behind is not asked.
    monkeypatch.setattr(loading, "_loaders", weakref.WeakSet([host_keys._loader]))
    async with host.transaction() as open_one:
        own = {"connection": open_one.connection}
        assert len(await host_keys.revoke_all(owner="ada", **own)) == 500
        for number in range(500):
            await host_keys.create(name=str(number), **own)
    assert asked < 3000


async def test_what_one_request_does_to_metadata_no_other_sees(keys):
    """The key is shared, so that it refuses, and a copy is one's own."""
    metadata = {"plan": "pro", "tags": ["a", {"b": [1]}], "limits": {"rps": 5}}
    new = await keys.create(name="ci", metadata=metadata)
    await keys.verify(new.token)
    key = await keys.verify(new.token)
    assert key.metadata == metadata
    assert json.loads(json.dumps(key.metadata)) == metadata
    for change in (
        lambda: key.metadata.__setitem__("plan", "free"),
        lambda: key.metadata.update(plan="free"),
        lambda: key.metadata.pop("plan"),
        key.metadata.clear,
        lambda: key.metadata.setdefault("x", 1),
        lambda: key.metadata.__ior__({"x": 1}),
        lambda: key.metadata["tags"].append("c"),
        key.metadata["tags"][1]["b"].sort,
        lambda: key.metadata["limits"].__delitem__("rps"),
    ):
        with pytest.raises(TypeError, match="copy its metadata"):
            change()
    for copied in (
        copy.deepcopy(key.metadata),
        pickle.loads(pickle.dumps(key.metadata)),
        dict(key.metadata) | {},
    ):
        copied["plan"] = "free"
        assert type(copied) is dict
    deep = copy.deepcopy(key.metadata)
    deep["tags"][1]["b"].append(2)
    assert (await keys.verify(new.token)).metadata == metadata
    assert (await keys.update(key.id, metadata=deep)).metadata == deep


async def test_a_key_that_changes_all_the_time_is_no_endless_loop(secret):
    """Rather than go on forever it says that there is no telling."""

    class Restless(MemoryStore):
        async def load(self, key_id, **options):
            found = await super().load(key_id, **options)
            keys._loader.evict([key_id])
            return found

    async with APIKeys(Restless(), prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        with pytest.raises(UnavailableError, match="changes faster"):
            await keys.verify(new.token)


async def test_health_tells_what_happened(keys, secret, wrong_secret):
    """Hits, misses and refusals by code, and how old what is known is."""
    new = await keys.create(name="ci")
    for _ in range(4):
        await keys.verify(new.token)
    with pytest.raises(InvalidKeyError):
        await keys.verify(wrong_secret(new.token))
    health = keys.health()
    assert (health.hits, health.misses, health.hit_rate) == (3, 1, 0.75)
    assert health.refusals["invalid_key"] == 1
    assert health.started
    assert health.fresh
    assert health.cached_keys == 1
    assert 0 <= health.feed_age < 60
    assert health.unwritten_usage == 1
    await keys.flush()
    assert keys.health().unwritten_usage == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cached_keys", 0),
        ("max_staleness", 0),
        ("max_staleness", float("nan")),
        ("max_staleness", 10**9),
        ("poll_interval", 0),
        ("poll_interval", 6),
        ("usage_interval", 0),
        ("unsealed_lookups", -1),
    ],
)
def test_numbers_that_switch_something_off_are_refused(secret, option, value):
    """The text names the option and its bounds."""
    with pytest.raises(ConfigurationError, match=f"{option}.* must be .* to "):
        APIKeys(MemoryStore(), prefix="acme", secret=secret, **{option: value})


def slow_key(ring: SecretRing, at) -> tuple[Token, KeyRecord, KeyEvent]:
    """A key whose hash is argon2id at the least cost."""
    token = Token.mint("acme", ring)
    hasher = Hasher(ring, scheme="argon2id", memory_kib=7168, iterations=1)
    key = APIKey(
        id=token.key_id,
        prefix="acme",
        name="ci",
        owner=None,
        scopes=frozenset(),
        metadata={},
        created_at=at,
    )
    event = KeyEvent(key_id=token.key_id, at=at, action="created", actor=None, details={})
    return token, KeyRecord(key, hasher.hash(token)), event


async def test_wrong_secrets_for_a_slow_hash_share_the_few_lookups(secret, clock, wrong_secret):
    """Whoever knows a key id cannot keep the cores busy with it."""
    ring, store = SecretRing(secret), MemoryStore()
    async with APIKeys(store, prefix="acme", secret=ring, unsealed_lookups=2) as keys:
        token, record, event = slow_key(ring, clock.now)
        await store.insert([(record, event)])
        outcomes = []
        for _ in range(20):
            try:
                await keys.verify(wrong_secret(token.reveal()))
            except (InvalidKeyError, UnavailableError) as error:
                outcomes.append(type(error))
        assert outcomes.count(InvalidKeyError) <= 4
        assert await keys.verify(token)
        with pytest.raises(InvalidKeyError):  # known by now to be wrong, without any work
            await keys.verify(wrong_secret(token.reveal()))


async def test_argon2_waits_for_a_core_and_not_for_long(secret, clock, monkeypatch):
    """Past two seconds there is no telling, and a cancelled request leaves its core to nobody."""
    monkeypatch.setattr("keylatch.stretching._PATIENCE", 0.05)
    ring, store = SecretRing(secret), MemoryStore()
    async with APIKeys(store, prefix="acme", secret=ring) as keys:
        made = [slow_key(ring, clock.now) for _ in range(4)]
        await store.insert([(record, event) for _, record, event in made])
        stretching = keys._loader._stretching
        stretching._cores = 1
        release, running = asyncio.Event(), 0
        loop = asyncio.get_running_loop()
        run = stretching.run

        async def held(work):
            def blocking():
                nonlocal running
                running += 1
                asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
                work()

            await run(blocking)

        stretching.run = held
        first = asyncio.create_task(keys.verify(made[0][0]))
        await asyncio.sleep(0.02)
        first.cancel()
        for token, *_ in made[1:]:
            with pytest.raises(UnavailableError, match="busy with argon2id"):
                await keys.verify(token)
        assert running == 1
        release.set()
        stretching.run = run
        assert await keys.verify(made[1][0])
        assert await keys.verify(made[0][0])


async def test_collections_share_the_cores():
    """Argon2 runs once a core at a time, however many collections there are."""
    first, second = Stretching(), Stretching()
    first._cores = second._cores = 1
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    await asyncio.gather(*(each.run(work) for each in (first, second) * 3))
    assert (running, most) == (0, 1)
    for each in (first, second):
        each.close()


async def test_argon2_does_not_stop_the_event_loop(secret, clock):
    """Many cold verifications at once, and everything else goes on meanwhile."""
    ring, store = SecretRing(secret), MemoryStore()
    async with APIKeys(store, prefix="acme", secret=ring) as keys:
        made = [slow_key(ring, clock.now) for _ in range(40)]
        await store.insert([(record, event) for _, record, event in made])
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        heart = asyncio.create_task(beat())
        outcomes = await asyncio.gather(
            *(keys.verify(token) for token, *_ in made), return_exceptions=True
        )
        heart.cancel()
        assert any(isinstance(each, APIKey) for each in outcomes)
        assert all(isinstance(each, APIKey | UnavailableError) for each in outcomes)
        assert beats > 20


async def test_another_event_loop_is_served_from_the_cache_only(keys):
    """The connections belong to the loop in which the collection was started."""
    known, unknown = await keys.create(name="known"), await keys.create(name="unknown")
    await keys.verify(known.token)

    def elsewhere(token):
        return asyncio.run(keys.verify(token))

    assert await asyncio.to_thread(elsewhere, known.token) == known.key
    with pytest.raises(ConfigurationError, match="another event loop"):
        await asyncio.to_thread(elsewhere, unknown.token)
    assert await keys.verify(unknown.token) == unknown.key


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_anew(tmp_path, secret):
    """What the parent had cached, the child does not have, nor the uses that it counted."""
    url = f"sqlite+aiosqlite:///{tmp_path}/keys.db"
    keys = APIKeys(url, prefix="acme", secret=secret, **SILENT)

    async def parent():
        await keys.__aenter__()
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        await keys.verify(new.token)
        return new

    async def child(new):
        health = keys.health()
        assert (health.cached_keys, health.hits, health.unwritten_usage) == (0, 0, 0)
        assert not health.started
        assert await keys.verify(new.token) == new.key
        await keys.__aexit__(None, None, None)  # where the parent's block came along
        async with keys:
            assert await keys.verify(new.token) == new.key
            assert keys.health().cached_keys == 1

    loop = asyncio.new_event_loop()
    new = loop.run_until_complete(parent())
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(child(new))
        except BaseException:  # noqa: BLE001 - nothing may run on in the child
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert keys.health().started
    loop.run_until_complete(keys.__aexit__(None, None, None))
    loop.close()
    assert os.waitstatus_to_exitcode(status) == 0
