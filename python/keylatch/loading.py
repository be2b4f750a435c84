"""Asks the store for keys that nothing cached tells of, once for all who wait for the same one.

Knows the native core and the store; no framework and no database.
"""

import asyncio
import functools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from keylatch._native import Engine, Row, SecretRing, Token
from keylatch.errors import InvalidHashError, UnavailableError
from keylatch.frozen import frozen
from keylatch.moments import to_microseconds
from keylatch.records import DECOY, APIKey, KeyRecord
from keylatch.rehashing import Rehasher
from keylatch.store import Store
from keylatch.stretching import Stretching

logger: Final = logging.getLogger("keylatch")

# A key that is changed between every reading of it and its use is not changed by people.
_MOST_READINGS: Final = 10
# Keys in doubt from which on it is asked of all of them, not of those alone that are wanted,
# whether their transactions are over.
_MANY: Final = 100

# Tells whether a transaction is over, committed or not.
Over = Callable[[], bool]


class Loader:
    """Tells what a token opens that the engine does not know.

    Args:
        engine: Keeps the rows.
        store: Has them.
        ring: Its active secret makes hashes anew that are under others.
        clock: Tells the time.
    """

    def __init__(
        self, engine: Engine, store: Store, ring: SecretRing, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._store = store
        self._loads: dict[str, asyncio.Task[Row | UnavailableError]] = {}
        self._doubts: dict[str, list[Over]] = {}
        self._doubting = threading.Lock()
        self._many_doubts = _MANY
        self._stretching = Stretching()
        self._rehasher = Rehasher(store, ring, stretch=self._stretching.run, clock=clock)
        self._reported: set[str] = set()
        _loaders.add(self)

    async def open(
        self,
        token: Token,
        required: frozenset[str] | None,
        clock: Callable[[], int | None],
        *,
        cached: bool,
    ) -> APIKey:
        """Tells what a token opens.

        Args:
            token: The token.
            required: The scopes that are needed; None for none.
            clock: Tells the time, as the engine takes it. A key may end while it is read.
            cached: Whether rows may be kept, and shared with others who wait.

        Raises:
            AuthenticationError: It opens nothing.
            UnavailableError: There is no telling now.
        """
        if not token.prefix:
            token = await self._named(token, cached=cached)
        admit = functools.cache(functools.partial(self._admit, token))  # once, whatever follows
        for _ in range(_MOST_READINGS):
            row = await self._row_of(token, admit, cached=cached)
            if row.needs_stretching:
                # Or whoever knows a key id would have us stretch wrong secrets all day.
                admit()
                await self.stretch(functools.partial(self._engine.stretch, row, token))
            self._settle(token.key_id)
            try:
                key: APIKey | None = self._engine.judge(row, token, required, clock())
            except InvalidHashError as error:
                raise self._unverifiable(token.key_id, error) from None
            if key is not None:
                self._notice(row, token, cached=cached)
                return key
        raise UnavailableError(f"key {token.key_id} changes faster than it can be read")

    async def stretch(self, work: Callable[[], None]) -> None:
        """Does slow work in a thread, once a core is free.

        Raises:
            UnavailableError: None was within two seconds, or there is not enough memory.
        """
        try:
            await self._stretching.run(work)
        except MemoryError:
            raise UnavailableError("there is not enough memory for argon2id") from None

    def doubt(self, key_ids: Iterable[str], over: Over) -> None:
        """Has keys not be kept until a transaction is over which changes them.

        Nobody tells when that is: it is found out with the next token for such a key.
        """
        if len(self._doubts) >= self._many_doubts:
            for doubted in list(self._doubts):
                self._settle(doubted)
            self._many_doubts = max(_MANY, 2 * len(self._doubts))
        with self._doubting:
            for key_id in key_ids:
                self._doubts.setdefault(key_id, []).append(over)
        self.evict(key_ids)

    def evict(self, key_ids: Iterable[str] | None) -> None:
        """Has keys be read anew; all of them, if it is None."""
        if key_ids is None:
            self._engine.flush()
            return
        for key_id in key_ids:
            self._engine.evict(key_id)

    async def close(self) -> None:
        """Waits for what is being read and hashed anew, and lets go of threads."""
        if self._loads:
            await asyncio.wait(self._loads.values())
        await self._rehasher.close()
        self._stretching.close()

    def _settle(self, key_id: str) -> bool:
        """Whether no transaction is open that changes a key."""
        if key_id not in self._doubts:
            return True
        with self._doubting:
            doubts = self._doubts.pop(key_id, [])
            left = [over for over in doubts if not over()]
            if left:
                self._doubts[key_id] = left
        if len(left) < len(doubts):
            # Whatever was read before it was over is out of date now.
            self._engine.evict(key_id)
        return not left

    def _notice(self, row: Row, token: Token, *, cached: bool) -> None:
        """Has a hash made anew. Without a cache every request would notice it."""
        stored = row.notice_outdated() if cached else None
        if stored is not None:
            self._rehasher.add(stored, token)

    async def _named(self, token: Token, *, cached: bool) -> Token:
        """A token of another format, under that server secret of the ring that it has a key under.

        Of the last secret it is not asked here: whoever goes on with it finds out.
        """
        *candidates, last = self._engine.candidates(token)
        for candidate in candidates:
            admit = functools.partial(self._admit, candidate)
            if (await self._row_of(candidate, admit, cached=cached)).exists:
                return candidate
        return last

    async def _row_of(self, token: Token, admit: Callable[[], None], *, cached: bool) -> Row:
        """The row of a token's key id. To read it costs a lookup, to wait for that does not."""
        row = self._engine.cached(token) if cached else None
        if row is not None:
            return row
        loading = self._loads.get(token.key_id) if cached else None
        if loading is not None and loading.done():
            loading = None  # it would not be waited for, and may be out of date
        if loading is None:
            admit()
        if not cached:
            return _result(await self._read(token.key_id, keep=False))
        return _result(await asyncio.shield(loading or self._load(token.key_id)))

    def _admit(self, token: Token) -> None:
        if not self._engine.admits(token):
            raise UnavailableError(
                "too many lookups of tokens that no server secret of the ring has sealed: raise "
                "unsealed_lookups if they are yours, or put the secret back that sealed them"
            )

    def _load(self, key_id: str) -> "asyncio.Task[Row | UnavailableError]":
        """Begins to read a key. That goes on if whoever waits for it is cancelled."""
        task = asyncio.create_task(self._read(key_id, keep=True))
        self._loads[key_id] = task
        task.add_done_callback(functools.partial(self._loaded, key_id))
        return task

    def _loaded(self, key_id: str, task: "asyncio.Task[Row | UnavailableError]") -> None:
        if self._loads.get(key_id) is task:
            del self._loads[key_id]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _read(self, key_id: str, *, keep: bool) -> Row | UnavailableError:
        # An error is no exception here: all who wait would raise the same one, and hold on to
        # each other's frames.
        try:
            settled = self._settle(key_id)
            epoch = self._engine.epoch(key_id)
            record = await self._store.load(key_id)
            if record is None:
                self._row(key_id, epoch, DECOY, keep=False)  # it must take as long
            return self._row(key_id, epoch, record, keep=keep and settled)
        except InvalidHashError as error:
            return self._unverifiable(key_id, error)
        except UnavailableError as error:
            return UnavailableError(str(error), retry_after=error.retry_after)

    def _row(self, key_id: str, epoch: int, record: KeyRecord | None, *, keep: bool) -> Row:
        said: dict[str, Any] = {"key": None, "stored": "", "scopes": frozenset()}
        said |= {"expires_at": None, "revoked": False}
        if record is not None:
            key = _shareable(record.key)
            said = {
                "key": key,
                "stored": record.hash,
                "scopes": key.scopes,
                "expires_at": key.expires_at and to_microseconds(key.expires_at),
                "revoked": key.revoked_at is not None,
                "imported": not key.prefix,
            }
        del record
        try:
            return self._engine.row(key_id, epoch, **said, keep=keep)
        finally:
            said.clear()  # a traceback with locals must not show the stored hash

    def _unverifiable(self, key_id: str, error: InvalidHashError) -> UnavailableError:
        reason = str(error)
        if reason not in self._reported:
            self._reported.add(reason)
            logger.error("key %s, and maybe others, cannot be verified: %s", key_id, reason)
        return UnavailableError(f"key {key_id} cannot be verified: {reason}")


# All of this process: collections may share a database, and what one of them changes is changed for
# the others at once.
_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


def changed(key_ids: Iterable[str] | None, over: Over | None = None) -> None:
    """Has every collection of this process read keys anew, and once more when something is over.

    Args:
        key_ids: The keys; None for all that there are.
        over: Tells whether the transaction that changes them is over; None if it is.
    """
    for loader in list(_loaders):
        if over is None or key_ids is None:
            loader.evict(key_ids)
        else:
            loader.doubt(key_ids, over)


def _result(loaded: Row | UnavailableError) -> Row:
    if isinstance(loaded, Row):
        return loaded
    raise UnavailableError(str(loaded), retry_after=loaded.retry_after)


def _shareable(key: APIKey) -> APIKey:
    """A key that many requests may have at once, and that takes little memory."""
    return replace(
        key,
        prefix=sys.intern(key.prefix),
        scopes=_shared(key.scopes),
        metadata=frozen(key.metadata),
    )


@functools.lru_cache(maxsize=4096)
def _shared(scopes: frozenset[str]) -> frozenset[str]:
    """One set for all keys that may do the same."""
    return scopes
