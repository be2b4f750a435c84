"""Finds keys that end soon, and tells of each once, whichever worker finds it first.

That a key was told of stands in its audit trail, written while nobody else could. Knows the store
and the rules of a key's life; no callback and no framework.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keylatch import changes
from keylatch.errors import ConfigurationError, KeylatchError, UnavailableError
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord
from keylatch.settling import News, Over
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

WEEK: Final = timedelta(days=7)
# Less would be over before anybody does something, and of more there are too many.
_SHORTEST: Final = timedelta(hours=1)
_LONGEST: Final = timedelta(days=366)
# Seconds from one look to the next, and how many times as long as it took that is at least: it
# reads all keys that end soon, in every worker, of which there may be very many.
_INTERVAL: Final = 60.0
_REST: Final = 20.0
# Keys that are read at once.
_PORTION: Final = 500
# Keys that are remembered to have been told of; about others the audit trail is asked.
_MOST_KNOWN: Final = 100_000


class Window(NamedTuple):
    """Which keys are told of: those of these prefixes, so long before their end.

    Others of the same database are another collection's to tell of.
    """

    within: timedelta
    prefixes: Sequence[str]


def window(within: timedelta, prefixes: Sequence[str]) -> Window:
    """Checks how long before its end a key is told of.

    Raises:
        ConfigurationError: It is outside its bounds.
    """
    if not isinstance(within, timedelta) or not _SHORTEST <= within <= _LONGEST:
        raise ConfigurationError("expiring_within must be a timedelta of 1 hour to 366 days")
    return Window(within, prefixes)


class Expiring:
    """Looks for keys that end soon.

    Args:
        store: Has the keys.
        now: Tells the time.
        window: Which keys are told of.
        room: Waits until there is room to tell of another one.
        tell: Is called with an entry that was written.
        doubt: Is called with one that may have been.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime],
        *,
        window: Window,
        room: Callable[[], Awaitable[None]],
        tell: Callable[[Sequence[News]], None],
        doubt: Callable[[Sequence[News], Over | None], None],
    ) -> None:
        self._store = store
        self._now = now
        self._window = window
        self._room = room
        self._tell = tell
        self._doubt = doubt
        self._known: dict[str, datetime | None] = {}
        self.attach()

    def attach(self) -> None:
        """With what belongs to one event loop."""
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except KeylatchError:
                pass  # the store has said why in the log
            except Exception:
                logger.exception("keys that end soon were not looked for, and will be")
            await asyncio.sleep(max(_INTERVAL, _REST * (time.monotonic() - began)))

    async def look(self) -> None:
        """Tells of the keys that end soon, those that end soonest first.

        Raises:
            UnavailableError: The store failed.
        """
        async with self._looking:
            now = self._now()
            within, prefixes = self._window
            wanted = KeyFilter(
                now=now, status="active", expiring_before=now + within, prefixes=prefixes
            )
            known: dict[str, datetime | None] = {}
            after: Cursor | None = None
            while portion := await self._store.select(wanted, after=after, limit=_PORTION):
                await self._look_at(portion)
                known |= {key.id: key.expires_at for key in portion}
                after = Cursor.behind(portion[-1], wanted.order)
                if len(known) > _MOST_KNOWN:
                    known = {}
            self._known = known  # without those that have ended

    async def _look_at(self, keys: Sequence[APIKey]) -> None:
        new = [key for key in keys if self._known.get(key.id) != key.expires_at]
        if not new:
            return
        told = await self._store.latest_events([key.id for key in new], "expiring")
        for key in new:
            if changes.is_told(key, told.get(key.id)):
                continue
            await self._room()
            await self._claim(key.id)

    async def _claim(self, key_id: str) -> None:
        """Writes that a key is told of, unless somebody else has, and then tells."""
        decided: list[News] = []

        def decide(record: KeyRecord, told: KeyEvent | None) -> Change:
            change = changes.expiring(record, told, now=self._now(), within=self._window.within)
            decided[:] = [] if change.event is None else [(change.event, change.key)]
            return change

        try:
            await self._store.change_knowing(key_id, "expiring", decide)
        except (UnavailableError, asyncio.CancelledError):
            self._doubt(tuple(decided), None)
            raise
        self._tell(decided)
