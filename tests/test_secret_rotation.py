"""Keys move from one server secret to the next when they are used, and nothing else of them does.

A ring of one becomes a ring of two, and again one of one, in every kind of store.
"""

import asyncio
import logging
import re
from datetime import timedelta

import pytest
import sqlalchemy as sa
import stores
from argon2 import PasswordHasher, Type
from subject import SILENT

from keylatch import APIKeys, Hasher, SecretRing
from keylatch.errors import (
    ConfigurationError,
    ExpiredKeyError,
    InvalidKeyError,
    KeylatchError,
    RevokedKeyError,
    UnavailableError,
)
from keylatch.kids import SecretUse, kid_of
from keylatch.memory import MemoryStore
from keylatch.records import KeyEvent
from keylatch.tables import api_keys

pytestmark = pytest.mark.anyio

K1, K2 = (SecretRing.generate(kid) for kid in ("k1", "k2"))
OLD, BOTH, NEW = K1, f"{K2},{K1}", K2
NOT_YET = f"{K1},{K2}"


@pytest.fixture
async def ring(store, clock):
    """Makes collections in the same store, by what their ring is."""

    def ring(secret, **options):
        options = {"clock": clock} | SILENT | options
        return APIKeys(store, prefix="acme_live", secret=secret, **options)

    yield ring
    await store.close()


async def hash_of(store, new):
    """What is stored of a token."""
    return (await store.load(new.key.id)).hash


async def actions(store, new):
    """What the audit trail of a key has."""
    return [event.action for event in await store.events(new.key.id)]


async def rehashed(keys):
    """Returns once nothing is left to be hashed anew."""
    if (task := keys._loader._rehasher._task) is not None:
        await asyncio.wait_for(asyncio.shield(task), 20)


async def test_a_used_key_moves_to_the_active_secret(store, ring, wrong_secret):
    """Its hash and its audit trail tell so, all else stays, and the old secret can go.

    A token that was sealed under the old secret opens its key all the same.
    """
    async with ring(OLD) as keys:
        used, idle = [await keys.create(name="ci", scopes=["a"], owner="u1") for _ in range(2)]
        assert (await keys.secret_status()).done
    async with ring(BOTH) as keys:
        before = await keys.get(used.key.id)
        with pytest.raises(InvalidKeyError):
            await keys.verify(wrong_secret(used.token))  # so that the row is cached
        await rehashed(keys)
        assert await actions(store, used) == ["created"]
        with pytest.raises(KeylatchError):
            await keys.verify(used.token, scopes=["b"])
        for _ in range(3):
            await keys.verify(used.token, scopes=["a"])
        await rehashed(keys)
        assert kid_of(await hash_of(store, used)) == "k2"
        assert kid_of(await hash_of(store, idle)) == "k1"
        assert await actions(store, used) == ["created", "rehashed"]
        assert (await keys.events(used.key.id))[1].details == {"from": "k1", "to": "k2"}
        assert await keys.get(used.key.id) == before
        await keys.flush()
        assert (await keys.get(used.key.id)).use_count == 3
        status = await keys.secret_status()
        assert status.uses == [SecretUse("k2", 1, 0), SecretUse("k1", 1, 0)]
        assert not status.done
        await keys.revoke(idle.key.id)
        status = await keys.secret_status()
        assert (status.done, status.removable) == (True, ["k1"])
    async with ring(NEW) as keys:
        await keys.verify(used.token)
        await rehashed(keys)
    assert await actions(store, used) == ["created", "rehashed"]


async def test_only_a_living_key_with_the_very_hash_is_rewritten(store, ring, clock):
    """Of one that was revoked, has expired, is gone or has another hash, nothing changes."""
    async with ring(OLD) as keys:
        revoked, expired, other = [await keys.create(name="ci") for _ in range(3)]
        await keys.revoke(revoked.key.id)
        await keys.update(expired.key.id, expires_at=clock() + timedelta(hours=1))
        clock.advance(hours=1)
        for new in (revoked, expired, other):
            record, events = await store.load(new.key.id), await actions(store, new)
            old = "something else" if new is other else record.hash
            assert not await store.rehash(old, "new", event(new.key.id, clock()))
            assert await store.load(new.key.id) == record
            assert await actions(store, new) == events
        assert not await store.rehash("old", "new", event("0" * 16, clock()))
        assert await store.events("0" * 16) == []
        assert await store.rehash(await hash_of(store, other), "new", event(other.key.id, clock()))
        assert await hash_of(store, other) == "new"


