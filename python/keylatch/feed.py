"""How a process hears that keys were changed elsewhere. A feed can only evict, never grant.

Knows the native core, the store and how long a purge waits; no framework and no database.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from keylatch._native import Engine
from keylatch.bounds import LEAST_DEAD_FOR
from keylatch.errors import KeylatchError
from keylatch.records import Mark
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

# Entries of the audit trail that are read at once.
_PORTION: Final = 1000
# How far back the start looks, for entries of transactions that are open then.
_WINDOW: Final = 10_000
# Seconds for which a transaction may stay open, from the first entry it writes, and be noticed
# when it commits. What takes longer is found when its key is read anew, after five minutes.
_PATIENCE: Final = 3600
# Seconds after which changes may have been purged that were not heard of: half of the time for
# which a purge leaves them, since clocks of machines differ.
_FORGOTTEN: Final = LEAST_DEAD_FOR.total_seconds() / 2
# Seconds until a connection is made again that was lost.
_PAUSE: Final = 1
# Stretches of missing numbers that are asked for at most, the latest ones.
_MOST_GAPS: Final = 256


class Poll:
    """Reads what is new in the audit trail, again and again.

    Entries are followed by the numbers that the database gives them, not by moments: clocks of
    machines differ, and a transaction shows what it wrote only when it commits, which may be long
    after. So a number that is missing is asked for until it comes, or is certain not to.

    Args:
        engine: Where changed keys are evicted.
        store: Has the audit trail.
        interval: Seconds from one reading to the next.

    Attributes:
        heard_at: When everything was known that had changed until then, in ticks of the engine;
            None if it never was.
    """

    def __init__(self, engine: Engine, store: Store, *, interval: float) -> None:
        self._engine = engine
        self._store = store
        self._interval = interval
        self._last: Mark | None = None
        self._gaps = Gaps()
        self._begun = self._failed = False
        self.heard_at: int | None = None
        self._moment = 0.0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.once()
            except KeylatchError:
                pass  # the store has said why in the log
            except Exception:
                logger.exception("the feed of changes failed, and goes on")

    def wake(self) -> None:
        """Has it read at once."""
        self._wake.set()

    async def once(self) -> None:
        """Reads what is new.

        Raises:
            UnavailableError: The store failed.
        """
        # By the clock on the wall too, since ticks stand still while a machine sleeps.
        asked, moment = self._engine.ticks(), time.time()
        in_doubt = self._failed or not 0 <= moment - self._moment < _FORGOTTEN
        self._failed = True
        if not self._begun or not await self._follow():
            await self._begin()
        elif in_doubt:
            self._engine.flush()  # nothing is taken on trust
        self._begun, self._failed = True, False
        self._engine.heard(asked)
        self.heard_at, self._moment = asked, moment

    async def _begin(self) -> None:
        """Starts where the audit trail ends now, with everything unknown."""
        marks = await self._store.changes(after=None, missing=(), limit=_WINDOW)
        self._last, self._gaps = None, Gaps()
        self._note(marks)
        # What was read before this began may be out of date.
        self._engine.flush()

    async def _follow(self) -> bool:
        """Reads what is new, or tells that the audit trail is not the one that it was."""
        while True:
            after = 0 if self._last is None else self._last.number
            marks = await self._store.changes(
                after=after, missing=self._gaps.ranges(), limit=_PORTION
            )
            # The last one again: numbers may begin anew, in a database that was restored, or in
            # SQLite where the last entry was purged.
            if self._last is not None and self._last not in marks:
                return False
            for mark in marks:
                if mark != self._last:
                    self._engine.evict(mark.key_id)
            self._note(marks)
            if len(marks) < _PORTION:
                return True

    def _note(self, marks: Sequence[Mark]) -> None:
        for mark in marks:
            if self._last is None or mark.number > self._last.number:
                if self._last is not None:
                    self._gaps.open(self._last.number + 1, mark.number)
                self._last = mark
            else:
                self._gaps.fill(mark.number)
        self._gaps.forget()


class Notify:
    """Hears of changes the moment they commit, beside a poll, which misses none.

    Args:
        engine: Where changed keys are evicted.
        store: Tells.
        poll: Looks at once where something may have been missed.
    """

    def __init__(self, engine: Engine, store: Store, poll: Poll) -> None:
        self._engine = engine
        self._store = store
        self._poll = poll

    async def run(self) -> None:
        """Listens until it is cancelled."""
        while True:
            try:
                await self._store.listen(self._heard)
            except KeylatchError:
                pass  # the store has said why in the log
            except Exception:
                logger.exception("listening for changes failed, and goes on")
            self._poll.wake()
            await asyncio.sleep(_PAUSE)

    def _heard(self, key_id: str) -> None:
        with suppress(ValueError):  # anybody may write on the channel
            self._engine.evict(key_id)


class Gaps:
    """Numbers that are missing, and since when."""

    def __init__(self) -> None:
        self._ranges: deque[tuple[range, float]] = deque()

    def ranges(self) -> Sequence[range]:
        """The numbers that are missing."""
        return [numbers for numbers, _ in self._ranges]

    def open(self, start: int, stop: int) -> None:
        """Notes that the numbers from start to below stop are missing."""
        if start < stop:
            self._ranges.append((range(start, stop), asyncio.get_running_loop().time()))

    def fill(self, number: int) -> None:
        """Notes that a number has come."""
        for place, (numbers, since) in enumerate(self._ranges):
            if number in numbers:
                del self._ranges[place]
                for left in (range(number + 1, numbers.stop), range(numbers.start, number)):
                    if left:
                        self._ranges.insert(place, (left, since))
                return

    def forget(self) -> None:
        """Gives up what will not come any more."""
        long_ago = asyncio.get_running_loop().time() - _PATIENCE
        while self._ranges and (len(self._ranges) > _MOST_GAPS or self._ranges[0][1] < long_ago):
            self._ranges.popleft()
