"""Writes down how often keys were used, in batches, and never on the way of a request.

Knows the native core and the store; no framework and no database.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final

from keylatch._native import Engine
from keylatch.errors import KeylatchError
from keylatch.moments import from_microseconds, to_microseconds
from keylatch.records import Use
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

# Keys whose uses are written in one transaction: long ones keep others from their rows.
_PORTION: Final = 500
# How often, and in seconds how soon, rows are asked for again at the end that others have locked:
# workers that end together do so for moments, for five seconds a host's transaction may.
_LAST_ATTEMPTS: Final = 25
_PAUSE: Final = 0.2

# A key id, a count and the moment of the last use, as the engine has it.
_Counted = tuple[str, int, int]


class UsageWriter:
    """Empties the engine's ledger into a store.

    Args:
        engine: Has the ledger.
        store: Keeps the counts.
        interval: Seconds from one batch to the next.
    """

    def __init__(self, engine: Engine, store: Store, *, interval: float) -> None:
        self._engine = engine
        self._store = store
        self._interval = interval
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except KeylatchError:
                pass  # the store has said why in the log, and the uses are kept
            except Exception:
                logger.exception("uses of keys could not be written, and are kept")

    async def finish(self) -> None:
        """Writes all that there is, at the end: also what others have locked, once they let go.

        Raises:
            UnavailableError: The store failed.
        """
        for _ in range(_LAST_ATTEMPTS):
            await self.flush()
            if not (unwritten := self._engine.counts()["ledger_keys"]):
                return
            await asyncio.sleep(_PAUSE)
        logger.warning("uses of %d keys are lost: somebody keeps them locked", unwritten)

    async def flush(self) -> None:
        """Writes all that is there now. What cannot be written is kept for the next time.

        Raises:
            UnavailableError: The store failed.
        """
        waiting: list[_Counted] = []
        async with self._writing:
            self._engine.close_usage()
            try:
                while taken := self._engine.take_usage(_PORTION):
                    await _to_the_end(self._write(taken, waiting))
            finally:
                self._engine.put_usage_back(waiting)

    async def _write(self, taken: list[_Counted], waiting: list[_Counted]) -> None:
        uses = [Use(key_id, count, from_microseconds(at)) for key_id, count, at in taken]
        try:
            left = await self._store.record_usage(uses)
        except BaseException:
            self._engine.put_usage_back(taken)
            raise
        waiting += [(use.key_id, use.count, to_microseconds(use.last_at)) for use in left]


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Does not leave before it is certain what became of it, even if it is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        with suppress(Exception):
            task.result()
        raise