def event(key_id, now):
    """What the audit trail would say."""
    return KeyEvent(key_id=key_id, at=now, action="rehashed", actor=None, details={})


async def test_a_rehash_undoes_nothing_that_happens_meanwhile(store, ring, clock):
    """Revoked, rotated, edited or purged at the same time, a key is as if it had not been."""
    async with ring(OLD, allow_missing_secrets=True) as keys:
        made = [await keys.create(name="ci", scopes=["a"]) for _ in range(12)]
        dead = [await keys.create(name="ci") for _ in range(3)]
        for new in dead:
            await keys.revoke(new.key.id)
        changes = [
            lambda key_id: keys.revoke(key_id, reason="leaked"),
            lambda key_id: keys.rotate(key_id, grace=timedelta(0)),
            lambda key_id: keys.update(key_id, scopes=["b"], name="edited"),
        ]
        hasher = Hasher(SecretRing(BOTH))

        stored = {new: await hash_of(store, new) for new in made}

        async def rehash(new):
            renewed = hasher.hash(new.token)
            done = await store.rehash(stored[new], renewed, event(new.key.id, clock()))
            return renewed if done else None

        clock.advance(seconds=1)
        *outcomes, purged = await asyncio.gather(
            *(
                asyncio.gather(rehash(new), changes[number % 3](new.key.id))
                for number, new in enumerate(made)
            ),
            keys._store.purge(clock()),
        )
        assert purged >= len(dead)
        for number, (new, (renewed, _)) in enumerate(zip(made, outcomes, strict=True)):
            record = await store.load(new.key.id)
            if record is None:
                assert number % 3 != 2  # the purge was last
                continue
            assert (record.hash == renewed) is (renewed is not None)
            assert (await actions(store, new)).count("rehashed") == (renewed is not None)
            if number % 3 == 0:
                assert record.key.status(clock()) == "revoked"
            elif number % 3 == 1:
                assert record.key.status(clock()) == "expired"
            else:
                assert (record.key.name, record.key.scopes) == ("edited", {"b"})


async def test_a_revoked_or_expired_key_stays_as_it_is(store, ring, clock):
    """Its token has no hash made anew, and gets the answer that it got."""
    async with ring(OLD) as keys:
        revoked, expired = [await keys.create(name="ci") for _ in range(2)]
        await keys.revoke(revoked.key.id)
        await keys.update(expired.key.id, expires_at=clock() + timedelta(hours=1))
    clock.advance(hours=1)
    async with ring(BOTH) as keys:
        for new, error in ((revoked, RevokedKeyError), (expired, ExpiredKeyError)):
            with pytest.raises(error):
                await keys.verify(new.token)
        await rehashed(keys)
    for new in (revoked, expired):
        assert "rehashed" not in await actions(store, new)
        assert kid_of(await hash_of(store, new)) == "k1"
    async with ring(NEW) as keys:  # the dead need no secret
        for new in (revoked, expired):
            with pytest.raises(InvalidKeyError):
                await keys.verify(new.token)


async def test_a_ring_that_lacks_a_secret_in_use_is_refused_at_start(store, ring, clock, caplog):
    """The error names it; the collection may be started all the same, and its keys are in doubt.

    The log says so once for a kid, not with every request.
    """
    async with ring(OLD) as keys:
        one, other = [await keys.create(name="ci") for _ in range(2)]
        await keys.create(name="ci", expires_at=clock() + timedelta(hours=1))
    with pytest.raises(ConfigurationError, match=r"not in the ring: k1\. .*secret status"):
        async with ring(NEW):
            pass
    async with ring(NEW, allow_missing_secrets=True) as keys:
        clock.advance(hours=1)
        status = await keys.secret_status()
        assert (status.missing, status.removable, status.done) == (["k1"], [], False)
        assert status.uses == [SecretUse("k2"), SecretUse("k1", living=2, dead=1)]
        for new in (one, other, one, other):
            with pytest.raises(UnavailableError, match="needs the server secret k1"):
                await keys.verify(new.token)
        await keys.create(name="ci")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "the server secret k1, which is not in the ring" in errors[0].getMessage()


@pytest.mark.parametrize(
    "database", ["sqlite-async", "postgres-async", "mariadb-async"], indirect=True
)
async def test_every_stored_hash_is_counted_as_what_it_is(database, clock):
    """Those of either scheme, those of other libraries with salts of any length, and damage."""
    weak = {"time_cost": 1, "memory_cost": 7168, "parallelism": 1, "type": Type.ID}
    rings = [SecretRing(K1), SecretRing(BOTH)]
    cheap = {"scheme": "argon2id", "memory_kib": 7168, "iterations": 1}
    hashes = {
        "k1": [Hasher(rings[0]).hash("t"), Hasher(rings[0], **cheap).hash("t")],
        "k2": [Hasher(rings[1], **cheap).hash("t")],
        None: [PasswordHasher(**weak, salt_len=size).hash("t") for size in (8, 16, 48)],
    }
    hashes[None] += ["", "$", "damaged", "$hmac-sha256$v=1$kid=", "$hmac-sha256$v=1$kid=UP$a$b"]
    assert all(kid_of(stored) == kid for kid, some in hashes.items() for stored in some)
    async with APIKeys(database, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
        await keys.create(name="ci")
        stored = [each for some in hashes.values() for each in some]
        await keys._store._database.run(lambda connection: copies(connection, stored))
        counted = (await keys.secret_status()).uses
        assert {use.kid: use.living for use in counted} == {"k1": 2, "k2": 2, None: 8}
        besides = await keys._store.count_secrets(clock(), besides=["k1", "k2"])
        assert {use.kid: use.living for use in besides} == {"k1": 1, "k2": 1, None: 8}


def copies(connection, hashes):
    """Writes the one key that there is once more for each hash."""
    (row,) = connection.execute(sa.select(api_keys)).mappings()
    ids = [f"{number:016}" for number in range(len(hashes))]
    rows = [
        dict(row) | {"id": key_id, "hash": each} for key_id, each in zip(ids, hashes, strict=True)
    ]
    connection.execute(sa.insert(api_keys), rows)


async def test_workers_with_different_rings_do_not_write_against_each_other(store, ring, clock):
    """While some have the old secret active and others the new one, a key moves once."""
    async with ring(NOT_YET) as older, ring(BOTH) as newer:
        new = await older.create(name="ci")
        for _ in range(3):
            for keys in (older, newer):
                keys._loader.evict([new.key.id])
                await keys.verify(new.token)
                await rehashed(keys)
        assert kid_of(await hash_of(store, new)) == "k2"
        assert await actions(store, new) == ["created", "rehashed"]
        clock.advance(minutes=30)  # one that was overlooked goes on
        older._loader.evict([new.key.id])
        await older.verify(new.token)
        await rehashed(older)
        assert kid_of(await hash_of(store, new)) == "k2"
        clock.advance(minutes=31)  # taken back on purpose
        older._loader.evict([new.key.id])
        await older.verify(new.token)
        await rehashed(older)
        assert kid_of(await hash_of(store, new)) == "k1"


class Watched(MemoryStore):
    """A store that counts what is read of audit trails."""

    read = 0

    async def events(self, key_id, **options):
        """Reads the audit trail of a key."""
        found = await super().events(key_id, **options)
        self.read += len(found)
        return found


async def test_a_long_audit_trail_holds_no_rehash_up(clock):
    """A key that is edited all day would otherwise have each worker read of all its edits."""
    store = Watched()
    old = APIKeys(store, prefix="acme_live", secret=OLD, clock=clock)
    new = await old.create(name="ci")
    for number in range(100):
        await old.update(new.key.id, metadata={"n": number})
    async with APIKeys(store, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
        await keys.verify(new.token)
        await rehashed(keys)
        assert kid_of(await hash_of(store, new)) == "k2"
        assert store.read == 0


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "plain"])
async def test_a_slow_hash_stays_slow(keyed, clock):
    """Argon2id gets the active secret, at a cost that is not less than it was, or the default."""
    store = MemoryStore()
    cost = {"memory_kib": 7168, "iterations": 3}
    async with APIKeys(store, prefix="acme_live", secret=OLD, clock=clock, **SILENT) as keys:
        new = await keys.create(name="ci")
    stored = Hasher(SecretRing(K1), scheme="argon2id", **cost).hash(new.token)
    if not keyed:
        stored = PasswordHasher(time_cost=3, memory_cost=7168, parallelism=1).hash(new.token)
    assert await store.rehash(await hash_of(store, new), stored, event(new.key.id, clock()))
    async with APIKeys(store, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
        await keys.verify(new.token)  # and what waits is done at the end
    renewed = await hash_of(store, new)
    assert re.match(r"\$argon2id\$v=19\$m=19456,t=3,p=1,keyid=\w+\$", renewed)
    assert kid_of(renewed) == "k2"
    assert Hasher(SecretRing(NEW)).verify(new.token, renewed)


class Unreadable(MemoryStore):
    """A store that is too big to be read within its deadline."""

    async def count_secrets(self, now, *, besides=()):
        """Gives up."""
        raise UnavailableError("late")


async def test_a_start_goes_on_where_the_keys_could_not_be_counted(caplog):
    """It says so: this is no reason for an outage, and each key is refused by itself."""
    async with APIKeys(Unreadable(), prefix="acme_live", secret=OLD, **SILENT) as keys:
        assert keys.health().started
        with pytest.raises(UnavailableError):
            await keys.secret_status()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "was not found out" in said


class Failing(MemoryStore):
    """A store that fails to rehash as long as it is told to."""

    def __init__(self):
        super().__init__()
        self.fails = True
        self.attempts = 0

    async def rehash(self, old, new, event):
        """Fails, or does it."""
        self.attempts += 1
        if self.fails:
            raise UnavailableError("down")
        return await super().rehash(old, new, event)


async def test_a_store_that_fails_is_asked_seldom_and_again(clock, monkeypatch, caplog):
    """No request notices. Once it answers all the keys move, and the end does not wait for it."""
    store = Failing()
    async with APIKeys(store, prefix="acme_live", secret=OLD, clock=clock, **SILENT) as keys:
        made = [await keys.create(name="ci") for _ in range(20)]
    async with APIKeys(store, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
        for _ in range(5):
            for new in made:
                await keys.verify(new.token)
            await asyncio.sleep(0.01)
    assert store.attempts == 1
    monkeypatch.setattr("keylatch.rehashing._FIRST_PAUSE", 0.05)
    async with APIKeys(store, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
        for new in made:
            await keys.verify(new.token)
        await asyncio.sleep(0.01)
        store.fails = False
        await rehashed(keys)
    assert {kid_of(await hash_of(store, new)) for new in made} == {"k2"}
    assert caplog.records == []


async def test_a_read_only_database_costs_one_line_of_the_log(caplog, clock):
    """Keys open as ever, however many of them should move."""
    with stores.key_database("sqlite-sync") as url:
        async with APIKeys(url, prefix="acme_live", secret=OLD, clock=clock) as keys:
            made = [await keys.create(name="ci") for _ in range(20)]
        path = sa.make_url(url).database
        engine = sa.create_engine(f"sqlite+pysqlite:///file:{path}?mode=ro&uri=true")
        async with APIKeys(engine, prefix="acme_live", secret=BOTH, clock=clock, **SILENT) as keys:
            for _ in range(3):
                for new in made:
                    await keys.verify(new.token)
                    await asyncio.sleep(0.005)
            said = [record.getMessage() for record in caplog.records]
        engine.dispose()
    assert len(said) == 1
    assert "readonly" in said[0]


async def test_a_collection_that_was_not_started_moves_nothing(clock):
    """It would do so with every request, and nobody would wait for it at the end."""
    store = MemoryStore()
    old = APIKeys(store, prefix="acme_live", secret=OLD, clock=clock)
    new = await old.create(name="ci")
    keys = APIKeys(store, prefix="acme_live", secret=BOTH, clock=clock)
    await keys.verify(new.token)
    await rehashed(keys)
    assert await actions(store, new) == ["created"]
