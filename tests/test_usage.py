"""How uses are counted and written down, and that nothing else is written with them."""

import asyncio

import pytest
import sqlalchemy as sa
from subject import SILENT

from keylatch import APIKeys
from keylatch.errors import InsufficientScopeError, UnavailableError
from keylatch.memory import MemoryStore
from keylatch.records import Use
from keylatch.tables import api_keys

pytestmark = pytest.mark.anyio


async def test_uses_are_written_when_asked(keys, clock):
    """How often, and when last; to the microsecond."""
    new, other = await keys.create(name="ci"), await keys.create(name="other")
    for _ in range(3):
        clock.advance(seconds=1, microseconds=1)
        await keys.verify(new.token)
    await keys.verify(other.token)
    used_at = clock.now
    await keys.flush()
    clock.advance(seconds=1)
    key = await keys.get(new.key.id)
    assert (key.use_count, key.last_used_at) == (3, used_at)
    await keys.verify(new.token)
    await keys.flush()
    await keys.flush()
    key = await keys.get(new.key.id)
    assert (key.use_count, key.last_used_at) == (4, clock.now)
    assert (await keys.get(other.key.id)).use_count == 1


async def test_a_refused_request_is_no_use(keys):
    """The scope is looked at before anything is counted."""
    new = await keys.create(name="ci")
    for _ in range(3):
        with pytest.raises(InsufficientScopeError):
            await keys.verify(new.token, scopes=["admin"])
    await keys.flush()
    key = await keys.get(new.key.id)
    assert (key.use_count, key.last_used_at) == (0, None)


async def test_the_later_moment_stays(keys, clock):
    """Workers write in any order, and a clock may be behind."""
    new = await keys.create(name="ci")
    now, before = clock.now, clock.now.replace(year=2025)
    assert await keys._store.record_usage([Use(new.key.id, 2, now)]) == []
    assert await keys._store.record_usage([Use(new.key.id, 3, before)]) == []
    key = await keys.get(new.key.id)
    assert (key.use_count, key.last_used_at) == (5, now)


async def test_many_keys_are_written_together(keys, clock):
    """Those that were purged meanwhile are left out."""
    made = [(await keys.create(name=str(n))).key.id for n in range(20)]
    uses = [Use(key_id, 7, clock.now) for key_id in [*made, "0" * 16]]
    assert await keys._store.record_usage(uses) == []
    assert [key.use_count for key in (await keys.list()).items] == [7] * 20
    assert await keys._store.record_usage([]) == []


async def test_nothing_else_of_a_key_is_written(host, host_keys):
    """A full row would bring back what others have changed, such as a revocation."""
    new = await host_keys.create(name="ci", scopes=["a"])
    await host_keys.verify(new.token)
    columns = [column for column in api_keys.c if column.name not in ("use_count", "last_used_at")]

    async def rest():
        async with host.transaction("connection") as transaction:
            return [tuple(row) for row in await transaction.execute(sa.select(*columns))]

    await host_keys.update(new.key.id, scopes=["b"])
    await host_keys.revoke(new.key.id)
    before = await rest()
    await host_keys.flush()
    assert await rest() == before
    assert (await host_keys.get(new.key.id)).use_count == 1
    assert len(await host_keys.events(new.key.id)) == 3


@pytest.mark.parametrize(
    "engine_name", ["postgres-async", "postgres-sync", "mariadb-async", "mariadb-sync"]
)
async def test_a_key_that_is_being_changed_waits_and_the_others_do_not(host, host_keys):
    """Somebody's long transaction holds up neither the batch nor those who manage other keys."""
    held, free = await host_keys.create(name="held"), await host_keys.create(name="free")
    for new in (held, free):
        await host_keys.verify(new.token)
    async with host.transaction() as transaction:
        await host_keys.revoke(held.key.id, connection=transaction.connection)
        async with asyncio.timeout(2):
            await host_keys.flush()
        assert (await host_keys.get(free.key.id)).use_count == 1
        assert (await host_keys.get(held.key.id)).use_count == 0
        assert host_keys.health().unwritten_usage == 1
        await transaction.commit()
    await host_keys.flush()
    key = await host_keys.get(held.key.id)
    assert (key.use_count, bool(key.revoked_at)) == (1, True)


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-sync"])
async def test_the_end_waits_for_a_key_that_is_being_changed(host, host_keys, secret):
    """Workers that end together write to the same rows, and lose no use."""
    new = await host_keys.create(name="held")
    other = APIKeys(host.engine, prefix="acme_live", secret=secret, **SILENT)
    await other.__aenter__()
    await other.verify(new.token)
    async with host.transaction() as transaction:
        await host_keys.update(new.key.id, name="renamed", connection=transaction.connection)
        ending = asyncio.create_task(other.__aexit__(None, None, None))
        await asyncio.sleep(0.3)
        assert not ending.done()
        await transaction.commit()
    await ending
    assert (await host_keys.get(new.key.id)).use_count == 1


class Failing(MemoryStore):
    """A store that fails to write uses when it is told to, or takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.pause: asyncio.Event | None = None

    async def record_usage(self, uses):
        """Fails, or not."""
        if self.down:
            raise UnavailableError("the database failed: check it")
        if self.pause is not None:
            await self.pause.wait()
        return await super().record_usage(uses)


async def test_a_flush_that_fails_loses_nothing(secret):
    """The uses are kept, and written with the next one."""
    store = Failing()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        store.down = True
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await keys.flush()
        await keys.verify(new.token)
        store.down = False
        await keys.flush()
        assert (await keys.get(new.key.id)).use_count == 2


async def test_a_flush_that_is_cancelled_counts_once(secret):
    """It comes to its end first, so that it is certain what was written."""
    store = Failing()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        store.pause = asyncio.Event()
        flush = asyncio.create_task(keys.flush())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        flush.cancel()
        await asyncio.sleep(0)
        store.pause.set()
        with pytest.raises(asyncio.CancelledError):
            await flush
        await keys.flush()
        assert (await keys.get(new.key.id)).use_count == 1


async def test_a_flush_ends_while_requests_go_on(secret):
    """What is counted meanwhile waits for the next one: the database is not written to all day."""
    store = Failing()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)

        async def requests():
            while True:
                await keys.verify(new.token)
                await asyncio.sleep(0)

        busy = asyncio.create_task(requests())
        store.pause = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, store.pause.set)
        try:
            async with asyncio.timeout(5):
                await keys.flush()
        finally:
            busy.cancel()
        assert keys.health().unwritten_usage == 1


async def test_uses_are_written_by_themselves_and_at_the_end(store, secret):
    """Every few seconds, and when the collection ends."""
    async with APIKeys(store, prefix="acme", secret=secret, usage_interval=0.05) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        async with asyncio.timeout(5):
            while (await keys.get(new.key.id)).use_count < 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await keys.verify(new.token)
    assert (await keys.get(new.key.id)).use_count == 2
    await store.close()


async def test_the_end_does_not_wait_for_a_database_that_is_gone(secret):
    """What could not be written is lost with the process, and the application ends all the same."""
    store = Failing()
    async with APIKeys(store, prefix="acme", secret=secret, **SILENT) as keys:
        new = await keys.create(name="ci")
        await keys.verify(new.token)
        store.down = True
    assert keys.health().unwritten_usage == 1
