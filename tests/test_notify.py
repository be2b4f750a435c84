"""PostgreSQL tells of changes the moment they commit; here no poll does."""

import asyncio

import pytest
import sqlalchemy as sa
from databases import kill_connections
from hosts import Host
from proxy import Proxy
from subject import SILENT, as_elsewhere, core

from keylatch import APIKeys
from keylatch.errors import ConfigurationError, RevokedKeyError
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

ENGINES = pytest.mark.parametrize("engine_name", ["postgres-async", "postgres-sync"])


def with_psycopg(url: str) -> str:
    """The same database through the other driver that is asynchronous."""
    url = sa.make_url(url).set(drivername="postgresql+psycopg_async")
    return url.render_as_string(hide_password=False)


@pytest.fixture(params=["engine", "psycopg"])
async def other(request, host, secret, clock):
    """Another worker, which listens."""
    database = host.engine
    if request.param == "psycopg":
        if not host.asynchronous:
            pytest.skip("there is a synchronous engine for it")
        database = with_psycopg(host.engine.url.render_as_string(hide_password=False))
    options = {"secret": secret, "clock": clock} | SILENT
    async with APIKeys(database, prefix="acme_live", feed="notify", **options) as other:
        await listening(host)
        yield as_elsewhere(other)


async def listening(host) -> None:
    """Waits until somebody listens."""
    query = sa.text(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND query IN ('LISTEN keylatch', 'LISTEN \"keylatch\"', 'SELECT 1', 'SELECT 1;') "
        "AND pid <> pg_backend_pid() AND state = 'idle'"
    )
    async with asyncio.timeout(10):
        while not await host.run(lambda c: c.scalar(query)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def refused(keys, token: str) -> None:
    """Waits until a worker refuses a key."""
    async with asyncio.timeout(5):
        while True:
            try:
                await keys.verify(token)
            except RevokedKeyError:
                return
            await asyncio.sleep(0.001)


@ENGINES
async def test_a_change_is_heard_of_at_once(host_keys, other):
    """Whoever makes it: the worker that hears does not look for it."""
    new = await host_keys.create(name="ci", scopes=["a"])
    assert await other.verify(new.token)
    await host_keys.revoke(new.key.id)
    await refused(other, new.token)


@ENGINES
async def test_many_changes_are_heard_of(host_keys, other):
    """Those of one call, too."""
    made = [await host_keys.create(name="ci", owner="ada") for _ in range(20)]
    for new in made:
        assert await other.verify(new.token)
    await host_keys.revoke_all(owner="ada")
    for new in made:
        await refused(other, new.token)


@ENGINES
async def test_a_change_is_heard_of_with_its_commit(host, host_keys, other):
    """Not before, and not at all if it is rolled back."""
    new = await host_keys.create(name="ci")
    assert await other.verify(new.token)
    for commits in (False, True):
        async with host.transaction() as transaction:
            await host_keys.revoke(new.key.id, connection=transaction.connection)
            await asyncio.sleep(0.05)
            assert await other.verify(new.token)
            await (transaction.commit() if commits else transaction.rollback())
    await refused(other, new.token)


@ENGINES
async def test_a_listener_comes_back(host, host_keys, other, caplog):
    """When its connection is lost it makes another one, and looks for what it missed."""
    new, later = await host_keys.create(name="ci"), await host_keys.create(name="later")
    assert await other.verify(new.token)
    assert await other.verify(later.token)
    kill_connections(host.engine.url.render_as_string(hide_password=False))
    await host_keys.revoke(new.key.id)
    await refused(other, new.token)
    await listening(host)
    assert await other.verify(later.token)
    await host_keys.revoke(later.key.id)
    await refused(other, later.token)
    assert "Exception during reset" not in caplog.text


@ENGINES
async def test_a_listener_notices_that_nobody_answers(host, secret):
    """Its connection may go dead without a word: it makes another one."""
    url = host.engine.url.render_as_string(hide_password=False)
    with Proxy(url) as proxy:
        store = SQLAlchemyStore(proxy.url(url), deadline=0.5)
        async with APIKeys(
            store, prefix="acme_live", secret=secret, feed="notify", **SILENT
        ) as other:
            await listening(host)
            new = await other.create(name="ci")
            assert await other.verify(new.token)
            proxy.swallow()
            await asyncio.sleep(0.7)
            proxy.forward()
            await APIKeys(host.engine, prefix="acme_live", secret=secret).revoke(new.key.id)
            await refused(other, new.token)


@ENGINES
@pytest.mark.parametrize("silent_for", [0, 2.5], ids=["while it listens", "while it connects"])
async def test_a_silent_server_does_not_hold_up_the_end(host, secret, silent_for):
    """A thread that waits for it is called back, or left behind."""
    url = host.engine.url.render_as_string(hide_password=False)
    with Proxy(url) as proxy:
        async with Host.at(proxy.url(url)) as through:
            store = SQLAlchemyStore(through.engine, deadline=0.5)
            keys = APIKeys(store, prefix="acme", secret=secret, feed="notify", **SILENT)
            await keys.__aenter__()
            await listening(host)
            proxy.swallow()
            await asyncio.sleep(silent_for)
            async with asyncio.timeout(5):
                await keys.__aexit__(None, None, None)
            proxy.cut()
            proxy.forward()


@ENGINES
async def test_anybody_may_write_on_the_channel(host, host_keys, other):
    """What is no key id does no harm."""
    new = await host_keys.create(name="ci")
    assert await other.verify(new.token)
    for payload in ("", "x", "acme_live_0123456789abcdef_", "\u00e4" * 16, "0" * 16):
        await host.run(
            lambda connection, payload=payload: connection.execute(
                sa.text("SELECT pg_notify('keylatch', :payload)"), {"payload": payload}
            )
        )
    await host_keys.revoke(new.key.id)
    await refused(other, new.token)


@ENGINES
@pytest.mark.parametrize("engine_options", [{"pool_size": 1, "max_overflow": 0}], ids=["of one"])
async def test_the_pool_keeps_its_room(host, host_keys, secret):
    """The connection that listens is none of the pool's, and is closed at the end."""
    async with APIKeys(
        host.engine, prefix="acme_live", secret=secret, feed="notify", **SILENT
    ) as other:
        await listening(host)
        new = await other.create(name="ci")
        assert await other.verify(new.token)
    assert core(host.engine).pool.checkedout() == 0


def test_elsewhere_it_is_refused(tmp_path, secret):
    """The text says what to do."""
    for database in (MemoryStore(), f"sqlite+aiosqlite:///{tmp_path}/keys.db"):
        with pytest.raises(ConfigurationError, match="needs PostgreSQL"):
            APIKeys(database, prefix="acme", secret=secret, feed="notify")
    with pytest.raises(ConfigurationError, match='"poll" or "notify"'):
        APIKeys(MemoryStore(), prefix="acme", secret=secret, feed="redis")
