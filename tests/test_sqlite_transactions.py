"""Keys in a host's transactions on SQLite, however these are begun."""

import asyncio
import sys
from contextlib import suppress

import pytest
import sqlalchemy as sa
import stores
from hosts import KINDS, Host

from keylatch import APIKeys
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

needs_autocommit = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="sqlite3 has no autocommit= before Python 3.12"
)


def with_its_own_begin(host):
    """Has the host begin its transactions by itself, as SQLAlchemy's documentation shows it."""

    @sa.event.listens_for(host.core, "connect")
    def do_connect(connection, record):
        connection.isolation_level = None

    @sa.event.listens_for(host.core, "begin")
    def do_begin(connection):
        connection.exec_driver_sql("BEGIN")

    return host


@pytest.fixture(params=["sqlite-async", "sqlite-sync"])
def engine_name(request):
    """SQLite, through either kind of engine."""
    return request.param


@pytest.fixture(
    params=[
        "the driver's BEGIN",
        "the host's own BEGIN",
        pytest.param("autocommit=False", marks=needs_autocommit),
    ]
)
async def host(request, engine_name):
    """An application whose transactions begin in one of the ways that there are."""
    with stores.key_database(engine_name) as url:
        host = Host.at(url)
        if request.param == "the host's own BEGIN":
            with_its_own_begin(host)
        if request.param == "autocommit=False":
            host = Host.at(url, connect_args={"autocommit": False})
        async with host:
            yield host


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["nothing", "a read", "a row"])
async def test_a_transaction_is_the_hosts_however_it_begins(host, host_keys, kind, first):
    """Whatever the host did before, the key is kept or lost with its rows."""
    before = await host.rows()
    for commits in (False, True):
        async with host.transaction(kind) as transaction:
            if first == "a read":
                await transaction.rows()
            if first == "a row":
                await transaction.add("before")
            new = await host_keys.create(name="ci", connection=transaction.connection)
            await host_keys.revoke(new.key.id, connection=transaction.connection)
            await transaction.add("after")
            assert await host.rows() == before
            inside = await transaction.rows()
            await (transaction.commit if commits else transaction.rollback)()
        assert await host.rows() == (inside if commits else before)
    assert (await host_keys.get(new.key.id)).revoked_at


@pytest.mark.parametrize("kind", KINDS)
async def test_a_savepoint_that_is_rolled_back_takes_its_keys_along(host, host_keys, kind):
    """What was done before and after it stays with the transaction around it."""
    empty = await host.rows()
    for commits in (False, True):
        async with host.transaction(kind) as transaction:
            own = {"connection": transaction.connection}
            before = await host_keys.create(name="before", **own)
            with suppress(KeyError):
                async with transaction.savepoint():
                    await host_keys.create(name="within", **own)
                    await host_keys.revoke(before.key.id, **own)
                    {}["of the host"]
            async with transaction.savepoint():
                await transaction.add("kept")
                kept = await host_keys.create(name="kept", **own)
            await (transaction.commit if commits else transaction.rollback)()
        if not commits:
            assert await host.rows() == empty
    assert {each.id for each in (await host_keys.list(status="active")).items} == {
        before.key.id,
        kept.key.id,
    }
    assert len((await host.rows())["events"]) == 2


async def test_a_call_that_the_hosts_lock_keeps_out_fails_by_its_deadline(host, secret):
    """One without ``connection=``, while the host's own transaction is open, waits in vain."""
    url = host.core.url.render_as_string()
    async with APIKeys(SQLAlchemyStore(url, deadline=0.5), prefix="acme", secret=secret) as keys:
        async with host.transaction() as transaction:
            await transaction.add("ada")
            async with asyncio.timeout(2):
                with pytest.raises(UnavailableError):
                    await keys.create(name="ci")
            await transaction.commit()
        assert (await host.rows())["users"] == [("ada",)]
        assert await keys.create(name="ci")


@needs_autocommit
@pytest.mark.parametrize("kind", KINDS)
async def test_the_drivers_autocommit_is_refused(engine_name, kind, secret):
    """A host that has sqlite3 commit each statement has no transaction to join."""
    with stores.key_database(engine_name) as url:
        async with APIKeys(url, prefix="acme", secret=secret) as keys:
            async with Host.at(url, connect_args={"autocommit": True}) as host:
                async with host.transaction(kind) as transaction:
                    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                        await keys.create(name="ci", connection=transaction.connection)
                with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                    await APIKeys(host.engine, prefix="acme", secret=secret).create(name="ci")
            assert (await keys.list()).items == []
