"""Goes through what may be many without keeping the event loop from its other work."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

# Seconds of work after which others have their turn.
_TURN: Final = 0.005


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Yields each item, and every few milliseconds lets others do their work first."""
    since = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - since > _TURN:
            await asyncio.sleep(0)
            since = time.monotonic()
