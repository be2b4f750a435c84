"""Runs what blocks in threads, and calls those back that wait for a server which says nothing.

Knows connections as far as their lines can be cut, and no statement.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from keylatch.drivers import Line

T = TypeVar("T")

# Twice as many as a pool of SQLAlchemy holds connections.
_THREADS: Final = 32
# Seconds that a thread has to come back by itself, as the driver's own limits would have it.
_PATIENCE: Final = 0.5
# Steps whose commit may take another deadline.
_STEPS: Final = 500


class GivenUpError(Exception):
    """Nobody waits for this work any more: what it wrote is to be rolled back."""


@dataclass(eq=False)
class Attempt:
    """How far a unit of work has come, and when, and whether anybody still waits for it."""

    committing: bool = False
    given_up: bool = False
    line: Line | None = None
    came_on_at: float = field(default_factory=time.monotonic)
    steps: int = 0

    def go_on(self) -> None:
        """Raises GivenUpError if there is nobody to answer to."""
        if self.given_up:
            raise GivenUpError

    def come_on(self) -> None:
        """Notes that a step is done, so that the next one has a deadline of its own."""
        self.go_on()
        self.came_on_at = time.monotonic()
        self.steps += 1

    def left(self, deadline: float) -> float:
        """How many seconds this step still has. A commit may have to write what all steps left."""
        if self.committing:
            deadline *= 1 + self.steps / _STEPS
        return self.came_on_at + deadline - time.monotonic()

    def on(self, connection: sa.Connection, unit: Callable[[sa.Connection], T]) -> T:
        """Does the work in a way that ``cut`` can end."""
        with Line(connection) as self.line:
            self.go_on()  # the deadline may have passed while a thread was waited for
            return unit(connection)

    def cut(self) -> None:
        """Has a thread that still waits for the server come back."""
        self.given_up = True
        if self.line is not None:
            self.line.cut()


class Threads:
    """Threads of our own, so that a server which says nothing holds up none of the host's."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    async def give(self, work: Callable[[], T], attempt: Attempt) -> T:
        """Has work done that is given up when the caller is cancelled.

        Returns, or is cancelled, once the thread is back.
        """
        future = self._submit(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _come_back(future, attempt)
            raise
        finally:
            del future  # it has the error, whose frames would have it

    async def lend(self, work: Callable[[Attempt], T], *, deadline: float) -> T:
        """Has work done on what is the host's: it is waited for even if the caller is cancelled.

        That must not be used by two threads at once, and the host goes on to roll it back. A
        server that does not answer by the deadline loses the connection.

        Raises:
            TimeoutError: It did not.
        """
        attempt = Attempt()
        future = self._submit(work, attempt)
        loop = asyncio.get_running_loop()
        late: asyncio.TimerHandle

        def look() -> None:
            nonlocal late
            if (left := attempt.left(deadline)) > 0:
                late = loop.call_later(left, look)
            else:
                attempt.cut()

        late = loop.call_later(deadline, look)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            attempt.given_up = True  # after the step that it is at
            while not future.done():
                with suppress(asyncio.CancelledError):  # anyio cancels until it is obeyed
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # asyncio would log it, with the statement and its values
            raise
        except GivenUpError:
            raise TimeoutError from None
        except DBAPIError:
            if attempt.given_up:
                raise TimeoutError from None
            raise
        finally:
            late.cancel()
            del future

    def close(self) -> None:
        """Lets threads end that have nothing to do. There may be new ones again."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._pool = None

    def forget(self) -> None:
        """After a fork: none of them came along."""
        self._pool = None

    def _submit(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="keylatch")
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, context.run, work, *arguments)


async def _come_back(future: asyncio.Future[Any], attempt: Attempt) -> None:
    """Waits for a thread that has nobody to answer to."""
    try:
        await asyncio.wait([future], timeout=_PATIENCE)
        if not future.done():
            attempt.cut()
            await asyncio.wait([future])
    finally:
        future.cancel()  # the event loop ends
