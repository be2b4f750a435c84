"""Tokens that clients hold already: imported, they open their keys in every kind of store."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from imports import K1, K2, OLD, collection, digest
from subject import SILENT
from test_cache import statements

from keylatch import APIKeys, KeyRequest, parse
from keylatch.errors import (
    ConfigurationError,
    DuplicateTokenError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidKeyError,
    KeyStateError,
    RevokedKeyError,
    UnknownKeyError,
)
from keylatch.importing import TokenToImport
from keylatch.kids import SecretUse, kid_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ring(store, clock):
    """Makes collections in the same store, by what their ring is."""

    def ring(secret, **options):
        return collection(store, secret, clock=clock, **options)

    yield ring
    await store.close()


async def test_an_imported_token_opens_its_key(store, ring, clock):
    """It has the values that it was given, an id that a digest tells, and no prefix."""
    async with ring(K1) as keys:
        with pytest.raises(InvalidKeyError):
            await keys.verify(OLD)  # so that its absence is cached
        key = await keys.import_token(
            OLD,
            name="ci",
            owner="u1",
            scopes=["items:read"],
            expires_in=timedelta(days=1),
            metadata={"n": 1},
            actor="me",
        )
        assert (key.id, key.prefix, key.name) == (digest(K1, OLD), "", "ci")
        assert (key.owner, key.scopes, key.metadata) == ("u1", {"items:read"}, {"n": 1})
        assert await keys.verify(OLD, scopes=["items:read"]) == key
        with pytest.raises(InsufficientScopeError):
            await keys.verify(OLD, scopes=["items:write"])
        assert await keys.get(key.id) == key
        (event,) = await keys.events(key.id)
        assert (event.action, event.actor, event.details["owner"]) == ("imported", "me", "u1")
        assert (await store.load(key.id)).hash.startswith("$hmac-sha256$v=1$kid=k1$")
        clock.advance(days=1)
        with pytest.raises(ExpiredKeyError):
            await keys.verify(OLD)
    assert (await ring(K1).get(key.id)).use_count == 1


async def test_calls_that_change_keys_take_imported_ones(ring, clock):
    """Listed by themselves, edited, revoked at once and for good, purged."""
    async with ring(K1) as keys:
        one, other = [await keys.import_token(f"{OLD}{n}", name=str(n)) for n in range(2)]
        native = (await keys.create(name="native")).key
        assert {key.id for key in (await keys.list(prefix="")).items} == {one.id, other.id}
        assert [key.id for key in (await keys.list(prefix="acme_live")).items] == [native.id]
        assert len((await keys.list()).items) == 3
        assert (await keys.update(one.id, scopes=["a"])).scopes == {"a"}
        assert (await keys.verify(f"{OLD}0", scopes=["a"])).id == one.id
        await keys.revoke(one.id)
        with pytest.raises(RevokedKeyError):
            await keys.verify(f"{OLD}0")
        assert (await keys.verify(f"{OLD}1")).id == other.id
        with pytest.raises(DuplicateTokenError) as refused:
            await keys.import_token(f"{OLD}0", name="again")
        assert refused.value.key_id == one.id
        health = keys.health()
        assert health.refusals["revoked_key"] == 1
        await keys.flush()
        assert (await keys.get(other.id)).use_count == 1
        clock.advance(hours=2)
        assert await keys.purge(dead_for=timedelta(hours=1)) == 1
        with pytest.raises(UnknownKeyError):
            await keys.get(one.id)


async def test_a_rotated_key_gets_a_token_of_ours(ring, clock):
    """The successor has the first prefix, all else goes on, and the old token ends with the grace.

    One that is rotated once more, or under another first prefix, is as any other key.
    """
    async with ring(K1, prefix=["acme_live", "acme_test"]) as keys:
        old = await keys.import_token(OLD, name="ci", owner="u1", scopes=["a"], metadata={"n": 1})
        new = await keys.rotate(old.id, grace=timedelta(hours=1))
        assert new.token.startswith("acme_live_")
        assert new.key.prefix == parse(new.token).prefix == "acme_live"
        assert (new.key.name, new.key.owner, new.key.scopes) == ("ci", "u1", {"a"})
        assert (await keys.get(old.id)).successor == new.key.id
        for token in (OLD, new.token):
            await keys.verify(token, scopes=["a"])
        clock.advance(hours=1)
        with pytest.raises(ExpiredKeyError):
            await keys.verify(OLD)
        await keys.verify(new.token)
        with pytest.raises(KeyStateError):
            await keys.rotate(old.id, grace=timedelta(0))
        assert (await keys.rotate(new.key.id, grace=timedelta(0))).key.prefix == "acme_live"


async def test_a_ring_of_several_finds_keys_under_each_secret(store, ring, clock):
    """New ones are named by the active one; none is imported twice, and none moves by itself.

    Where the old secret is missing, the start says so; once its key was rotated, it can go.
    """
    async with ring(K1) as keys:
        old = await keys.import_token(OLD, name="old", scopes=["a"])
        native = await keys.create(name="native")
    async with ring(f"{K2},{K1}") as keys:
        for _ in range(3):
            assert (await keys.verify(OLD, scopes=["a"])).id == old.id
            await keys.verify(native.token)
        with pytest.raises(InsufficientScopeError):
            await keys.verify(OLD, scopes=["b"])
        with pytest.raises(DuplicateTokenError) as refused:
            await keys.import_token(OLD, name="again")
        assert refused.value.key_id == old.id
        new = await keys.import_token(f"{OLD}2", name="new")
        assert new.id == digest(K2, f"{OLD}2")
        assert (await keys.verify(f"{OLD}2")).id == new.id
        for unknown in ("hunter22", f"{OLD}3"):
            with pytest.raises(InvalidKeyError):
                await keys.verify(unknown)
        if (task := keys._loader._rehasher._task) is not None:
            await task
        status = await keys.secret_status()
        assert status.uses == [
            SecretUse("k2", living=2, imported=1),
            SecretUse("k1", living=1, imported=1),
        ]
    assert kid_of((await store.load(old.id)).hash) == "k1"
    assert kid_of((await store.load(native.key.id)).hash) == "k2"
    assert [event.action for event in await store.events(old.id)] == ["imported"]
    async with ring(f"{K1},{K2}") as keys:  # taken back
        for token in (OLD, f"{OLD}2", native.token):
            await keys.verify(token)
    with pytest.raises(ConfigurationError, match="not in the ring: k1"):
        async with ring(K2):
            pass
    async with ring(K2, allow_missing_secrets=True) as keys:
        with pytest.raises(InvalidKeyError):  # who lacks the secret cannot tell it from a forgery
            await keys.verify(OLD)
    keys = ring(f"{K2},{K1}")
    await keys.verify(OLD)  # also where nothing is cached
    await keys.rotate(old.id, grace=timedelta(0))
    clock.advance(seconds=1)
    with pytest.raises(ExpiredKeyError):
        await keys.verify(OLD)
    async with ring(K2) as keys:
        await keys.verify(f"{OLD}2")


async def test_an_imported_token_costs_no_query_once_it_is_known(host, secret):
    """One load for all who wait at first, however many secrets the ring has; then none."""
    for number, ring in enumerate((secret, f"{K2},{secret}")):
        async with APIKeys(
            host.engine, prefix="acme_live", secret=ring, imported_tokens=True, **SILENT
        ) as keys:
            if not number:
                old = await keys.import_token(OLD, name="ci")
            with statements(keys) as sent:
                found = await asyncio.gather(*(keys.verify(OLD) for _ in range(500)))
            assert {key.id for key in found} == {old.id}
            assert len(sent) == 1 + number  # by each name that it may have
            with statements(keys) as sent:
                for _ in range(2000):
                    await keys.verify(OLD)
            assert sent == []


async def test_two_that_import_one_token_at_once_make_one_key(ring):
    """Whoever is later is told of the key."""
    async with ring(K1) as keys:
        made = await asyncio.gather(
            *(keys.import_token(OLD, name=str(n)) for n in range(4)), return_exceptions=True
        )
        (key,) = [each for each in made if not isinstance(each, Exception)]
        refused = [each for each in made if isinstance(each, Exception)]
        assert {type(each) for each in refused} == {DuplicateTokenError}
        assert {each.key_id for each in refused} == {key.id}
        assert (await keys.list()).items == [key]


@pytest.mark.parametrize(
    "rings", [(K1, f"{K1},{K2}"), (f"{K1},{K2}", f"{K2},{K1}"), (f"{K2},{K1}", K2)]
)
async def test_workers_in_the_midst_of_a_rotation_make_one_key_of_one_token(ring, rings):
    """From one step to the next: a second key would outlive the revocation of the first."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(ring(each)) for each in rings]
        for number in range(8):
            token = f"{OLD}{number}"
            made = await asyncio.gather(
                *(keys.import_token(token, name="ci") for keys in workers * 2),
                return_exceptions=True,
            )
            (key,) = [each for each in made if not isinstance(each, Exception)]
            refused = [each for each in made if isinstance(each, Exception)]
            assert {type(each) for each in refused} == {DuplicateTokenError}
            assert {each.key_id for each in refused} == {key.id}
        many = [f"{OLD}many{number}" for number in range(250)]
        made = await asyncio.gather(
            import_all(workers[0], many),
            import_all(workers[1], many[::-1]),
            return_exceptions=True,
        )
        (refused,) = [each for each in made if isinstance(each, Exception)]
        assert isinstance(refused, DuplicateTokenError)
        assert len((await workers[0].list(limit=500)).items) == 8 + 250


