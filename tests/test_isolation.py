"""Keys in a host's transactions at other isolation levels, behind old snapshots, in savepoints."""

from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hosts import KINDS, User
from sqlalchemy.exc import SQLAlchemyError

from keylatch.errors import KeyStateError, UnavailableError

pytestmark = pytest.mark.anyio

on_postgres = pytest.mark.parametrize("engine_name", ["postgres-async", "postgres-sync"])
on_mariadb = pytest.mark.parametrize("engine_name", ["mariadb-async", "mariadb-sync"])
on_servers = pytest.mark.parametrize(
    "engine_name", ["postgres-async", "postgres-sync", "mariadb-async", "mariadb-sync"]
)
at_each_level = pytest.mark.parametrize(
    "engine_options",
    [{"isolation_level": level} for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")],
    ids=lambda options: options["isolation_level"].lower(),
)
HOUR = timedelta(hours=1)


@pytest.fixture
async def key(host_keys):
    """A key that was there before."""
    return (await host_keys.create(name="ci", owner="u1", scopes=["items:read"])).key


@on_servers
@at_each_level
async def test_at_each_level_keys_share_the_fate_of_the_hosts_rows(host, host_keys, key, clock):
    """What the isolation level is makes no difference where nobody else is at it."""
    clock.advance(minutes=1)
    before = await host.rows()
    for commits in (False, True):
        async with host.transaction() as transaction:
            own = {"connection": transaction.connection}
            await transaction.add("before")
            await host_keys.update(key.id, name="renamed", **own)
            new = await host_keys.rotate(key.id, grace=HOUR, **own)
            await host_keys.revoke_all(owner="u1", **own)
            clock.advance(hours=1)
            assert await host_keys.purge(dead_for=HOUR, **own) == 2
            last = await host_keys.create(name="last", **own)
            await transaction.add("after")
            await (transaction.commit if commits else transaction.rollback)()
        if not commits:
            assert await host.rows() == before
    assert [each.id for each in (await host_keys.list()).items] == [last.key.id] != [new.key.id]
    assert (await host.rows())["users"] == [("after",), ("before",)]


async def look(transaction):
    """Reads something, and keeps the database to how it is now where snapshots are taken."""
    await transaction.execute(sa.select(User))


@on_postgres
@pytest.mark.parametrize(
    "engine_options",
    [{"isolation_level": "REPEATABLE READ"}, {"isolation_level": "SERIALIZABLE"}],
    ids=lambda options: options["isolation_level"].lower(),
)
async def test_postgresql_refuses_to_change_a_key_that_a_snapshot_does_not_show(
    host, host_keys, key, clock
):
    """The call fails without a trace; once the host rolled back, it finds the key as it is."""
    changes = (
        lambda **own: host_keys.update(key.id, scopes=["items:write"], **own),
        lambda **own: host_keys.rotate(key.id, grace=HOUR, **own),
        lambda **own: host_keys.revoke(key.id, **own),
        lambda **own: host_keys.revoke_all(owner="u1", **own),
    )
    for number, change in enumerate(changes):
        async with host.transaction() as transaction:
            await look(transaction)
            await host_keys.update(key.id, name=f"renamed {number}")
            before = await host.rows()
            with pytest.raises(UnavailableError, match="could not serialize"):
                await change(connection=transaction.connection)
            await transaction.rollback()
            assert await host.rows() == before
    async with host.transaction() as transaction:
        new = await host_keys.rotate(key.id, grace=HOUR, connection=transaction.connection)
        await transaction.commit()
    assert new.key.name == "renamed 3"


async def snapshots_guard(transaction, *, on):
    """Says whether MariaDB refuses what it did by default before 11.6: to change newer rows."""
    setting = "ON" if on else "OFF"
    await transaction.execute(sa.text(f"SET innodb_snapshot_isolation = {setting}"))
    await transaction.rollback()
    await look(transaction)


@on_mariadb
async def test_behind_an_old_snapshot_a_key_is_changed_as_it_is_now(host, host_keys, key, clock):
    """What others did since the host read is neither undone nor missing in what is returned."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await snapshots_guard(transaction, on=False)
        await host_keys.update(key.id, name="renamed", metadata={"team": "data"})
        clock.advance(minutes=1)
        updated = await host_keys.update(key.id, scopes=["items:write"], **own)
        new = await host_keys.rotate(key.id, grace=HOUR, **own)
        await transaction.commit()
    for changed in (updated, new.key):
        assert (changed.name, changed.metadata, changed.scopes) == (
            "renamed",
            {"team": "data"},
            {"items:write"},
        )
    assert await host_keys.get(new.key.id) == new.key


@on_mariadb
async def test_behind_an_old_snapshot_a_revocation_is_what_it_is_now(host, host_keys, key, clock):
    """The first reason stays, and a key that came to be since then is revoked like any other."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await snapshots_guard(transaction, on=False)
        first = await host_keys.revoke(key.id, reason="leaked")
        later = await host_keys.create(name="later", owner="u1")
        again = await host_keys.create(name="again", owner="u1")
        other = await host_keys.create(name="other", owner="u1")
        await host_keys.revoke(other.key.id)
        clock.advance(minutes=1)
        assert await host_keys.revoke(key.id, reason="again", **own) == first
        assert (await host_keys.revoke(other.key.id, **own)).revoked_at is not None
        assert (await host_keys.revoke(later.key.id, **own)).revoked_at == clock.now
        assert await host_keys.revoke_all(owner="u1", **own) == [again.key.id]
        with pytest.raises(KeyStateError):
            await host_keys.rotate(key.id, grace=HOUR, **own)
        with pytest.raises(KeyStateError):
            await host_keys.update(key.id, name="renamed", **own)
        await transaction.commit()
    assert await host_keys.get(key.id) == first
    assert (await host_keys.events(key.id))[-1].details == {"reason": "leaked"}


@on_mariadb
async def test_mariadb_may_refuse_to_change_a_key_that_a_snapshot_does_not_show(
    host, host_keys, key
):
    """As its newer versions do by default; the call fails without a trace."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await snapshots_guard(transaction, on=True)
        await host_keys.update(key.id, name="renamed")
        before = await host.rows()
        with pytest.raises(UnavailableError, match="changed since last read"):
            await host_keys.revoke(key.id, **own)
        await transaction.rollback()
        assert await host.rows() == before
        await host_keys.revoke(key.id, **own)
        await transaction.commit()
    assert (await host_keys.get(key.id)).revoked_at


@on_mariadb
@pytest.mark.parametrize("kind", KINDS)
async def test_what_mariadb_has_rolled_back_cannot_be_committed(host, host_keys, key, kind):
    """A host that goes on after the error keeps nothing of what it does then, either."""
    async with host.transaction(kind) as transaction:
        await snapshots_guard(transaction, on=True)
        await transaction.add("before")
        await host_keys.update(key.id, name="renamed")
        with pytest.raises(UnavailableError, match="try restarting transaction"):
            await host_keys.revoke(key.id, connection=transaction.connection)
        for go_on in (transaction.add("after"), transaction.commit()):
            with pytest.raises(SQLAlchemyError, match="is rolled back"):
                await go_on
        assert (await host.rows())["users"] == []
        await transaction.rollback()
        await transaction.add("again")
        await transaction.commit()
    assert (await host.rows())["users"] == [("again",)]


@on_mariadb
async def test_an_id_that_was_taken_since_the_host_read_is_minted_again(
    host, host_keys, key, mint_first
):
    """The host does not see the other key, and its own rows stay."""
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        await snapshots_guard(transaction, on=False)
        await transaction.add("ada")
        taken = await host_keys.create(name="taken")
        mint_first(taken.token, taken.token)
        created = await host_keys.create(name="new", **own)
        rotated = await host_keys.rotate(key.id, grace=HOUR, **own)
        await transaction.commit()
    for new in (taken, created, rotated):
        assert await host_keys.verify(new.token) == new.key
    assert (await host.rows())["users"] == [("ada",)]


@on_servers
async def test_a_savepoint_that_is_rolled_back_takes_its_keys_along(host, host_keys, key, clock):
    """What was done before and after it stays with the transaction around it."""
    clock.advance(minutes=1)
    async with host.transaction() as transaction:
        own = {"connection": transaction.connection}
        before = await host_keys.create(name="before", **own)
        with suppress(KeyError):
            async with transaction.savepoint():
                await transaction.add("within")
                within = await host_keys.rotate(key.id, grace=HOUR, **own)
                await host_keys.revoke(before.key.id, **own)
                {}["of the host"]
        async with transaction.savepoint():
            await transaction.add("kept")
            kept = await host_keys.create(name="kept", **own)
        await transaction.commit()
    assert {each.id for each in (await host_keys.list(status="active")).items} == {
        key.id,
        before.key.id,
        kept.key.id,
    }
    assert await host_keys.get(key.id) == key
    assert (await host.rows())["users"] == [("kept",)]
    assert len((await host.rows())["events"]) == 3
    assert within.key.id not in str(await host.rows())
