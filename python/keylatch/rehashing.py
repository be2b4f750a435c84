"""Makes stored hashes anew under the active server secret, once their tokens have verified.

It goes on beside the requests, one key after the other, and no request waits for it or fails with
it. Knows the native core and the store; no framework and no database.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from keylatch import bounds, changes
from keylatch._native import Hasher, SecretRing, Token
from keylatch.errors import KeylatchError
from keylatch.kids import kid_of
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

# Keys that may wait. One that finds no place is noticed again when it is read anew.
_MOST_WAITING: Final = 1000
# Seconds until it is tried again where the store failed, at first and at the longest.
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
# Seconds in which what still waits is written at the end.
_PATIENCE: Final = 5.0
_COST: Final = re.compile(r"\$m=(\d+),t=(\d+),p=(\d+)")
# Of argon2id, as a Hasher has it by default.
_MEMORY_KIB: Final = 19456
_ITERATIONS: Final = 2


class Rehasher:
    """Gives keys new hashes.

    Args:
        store: Has the keys.
        ring: Its active secret hashes.
        stretch: Runs slow work, when a core is free.
        clock: Tells the time.
    """

    def __init__(
        self,
        store: Store,
        ring: SecretRing,
        *,
        stretch: Callable[[Callable[[], None]], Awaitable[None]],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._ring = ring
        self._hasher = Hasher(ring)
        self._stretch = stretch
        self._clock = clock
        self._waiting: dict[str, tuple[str, Token]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._until = float("inf")

    def add(self, stored: str, token: Token) -> None:
        """Has a key be given another hash than the stored one, under which its token verified."""
        if len(self._waiting) < _MOST_WAITING and not self._ending.is_set():
            self._waiting[token.key_id] = stored, token
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="keylatch-rehash")

    async def close(self) -> None:
        """Does what still waits, unless the store fails or it takes too long."""
        self._until = asyncio.get_running_loop().time() + _PATIENCE
        self._ending.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._waiting.clear()
        self._task, self._until = None, float("inf")
        self._ending.clear()

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        while self._waiting and loop.time() < self._until:
            key_id = next(iter(self._waiting))
            stored, token = self._waiting.pop(key_id)
            try:
                await self._rehash(stored, token)
            except KeylatchError:  # the store has said why in the log
                self._waiting.setdefault(key_id, (stored, token))
                if await self._ends_within(pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:
                logger.exception("a key was given no new hash")
            else:
                pause = _FIRST_PAUSE
            await asyncio.sleep(0)  # a store in memory never waits

    async def _rehash(self, stored: str, token: Token) -> None:
        key_id, kid, now = (
            token.key_id,
            self._ring.kids[0],
            bounds.utc(self._clock(), "the clock's time"),
        )
        # The others may be many, and long: people edit keys as often as they like.
        rehashed = await self._store.events(key_id, action="rehashed")
        if changes.lately_left(rehashed, kid, now=now):
            return  # another worker has a newer ring
        new = await self._hash(stored, token)
        event = changes.rehashed(key_id, kid_of(stored), kid, now=now)
        await self._store.rehash(stored, new, event)

    async def _hash(self, stored: str, token: Token) -> str:
        """By the same scheme. A cost of argon2id is the default one, or what it was if more."""
        cost = _COST.search(stored)
        if cost is None:
            return self._hasher.hash(token)
        memory_kib, iterations, parallelism = map(int, cost.groups())
        hasher = Hasher(
            self._ring,
            scheme="argon2id",
            memory_kib=max(memory_kib, _MEMORY_KIB),
            iterations=max(iterations, _ITERATIONS),
            parallelism=parallelism,
        )
        made: list[str] = []
        await self._stretch(lambda: made.append(hasher.hash(token)))
        return made[0]

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()
