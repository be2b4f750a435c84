"""Calls one callback with what happened, one event after the other, beside everything else.

Knows records and the event loop; nothing of how keys are managed, no store and no framework.
"""

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Final

from keylatch.callables import is_async
from keylatch.gathering import Alike, Gathering
from keylatch.records import Action, Happening

logger: Final = logging.getLogger("keylatch")

Callback = Callable[[Happening], object]

# Events that may wait for a callback. One takes some kilobytes, as text: the metadata of its key is
# in it up to three times, with 8 KiB each.
MOST_WAITING: Final = 10_000
# Seconds after which an asynchronous callback is cancelled.
DEADLINE: Final = 30.0
# Seconds that one has to clean up when it is cancelled at the end.
PARTING: Final = 0.5
# Seconds between two looks at a thread that was given up.
_PAUSE: Final = 0.05

# Whose callback runs here: it does not wait for itself.
_running: ContextVar["Listener | None"] = ContextVar("keylatch_listener", default=None)


def is_within_callback() -> bool:
    """Whether a callback is running here."""
    return _running.get() is not None


class Listener:
    """A callback, and the events that wait for it.

    Refusals have a place of their own, so that no flood of them takes that of other events; what
    happened to keys is told first.

    Args:
        callback: Is called in a thread, unless it is asynchronous.
        actions: What it is told of.

    Attributes:
        callback: Is called.
        actions: What it is told of.
        dropped: Events that it will not be told.
        failed: How often it raised, or did not end in time.
        worker: What calls it while something waits.
    """

    def __init__(self, callback: Callback, actions: frozenset[Action]) -> None:
        self.callback: Final = callback
        self.actions: Final = actions
        self.dropped: int = 0
        self.failed: int = 0
        self.worker: asyncio.Task[None] | None = None
        self._name = getattr(callback, "__qualname__", type(callback).__qualname__)
        self._is_async = is_async(callback)
        self._context = copy_context()
        self._events: deque[Callable[[], Happening]] = deque()
        self._refusals = Gathering()
        self._told = True  # no event is being told
        self._thread: threading.Thread | None = None
        self._call: asyncio.Task[BaseException | None] | None = None
        self._reported = False

    @property
    def waiting(self) -> int:
        """How many events have still to be told, that one included which is being told."""
        return len(self._events) + len(self._refusals) + (not self._told)

    @property
    def is_full(self) -> bool:
        """Whether another event has to be dropped."""
        return len(self._events) >= MOST_WAITING

    def add(self, make: Callable[[], Happening]) -> None:
        """Has the callback be told what this makes, once ``begin`` is called."""
        self._events.append(make)

    def add_refusals(self, alike: Alike) -> None:
        """Has the callback be told of refusals, with those that wait already."""
        self._refusals.add(alike)

    def begin(self) -> None:
        """Has what waits be told, in a task of this event loop, if none is at it."""
        if not (self._events or self._refusals) or self._is_at_work():
            return
        self.worker = asyncio.get_running_loop().create_task(
            self._tell_all(), name="keylatch-events", context=self._context
        )

    def _is_at_work(self) -> bool:
        worker = self.worker
        return worker is not None and not worker.done() and not worker.get_loop().is_closed()

    def is_waited_for(self) -> bool:
        """Whether somebody else than its own callback may wait for what it is told."""
        return self._is_at_work() and _running.get() is not self

    async def stop(self) -> int:
        """Leaves the rest untold, and tells how many events that are."""
        if self.worker is not None and self._is_at_work():
            self.worker.cancel()
            tasks = [self.worker] if self._call is None else [self.worker, self._call]
            # A callback that refuses to be cancelled is left to itself.
            await asyncio.wait(tasks, timeout=PARTING)
        self._call = None
        left = self.waiting  # what it has led to meanwhile, too
        self.dropped += left
        self._events.clear()
        self._refusals = Gathering()
        self.worker, self._told = None, True
        return left

    async def _tell_all(self) -> None:
        _running.set(None)  # it may have been registered by another callback
        await asyncio.sleep(0)  # not within a request, if tasks begin eagerly
        while (happening := self._next()) is not None:
            self._told = False
            error = await self._tell(happening)
            self._told = True
            if error is None:
                self._reported = False
            else:
                self.failed += 1
                self._report(happening.action, error)

    def _next(self) -> Happening | None:
        if self._events:
            return self._events.popleft()()
        alike = self._refusals.take()
        return None if alike is None else alike.happening()

    async def _tell(self, happening: Happening) -> BaseException | None:
        """Calls it, and returns what it raised."""
        if self._is_async:
            return await self._in_time(happening)
        result, error = await self._in_thread(happening)
        # Such as a lambda that calls an asynchronous function.
        return await self._in_time(result) if inspect.isawaitable(result) else error

    async def _in_time(self, what: Happening | Awaitable[object]) -> BaseException | None:
        self._call = call = asyncio.create_task(self._guarded(what), name="keylatch-event")
        try:
            done, _ = await asyncio.wait([call], timeout=DEADLINE)
            if not done:
                call.cancel()
                await asyncio.wait([call])  # the next event has to wait all the same
                return TimeoutError(f"it did not end within {DEADLINE:g} s")
            return call.result()
        finally:
            call.cancel()
            if call.done():
                self._call = None

    async def _guarded(self, what: Happening | Awaitable[object]) -> BaseException | None:
        _running.set(self)
        try:
            waited_for = self.callback(what) if isinstance(what, Happening) else what
            if inspect.isawaitable(waited_for):
                await waited_for
        except KeyboardInterrupt:
            raise  # somebody wants the process to end
        except BaseException as error:  # noqa: BLE001 - as below
            return error
        return None

    async def _in_thread(self, happening: Happening) -> tuple[object, BaseException | None]:
        """In one that nothing waits for at the end of the process."""
        while self._thread is not None and self._thread.is_alive():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_PAUSE)  # it was given up, and is still at the event before
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
        context = copy_context()
        context.run(_running.set, self)

        def tell(result: object, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result((result, error))

        def work() -> None:
            result: object = None
            failure: BaseException | None = None
            try:
                result = context.run(self.callback, happening)
            except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
                failure = error
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(tell, result, failure)

        self._thread = threading.Thread(target=work, name="keylatch-event", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # there are too many
            self._thread = None
            return None, error
        return await ended

    def _report(self, action: Action, error: BaseException) -> None:
        """Says the first time why, and then not until it has worked again."""
        if not self._reported:
            self._reported = True
            logger.error(
                "the callback %s failed with an event %r; it is told of the next ones all the same",
                self._name,
                action,
                exc_info=(type(error), error, _of_the_callback(error.__traceback__)),
            )


def _of_the_callback(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is not ours."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback
