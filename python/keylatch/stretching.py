"""Runs what takes tens of milliseconds of a core beside the event loop. Knows no key."""

import asyncio
import os
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from keylatch.errors import UnavailableError

# Seconds to wait for a core, as the design has it, and how many may.
_PATIENCE: Final = 2
_MOST_WAITING: Final = 1000

# A core for each of those who hold one.
_permits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    weakref.WeakKeyDictionary()
)


class Stretching:
    """Runs slow hashes in threads of its own.

    As many at once as there are cores, whatever collections of the event loop they are for.
    """

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def run(self, work: Callable[[], None]) -> None:
        """Does it, once a core is free.

        Raises:
            UnavailableError: None was within two seconds, or too many wait already.
        """
        busy = UnavailableError(
            "all cores are busy with argon2id: use hmac-sha256 for tokens that keylatch minted",
            retry_after=_PATIENCE,
        )
        if self._waiting >= _MOST_WAITING:
            raise busy
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="keylatch-argon2")
        loop, pool = asyncio.get_running_loop(), self._pool
        permits = _permits.setdefault(loop, asyncio.Semaphore(self._cores or 1))
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                await permits.acquire()
        except TimeoutError:
            raise busy from None
        finally:
            self._waiting -= 1
        try:
            job = loop.run_in_executor(pool, work)
        except RuntimeError:  # the collection has ended meanwhile
            permits.release()
            raise busy from None

        def done(job: "asyncio.Future[None]") -> None:
            permits.release()
            if not job.cancelled():
                job.exception()  # whoever asked may be gone

        # The permit is the job's, which goes on if whoever waits for it is cancelled.
        job.add_done_callback(done)
        await asyncio.shield(job)

    def close(self) -> None:
        """Lets threads end that have nothing to do. There may be new ones again."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._pool = None
