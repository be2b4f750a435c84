"""Holds back what is to be told of changes until it is certain that they were committed.

Those in a host's own transaction happened only once that commits, which it may do long after, in
part, or never; nobody tells. So the audit trail is asked when it is over, since every change has an
entry there. Knows the store and records; no callback.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keylatch.errors import KeylatchError
from keylatch.records import APIKey, KeyEvent
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

# An entry of the audit trail, and the key as it was then.
News = tuple[KeyEvent, APIKey]
# Tells whether a transaction is over, committed or not.
Over = Callable[[], bool]

# Entries that are held back at most.
_MOST: Final = 10_000
# Seconds between two looks whether a transaction is over: at first, and at the longest, where the
# store fails or has nothing.
_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
# Seconds after which what failed in the middle of its commit is certain not to be there: the
# server's own time to notice, and more than the store's deadline.
_DOUBT: Final = 30.0
# Changes that may not have happened, of which nobody knows, as where the database went away.
_MOST_DOUBTFUL: Final = 100
# Entries of a key that are read at first, to find one that may not be the latest.
_LATER: Final = 100


@dataclass(slots=True, eq=False)
class _Change:
    """What one call has changed: all of it is in the database, or nothing."""

    news: Sequence[News]
    over: Over
    until: float  # by the monotonic clock; it is looked for until then


class Settling:
    """Changes that are not certain yet.

    Args:
        store: Has the audit trail.
        tell: Is called with what turns out to have happened.

    Attributes:
        dropped: Entries that will not be told of, whether they are there or not, since too many
            were held back.
    """

    def __init__(self, store: Store, tell: Callable[[Sequence[News]], None]) -> None:
        self.dropped: int = 0
        self._store = store
        self._tell = tell
        self._held: list[_Change] = []
        self._count = 0
        self._is_slow = False  # to be asked again
        self.attach()

    def attach(self) -> None:
        """With what belongs to one event loop."""
        self._looking = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """How many entries are held back."""
        return self._count

    def add(self, news: Sequence[News], over: Over | None) -> None:
        """Holds back what one call has changed.

        Args:
            news: What the audit trail says of it.
            over: Tells whether the transaction is over that it belongs to. None if it had one of
                its own, of which nobody knows how it ended.
        """
        if self._count + len(news) > _MOST:
            self.dropped += len(news)
            return
        if over is None and sum(change.until > 0 for change in self._held) >= _MOST_DOUBTFUL:
            # To look for all of them would be a burden when the database comes back.
            self.dropped += len(news)
            return
        self._count += len(news)
        until = time.monotonic() + _DOUBT if over is None else 0
        self._held.append(_Change(news, over or _always, until))

    async def run(self) -> None:
        """Looks until nothing is held back."""
        pause = _PAUSE
        while self._held:
            await asyncio.sleep(pause)
            try:
                await self.look()
            except Exception:
                self._is_slow = True
                logger.exception("whether changes were committed was not found out so far")
            pause = min(2 * pause, _LONGEST_PAUSE) if self._is_slow else _PAUSE

    async def look(self) -> None:
        """Tells of what is certain now, in order. Where the store fails, it is asked again."""
        async with self._looking:
            self._is_slow = False
            read: dict[tuple[str, str], frozenset[KeyEvent]] = {}
            for change in [each for each in self._held if each.over()]:
                event, _ = change.news[0]
                kind = event.key_id, event.action
                found = read.get(kind, frozenset())
                try:
                    if event not in found:
                        found = read[kind] = await self._since(event)
                except KeylatchError:  # the store has said why in the log
                    self._is_slow = True
                    return
                if event not in found and time.monotonic() < change.until:
                    self._is_slow = True  # there is seldom anything to find
                    continue
                self._held.remove(change)
                self._count -= len(change.news)
                if event in found:
                    self._tell(change.news)

    async def _since(self, event: KeyEvent) -> frozenset[KeyEvent]:
        """The entries of the same key and action that are not older than one, and some that are."""
        latest = _LATER
        while True:
            found = await self._store.events(event.key_id, action=event.action, latest=latest)
            if len(found) < latest or found[0].at < event.at:
                return frozenset(found)
            latest *= 10


def _always() -> bool:
    return True
