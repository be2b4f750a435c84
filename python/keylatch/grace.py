"""What an answer tells the holder of a key that was rotated: since when, and until when it opens.

Knows the audit trail; no framework.
"""

import asyncio
import time
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from keylatch.errors import UnavailableError
from keylatch.records import APIKey
from keylatch.store import Store

if TYPE_CHECKING:
    from datetime import datetime

# How long an answer waits to be told since when; it goes out without that then.
_DEADLINE: Final = 0.5
# For which nothing is asked of a database that did not answer.
_PAUSE: Final = 30.0
# How many keys in their grace period are remembered; they are few.
_MOST: Final = 1024


class GraceHeaders:
    """The headers ``Deprecation`` and ``Sunset``, for keys in their grace period.

    When a key was rotated never changes, and is looked up once in each process.

    Args:
        store: Has the audit trail.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, datetime | None] = {}
        self._paused_until = 0.0

    async def of(self, key: APIKey) -> dict[str, str]:
        """The headers of an answer, none if the key was not rotated. Never fails."""
        if key.successor is None:
            return {}
        headers = {}
        if key.id not in self._known:
            await self._look_up(key.id)
        rotated_at = self._known.get(key.id)
        if rotated_at is not None:
            # A date of RFC 9651, section 3.3.7, as RFC 9745 asks for.
            headers["Deprecation"] = f"@{int(rotated_at.timestamp())}"
        if key.expires_at is not None:
            # RFC 8594, and RFC 9110, section 5.6.7.
            headers["Sunset"] = format_datetime(key.expires_at, usegmt=True)
        return headers

    async def _look_up(self, key_id: str) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(_DEADLINE):
                events = await self._store.events(key_id, action="rotated", latest=1)
        except (TimeoutError, UnavailableError):
            self._paused_until = time.monotonic() + _PAUSE
            return
        if len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)), None)
        # Whoever shortens the audit trail is not asked again for what is gone from it.
        self._known[key_id] = events[0].at if events else None
