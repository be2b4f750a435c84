"""A call with ``connection=`` belongs to the host's transaction, and happens or not with it."""

from datetime import timedelta

import pytest
from hosts import KINDS

from keylatch.errors import InvalidKeyError, KeyStateError, UnavailableError, UnknownKeyError

pytestmark = pytest.mark.anyio


def create(keys, key_id, **options):
    """Makes a key."""
    return keys.create(name="new", **options)


def update(keys, key_id, **options):
    """Changes a key."""
    return keys.update(key_id, name="renamed", **options)


def rotate(keys, key_id, **options):
    """Replaces a key."""
    return keys.rotate(key_id, grace=timedelta(hours=1), **options)


def revoke(keys, key_id, **options):
    """Ends a key."""
    return keys.revoke(key_id, **options)


def revoke_all(keys, key_id, **options):
    """Ends the keys of an owner."""
    return keys.revoke_all(owner="u1", **options)


def purge(keys, key_id, **options):
    """Deletes what has ended."""
    return keys.purge(dead_for=timedelta(hours=1), **options)


# In an order in which each finds something to change.
CHANGES = (create, update, rotate, revoke, revoke_all, purge)


@pytest.fixture
async def key(host_keys):
    """A key that was there before."""
    return (await host_keys.create(name="ci", owner="u1", scopes=["items:read"])).key


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_and_the_hosts_rows_share_one_fate(host, host_keys, key, clock, kind):
    """What the host writes before and after a call is kept with it, or nothing of all is."""
    for change in CHANGES:
        clock.advance(minutes=30)
        before = await host.rows()
        for commits in (False, True):
            async with host.transaction(kind) as transaction:
                await transaction.add(f"before {change.__name__}")
                await change(host_keys, key.id, connection=transaction.connection)
                await transaction.add(f"after {change.__name__}")
                inside = await transaction.rows()
                assert inside["keys"] != before["keys"], change
                assert inside["events"] != before["events"], change
                assert await host.rows() == before, (
                    f"{change.__name__}: others see it before the commit"
                )
                await (transaction.commit if commits else transaction.rollback)()
            assert await host.rows() == (inside if commits else before), change


async def test_without_a_connection_a_change_stands_for_itself(host, host_keys, key, clock):
    """Neither the key nor its event waits for anybody: both are there once the call returns."""
    for change in CHANGES:
        clock.advance(minutes=30)
        before = await host.rows()
        await change(host_keys, key.id)
        after = await host.rows()
        assert after["keys"] != before["keys"], change
        assert after["events"] != before["events"], change


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_may_be_what_begins_the_transaction(host, host_keys, key, kind):
    """A session or connection that did nothing yet begins, and is committed by the host only."""
    before = await host.rows()
    for end in ("nothing", "rollback", "commit"):
        async with host.transaction(kind) as transaction:
            new = await host_keys.create(name="new", connection=transaction.connection)
            if end != "nothing":
                await getattr(transaction, end)()
        if end != "commit":
            assert await host.rows() == before, end
            with pytest.raises(InvalidKeyError):
                await host_keys.verify(new.token)
    assert (await host_keys.verify(new.token)).id == new.key.id


async def test_reads_see_what_their_transaction_did(host, host_keys, key, clock):
    """Within, a call reads what is not committed; without, it does not, and does not wait."""
    clock.advance(minutes=1)
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        new = await host_keys.create(name="new", owner="u1", **own)
        revoked = await host_keys.revoke(key.id, reason="leaked", **own)
        assert await host_keys.get(new.key.id, **own) == new.key
        assert await host_keys.get(key.id, **own) == revoked
        assert (await host_keys.list(owner="u1", **own)).items == [new.key, revoked]
        assert [each.action for each in await host_keys.events(key.id, **own)] == [
            "created",
            "revoked",
        ]
        with pytest.raises(UnknownKeyError):
            await host_keys.get(new.key.id)
        with pytest.raises(UnknownKeyError):
            await host_keys.events(new.key.id)
        assert await host_keys.get(key.id) == key
        assert (await host_keys.list(owner="u1")).items == [key]
        assert len(await host_keys.events(key.id)) == 1
        await transaction.rollback()


