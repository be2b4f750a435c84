"""A call that is cancelled, at any of its statements, in a host's transaction or its own."""

import asyncio
import threading
from datetime import timedelta

import anyio
import pytest
import sqlalchemy as sa
from integrity import violations

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@pytest.fixture
async def key(host_keys):
    """A key that was there before."""
    return (await host_keys.create(name="ci", owner="u1")).key


class Interruption:
    """Cancels a task while one of its statements runs, and counts those that it has.

    In a thread the statement waits until the cancellation has been delivered.
    """

    def __init__(self, host, number):
        self.host = host
        self.number = number
        self.begun = 0
        self.done = 0
        self.task = None

    async def run(self, call):
        """Awaits a call; tells whether it was cancelled before it returned."""
        loop = asyncio.get_running_loop()

        def before(*arguments):
            self.begun += 1
            if self.begun != self.number:
                return
            delivered = threading.Event()
            loop.call_soon_threadsafe(self.task.cancel)
            if not self.host.asynchronous:
                loop.call_soon_threadsafe(loop.call_soon, delivered.set)
                assert delivered.wait(5)

        def after(*arguments):
            self.done += 1

        sa.event.listen(self.host.core, "before_cursor_execute", before)
        sa.event.listen(self.host.core, "after_cursor_execute", after)
        self.task = asyncio.ensure_future(call)
        try:
            await self.task
        except asyncio.CancelledError:
            return True
        else:
            return False
        finally:
            sa.event.remove(self.host.core, "before_cursor_execute", before)
            sa.event.remove(self.host.core, "after_cursor_execute", after)


def changes(keys, key_id, **own):
    """Calls with several statements each, not begun yet."""
    yield lambda: keys.create(name="new", **own)
    yield lambda: keys.rotate(key_id, grace=HOUR, **own)
    yield lambda: keys.revoke_all(owner="u1", **own)


@pytest.mark.parametrize("kind", ["session", "connection"])
@pytest.mark.parametrize("call", range(3), ids=["create", "rotate", "revoke_all"])
async def test_a_host_rolls_back_after_a_cancellation(host, host_keys, key, kind, call):
    """Whichever statement was running, nothing was written, and nothing is locked or lost."""
    before = await host.rows()
    number, cancelled = 0, True
    while cancelled:
        number += 1
        async with host.transaction(kind) as transaction:
            await transaction.add("ada")
            call_it = list(changes(host_keys, key.id, connection=transaction.connection))[call]
            interruption = Interruption(host, number)
            cancelled = await interruption.run(call_it())
            if not host.asynchronous:
                assert interruption.begun == interruption.done, "a thread is still at it"
            await transaction.rollback()
        assert host.core.pool.checkedout() == 0
        assert await host.rows() == before, f"after statement {number}"
        await host_keys.update(key.id, metadata={"n": number})
        before = await host.rows()
    assert number > 2, "no statement was interrupted"


@pytest.mark.parametrize("call", range(2), ids=["create", "rotate"])
async def test_a_cancelled_call_is_done_or_not_begun(host, host_keys, key, clock, call):
    """In a transaction of its own: key and event are there, or neither, and nobody else waits."""
    number, cancelled = 0, True
    while cancelled:
        number += 1
        clock.advance(seconds=1)
        before = await host.rows()
        interruption = Interruption(host, number)
        cancelled = await interruption.run(list(changes(host_keys, key.id))[call]())
        async with asyncio.timeout(5):  # a thread goes on for itself
            while host.core.pool.checkedout():  # noqa: ASYNC110 - a pool tells nobody
                await asyncio.sleep(0.001)
        if await host.rows() != before:
            assert not cancelled or host.asynchronous, "given up, and committed all the same"
        assert await host.run(violations) == []
    assert number > 2, "no statement was interrupted"


async def test_a_cancelled_read_locks_nothing(host, host_keys, key):
    """On SQLite a cursor that is left alone would keep every writer waiting."""
    other = (await host_keys.create(name="other")).key.id
    for number in range(5):
        assert await Interruption(host, 1).run(host_keys.get(other))
        async with asyncio.timeout(5):
            await host_keys.update(key.id, metadata={"n": number})


synchronous = pytest.mark.parametrize("engine_name", ["sqlite-sync", "postgres-sync"])


class Held:
    """Holds each statement of a synchronous engine until it is released; counts those that ran."""

    def __init__(self, host):
        self.reached = asyncio.Event()
        self.release = threading.Event()
        self.begun = self.done = 0
        loop = asyncio.get_running_loop()

        @sa.event.listens_for(host.core, "before_cursor_execute")
        def before(*arguments):
            self.begun += 1
            loop.call_soon_threadsafe(self.reached.set)
            assert self.release.wait(5)

        @sa.event.listens_for(host.core, "after_cursor_execute")
        def after(*arguments):
            self.done += 1


@synchronous
@pytest.mark.parametrize("way", ["twice", "by anyio", "as asyncio.run ends"])
async def test_a_thread_in_the_hosts_transaction_is_waited_for(host, host_keys, key, way):
    """However often the task is cancelled: two threads must not use one session."""
    before = await host.rows()
    async with host.transaction() as transaction:
        held = Held(host)
        call = host_keys.rotate(key.id, grace=HOUR, connection=transaction.connection)
        asyncio.get_running_loop().call_later(0.1, held.release.set)
        if way == "by anyio":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: call)
                await held.reached.wait()
                tasks.cancel_scope.cancel()
        else:
            others = asyncio.all_tasks()
            task = asyncio.ensure_future(call)
            await held.reached.wait()
            if way == "twice":
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
            else:
                for each in asyncio.all_tasks() - others:
                    each.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert held.release.is_set()
        assert held.begun == held.done > 1
        await transaction.rollback()
    assert await host.rows() == before