async def import_all(keys, tokens):
    """Imports tokens in one go."""
    read = [TokenToImport(keys.read_imported(each), KeyRequest(name="ci")) for each in tokens]
    return await keys.import_many(read)


async def test_an_import_belongs_to_the_transaction_of_its_caller(host, secret):
    """Rolled back, the token opens nothing; committed, it does, though its absence was cached."""
    async with APIKeys(
        host.engine, prefix="acme_live", secret=secret, imported_tokens=True, **SILENT
    ) as keys:
        for commits in (False, True):
            with pytest.raises(InvalidKeyError):
                await keys.verify(OLD)
            async with host.transaction() as mine:
                key = await keys.import_token(OLD, name="ci", connection=mine.connection)
                with pytest.raises(DuplicateTokenError):
                    await keys.import_token(OLD, name="ci", connection=mine.connection)
                await (mine.commit() if commits else mine.rollback())
        assert (await keys.verify(OLD)).id == key.id


async def test_many_are_imported_at_once_or_none(store, ring, monkeypatch):
    """In one transaction; whoever was faster with one of them is named."""
    async with ring(f"{K2},{K1}") as keys:
        tokens = [keys.read_imported(f"{OLD}{number}") for number in range(450)]
        many = [TokenToImport(token, KeyRequest(name="ci", owner="u1")) for token in tokens]
        assert OLD not in repr(many[0])
        assert await keys.import_many([]) == []
        made = await keys.import_many(many[:400], actor="me")
        assert [key.id for key in made] == [token.key_id for token in tokens[:400]]
        assert (await keys.verify(f"{OLD}399")).owner == "u1"
        found = await keys.find_imported(tokens)
        assert found == {token.key_id: token.key_id for token in tokens[:400]}
        with pytest.raises(DuplicateTokenError):
            await keys.import_many(many[399:])
        with pytest.raises(InvalidKeyError):
            await keys.verify(f"{OLD}449")
        assert [event.action for event in await keys.events(made[0].id)] == ["imported"]
