"""Events that go on for as long as a check passes: how the wait for them ends, and for whom."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest
from connections import PATIENCE
from starlette.requests import HTTPConnection

from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth
from keylatch.lasting import while_passes
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


class OverError(Exception):
    """It is over."""


class Check:
    """Passes until it is told not to."""

    def __init__(self) -> None:
        self.passes = True
        self.made = 0

    async def __call__(self) -> None:
        """Raises when it is over."""
        self.made += 1
        if not self.passes:
            raise OverError


class Source:
    """Numbers, then a wait without an end; and what became of it."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.ended_by: type[BaseException] | None = None
        self.tasks: set[object] = set()

    async def __call__(self) -> AsyncIterator[int]:
        """The numbers."""
        try:
            for number in range(self.count):
                self.tasks.add(asyncio.current_task())
                yield number
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended_by = type(error)
            raise


@pytest.fixture
def store() -> MemoryStore:
    """A store of any kind."""
    return MemoryStore()


async def watches() -> int:
    """How many tasks look on, once those that were cancelled had their turn."""
    await asyncio.sleep(0.01)
    return sum(task.get_name() == "keylatch-watch" for task in asyncio.all_tasks())


async def test_the_wait_ends_with_the_check():
    """The source is cancelled where it waits, and the check's own error comes out."""
    check, source = Check(), Source(2)
    events = while_passes(check, source(), every=0.01)
    assert [await anext(events), await anext(events)] == [0, 1]
    check.passes = False
    with pytest.raises(OverError):
        await anext(events)
    check.passes, source = True, Source()
    events = while_passes(check, source(), every=0.01)
    waiting = asyncio.ensure_future(anext(events))
    while check.made < 8:  # noqa: ASYNC110 - it goes on for as long as it passes
        await asyncio.sleep(0.01)
    assert not waiting.done()
    check.passes = False
    with pytest.raises(OverError):
        await waiting
    assert (source.ended_by, await watches()) == (asyncio.CancelledError, 0)


async def test_an_error_that_ends_the_events_is_not_raised():
    """Where nothing else can be said, they stop."""
    check, source = Check(), Source(1)
    check.passes = False
    events = while_passes(check, source(), every=0.01, ending=(OverError,))
    assert [number async for number in events] == []
    assert await watches() == 0


async def test_the_source_runs_with_whoever_asks():
    """In its task, so that its timeouts and context variables are as without the check."""
    source = Source(3)
    events = while_passes(Check(), source(), every=0.01)
    assert [await anext(events) for _ in range(3)] == [0, 1, 2]
    await events.aclose()
    assert source.tasks == {asyncio.current_task()}
    assert (source.ended_by, await watches()) == (GeneratorExit, 0)


async def test_what_the_source_raises_is_its_own():
    """A TimeoutError of its own among it, and its end."""
    check = Check()

    async def failing(error: Exception) -> AsyncIterator[int]:
        yield 1
        raise error

    for error in (TimeoutError("its own"), RuntimeError("a bug")):
        events = while_passes(check, failing(error), every=0.01)
        assert await anext(events) == 1
        with pytest.raises(type(error), match=str(error)):
            await anext(events)
    assert await watches() == 0


async def test_who_waits_may_be_cancelled():
    """By a timeout around it, or otherwise: that is no word about the check."""
    source = Source()
    events = while_passes(Check(), source(), every=0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await anext(events)
    assert (source.ended_by, await watches()) == (asyncio.CancelledError, 0)
    source = Source()
    waiting = asyncio.ensure_future(anext(while_passes(Check(), source(), every=0.01)))
    await asyncio.sleep(0.03)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (source.ended_by, await watches()) == (asyncio.CancelledError, 0)


async def test_a_source_that_swallows_its_cancellation_gets_nothing_through():
    """What it brings after that is not handed on."""
    check = Check()

    async def stubborn() -> AsyncIterator[str]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield "secret"

    waiting = asyncio.ensure_future(anext(while_passes(check, stubborn(), every=0.01)))
    await asyncio.sleep(0.03)
    check.passes = False
    with pytest.raises(OverError):
        await waiting


async def test_it_may_end_while_the_events_are_worked_on():
    """A check that fails then ends the events with the next one, and nobody complains of it."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    check = Check()
    events = while_passes(check, Source(2)(), every=0.01)
    assert await anext(events) == 0
    check.passes = False
    await asyncio.sleep(0.05)
    with pytest.raises(OverError):
        await anext(events)
    check.passes = True
    events = while_passes(check, Source(2)(), every=0.01)
    assert await anext(events) == 0
    check.passes = False
    await asyncio.sleep(0.05)
    await events.aclose()
    gc.collect()
    assert complaints == []


async def test_events_that_are_left_leave_nothing_behind():
    """A loop that is broken out of forgets its source, which is closed, and the watch with it."""
    source = Source(3)
    async for _ in while_passes(Check(), source(), every=0.01):
        break
    gc.collect()
    async with asyncio.timeout(PATIENCE):
        while await watches() or source.ended_by is None:
            continue


async def test_what_is_no_generator_stays_open():
    """A source that belongs to others, such as a queue of theirs, is not closed for them."""

    class Queue:
        closed = False

        def __aiter__(self) -> "Queue":
            return self

        async def __anext__(self) -> int:
            return 1

        async def aclose(self) -> None:
            self.closed = True

    queue = Queue()
    events = while_passes(Check(), queue, every=0.01)
    assert await anext(events) == 1
    await events.aclose()
    assert not queue.closed


@pytest.mark.parametrize("every", [0, -1, 0.009, 61, float("inf"), float("nan")])
async def test_a_key_is_looked_at_neither_never_nor_always(keys, every):
    """What would switch it off, or make a busy loop of it, is an error."""
    with pytest.raises(ConfigurationError, match="every"):
        APIKeyAuth(keys).while_valid(HTTPConnection({"type": "http"}), Source()(), every=every)
