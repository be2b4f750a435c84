"""What a host may pass as ``connection=``, and what is refused before anything is written."""

from datetime import timedelta

import pytest
import stores
from canaries import Canaries, WatchedHasher
from hosts import KINDS, Host, User, settled
from sqlalchemy.exc import SQLAlchemyError

from keylatch import APIKeys
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}


def every_call(keys, key_id, connection):
    """Each call that takes a connection, not begun yet."""
    own = {"connection": connection}
    yield lambda: keys.create(name="new", **own)
    yield lambda: keys.get(key_id, **own)
    yield lambda: keys.list(**own)
    yield lambda: keys.update(key_id, name="renamed", **own)
    yield lambda: keys.rotate(key_id, grace=timedelta(0), **own)
    yield lambda: keys.revoke(key_id, **own)
    yield lambda: keys.revoke_all(owner="u1", **own)
    yield lambda: keys.events(key_id, **own)
    yield lambda: keys.purge(dead_for=timedelta(hours=1), **own)


async def refused(keys, connection, *, match="AUTOCOMMIT"):
    """Sees every call refused, and nothing changed."""
    key = (await keys.create(name="ci", owner="u1")).key
    for call in every_call(keys, key.id, connection):
        with pytest.raises(ConfigurationError, match=match):
            await call()
    assert [each.id for each in (await keys.list()).items] == [key.id]
    assert await keys.get(key.id) == key
    assert len(await keys.events(key.id)) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_an_engine_in_autocommit_is_refused(engine_name, kind, secret):
    """It has no transaction that a call could belong to."""
    with stores.key_database(engine_name) as url:
        async with (
            Host.at(url, **AUTOCOMMIT) as host,
            APIKeys(url, prefix="acme", secret=secret) as keys,
            host.transaction(kind) as transaction,
        ):
            await refused(keys, transaction.connection)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_in_autocommit_is_refused(host, host_keys, kind):
    """Where its engine is not, either."""
    async with host.transaction(kind) as transaction:
        connection = transaction.connection
        if kind == "connection":
            await settled(connection.execution_options(**AUTOCOMMIT))
        else:
            await settled(connection.connection(execution_options=AUTOCOMMIT))
        await refused(host_keys, connection)


async def test_the_store_in_memory_refuses_connections(secret):
    """It has no transactions, and says what to do."""
    async with APIKeys(MemoryStore(), prefix="acme", secret=secret) as keys:
        await refused(keys, object(), match="leave connection= out")


async def test_what_is_no_connection_is_named(host, host_keys):
    """By its type, not by its value, which may hold anything."""
    key = (await host_keys.create(name="ci")).key
    before = await host.rows()
    for other in (host.engine, host.session, User, "postgresql://u:hunter2@db/app", 7, True, ()):
        for call in every_call(host_keys, key.id, other):
            with pytest.raises(TypeError, match=f"not {type(other).__name__}$"):
                await call()
    assert await host.rows() == before


async def failure(keys, connection):
    """The error of a call, whose traceback begins here, where nobody holds a secret."""
    with pytest.raises(SQLAlchemyError) as failed:
        await keys.create(name="ci", connection=connection)
    return failed.value


async def test_what_is_closed_says_so(host, host_keys, secret):
    """A closed session or connection is an error that shows neither token nor server secret."""
    canaries, minted = Canaries(secret), []
    host_keys._hasher = WatchedHasher(host_keys._hasher, minted)
    session = host.session(close_resets_only=False)
    await settled(session.close())
    connection = await settled(host.engine.connect())
    await settled(connection.close())
    unusable = {"is closed": connection, "permanently closed": session}
    unusable["session.begin()"] = host.session(autobegin=False)
    if host.asynchronous:
        unusable["not been started"] = host.engine.connect()
    for text, each in unusable.items():
        error = await failure(host_keys, each)
        assert text in str(error)
        canaries.add(minted.pop().reveal())
        canaries.assert_absent_from_frames(error)
    assert (await host.rows())["keys"] == []


async def test_a_connection_that_the_driver_closed_is_unavailable(host, host_keys):
    """As a database that went away."""
    async with host.transaction("connection") as transaction:
        await transaction.rows()
        core = getattr(transaction.connection, "sync_connection", transaction.connection)
        await settled(core.connection.driver_connection.close())
        with pytest.raises(UnavailableError, match="the database failed"):
            await host_keys.create(name="ci", connection=transaction.connection)
        core.invalidate()
    assert (await host_keys.list()).items == []


async def test_a_session_that_was_closed_begins_anew(host, host_keys):
    """SQLAlchemy's sessions may be used again, and so may these."""
    session = host.session()
    await settled(session.close())
    new = await host_keys.create(name="ci", connection=session)
    await settled(session.commit())
    await settled(session.close())
    assert await host_keys.verify(new.token) == new.key
