"""Goes through events for as long as a check passes. Knows asyncio; no key, and no framework."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from contextlib import contextmanager
from typing import Never, TypeVar

T = TypeVar("T")


async def while_passes(
    check: Callable[[], Awaitable[object]],
    events: AsyncIterable[T],
    *,
    every: float,
    ending: tuple[type[Exception], ...] = (),
) -> AsyncIterator[T]:
    """The events, until the check raises.

    It is made before each event is handed on, and beside the wait for the next one. Once it raises,
    the source is cancelled where it waits, as by ``asyncio.timeout``. The source runs in the task
    of whoever goes through the events, and only when asked; one that is a generator is closed.

    Args:
        check: Raises when it is over.
        events: Where they come from.
        every: Seconds between two checks while no event comes.
        ending: The errors that end the events, and are not raised.

    Raises:
        Exception: What the check raises, or the source.
    """
    source = aiter(events)
    watch = asyncio.create_task(_watch(check, every), name="keylatch-watch")
    watch.add_done_callback(_look)
    try:
        await check()
        while True:
            try:
                async with asyncio.timeout(None) as wait:
                    with _ended_by(watch, wait):
                        event = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not wait.expired():
                    raise  # the source's own
                await watch  # says why
            await check()
            yield event
    except ending:
        return
    finally:
        watch.cancel()
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _watch(check: Callable[[], Awaitable[object]], every: float) -> Never:
    while True:
        await asyncio.sleep(every)
        await check()


@contextmanager
def _ended_by(watch: asyncio.Task[Never], wait: asyncio.Timeout) -> Iterator[None]:
    """Has a wait expire when the watch has ended, even if that was long ago."""
    waits = True

    def end(_: object) -> None:
        if waits:
            wait.reschedule(0)

    watch.add_done_callback(end)
    try:
        yield
    finally:
        waits = False
        watch.remove_done_callback(end)


def _look(watch: asyncio.Task[Never]) -> None:
    """Has nobody complain of an error that came too late to matter."""
    if not watch.cancelled():
        watch.exception()