async def test_an_error_of_the_host_takes_the_key_along(host, host_keys):
    """What the host raises after the call undoes both."""
    before = await host.rows()
    for raises in (True, False):
        try:
            async with host.transaction() as transaction, transaction.begin():
                await transaction.add("ada")
                new = await host_keys.create(name="ci", connection=transaction.connection)
                if raises:
                    {}["of the host"]
        except KeyError:
            assert await host.rows() == before
            with pytest.raises(InvalidKeyError):
                await host_keys.verify(new.token)
    assert (await host.rows())["users"] == [("ada",)]
    assert (await host_keys.verify(new.token)).id == new.key.id


async def test_several_calls_are_one(host, host_keys, clock):
    """Create, rotate and revoke in one transaction: the successor alone opens afterwards."""
    before = await host.rows()
    for commits in (False, True):
        async with host.transaction() as transaction:
            own = {"connection": transaction.connection}
            await transaction.add("ada")
            old = await host_keys.create(name="ci", owner="u1", **own)
            new = await host_keys.rotate(old.key.id, grace=timedelta(days=1), **own)
            await host_keys.update(new.key.id, scopes=["items:read"], **own)
            await host_keys.revoke(old.key.id, **own)
            if commits:
                await transaction.commit()
        if not commits:
            assert await host.rows() == before
    assert (await host_keys.verify(new.token)).scopes == {"items:read"}
    revoked = await host_keys.get(old.key.id)
    assert (revoked.successor, revoked.revoked_at) == (new.key.id, clock.now)
    assert [event.action for event in await host_keys.events(old.key.id)] == [
        "created",
        "rotated",
        "revoked",
    ]


async def test_a_refused_call_spoils_no_transaction(host, host_keys, key, clock):
    """The host goes on after a call that was refused, and commits the rest."""
    dead = (await host_keys.create(name="dead")).key
    await host_keys.revoke(dead.id)
    before = await host.rows()
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await transaction.add("before")
        with pytest.raises(KeyStateError):
            await host_keys.update(dead.id, name="renamed", **own)
        with pytest.raises(KeyStateError):
            await host_keys.rotate(dead.id, grace=timedelta(0), **own)
        for call in (host_keys.get, host_keys.revoke, host_keys.events):
            with pytest.raises(UnknownKeyError):
                await call("0" * 16, **own)
        with pytest.raises(ValueError, match="name"):
            await host_keys.create(name="", **own)
        with pytest.raises(ValueError, match="future"):
            await host_keys.update(key.id, expires_at=clock.now, **own)
        await transaction.add("after")
        await transaction.commit()
    assert await host.rows() == before | {"users": [("after",), ("before",)]}


@pytest.mark.parametrize("call", [create, rotate])
async def test_a_taken_id_spoils_no_transaction(host, host_keys, key, call, mint_first):
    """Where a new id is taken, another one is minted, and the host's rows are still there."""
    taken = await host_keys.create(name="taken")
    still_to_mint = mint_first(taken.token, taken.token)
    async with host.transaction() as transaction:
        await transaction.add("before")
        new = await call(host_keys, key.id, connection=transaction.connection)
        await transaction.add("after")
        await transaction.commit()
    assert not still_to_mint
    assert (await host.rows())["users"] == [("after",), ("before",)]
    assert (await host_keys.verify(new.token)).id == new.key.id != taken.key.id
    assert len(await host_keys.events(new.key.id)) == 1
    assert [event.action for event in await host_keys.events(taken.key.id)] == ["created"]


@pytest.mark.parametrize("call", [create, rotate])
async def test_ids_that_stay_taken_are_an_error_that_writes_nothing(
    host, host_keys, key, call, mint_first
):
    """The host may still commit what is its own."""
    taken = await host_keys.create(name="taken")
    before = await host.rows()
    mint_first(*[taken.token] * 9)
    async with host.transaction() as transaction:
        with pytest.raises(UnavailableError, match="colliding"):
            await call(host_keys, key.id, connection=transaction.connection)
        await transaction.add("ada")
        await transaction.commit()
    assert await host.rows() == before | {"users": [("ada",)]}
