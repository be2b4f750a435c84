"""What a key may do to keys by itself: never up, to more than it has, nor across, to other owners.

A view of a store, so that what is checked and what is written are one decision. Knows stores and
the rules of a key's life; no framework and no database.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NoReturn

from keylatch.changes import ends_later
from keylatch.errors import (
    ConfigurationError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidKeyError,
    RevokedKeyError,
    UnknownKeyError,
)
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord
from keylatch.store import Connection, Decide, Leave, Progress, Store

READ: Final = "keys:read"
WRITE: Final = "keys:write"
ADMIN: Final = "keys:admin"


class DelegatedStore:
    """A store as a key, the caller, may see and change it. A call that is not here is refused.

    - The caller sees keys of its own owner and of the collection's prefixes; with ``keys:admin``
      those of every owner. Any other key is as one that does not exist.
    - A key that it makes, changes or rotates has no scope that it lacks, before or after:
      ``keys:admin`` does not help. Revoking takes away only, so that this may be done to any key
      that it sees: a leak is stopped by whoever finds it.
    - What it makes, or has live longer, ends no later than itself: nobody puts off the end that was
      set for a key, through others. With ``keys:admin`` that is allowed.
    - To write, it must be active and have ``keys:write`` in the database, not only in a cache,
      which may not have heard yet that it was revoked.

    Args:
        store: Where the keys are.
        caller: The key that asks, as it has verified.
        prefixes: Those of the collection.
        now: Tells the time.

    Raises:
        InsufficientScopeError: The caller has no owner, and no ``keys:admin`` either.
    """

    def __init__(
        self,
        store: Store,
        caller: APIKey,
        *,
        prefixes: Sequence[str],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._caller = _with_tenant(caller)
        self._prefixes = tuple(prefixes)
        self._now = now

    def __getattr__(self, name: str) -> NoReturn:
        raise ConfigurationError(f"a key may not do this by itself: {name}")

    async def open(self) -> None:
        """Makes ready for use."""
        await self._store.open()

    async def transaction(self, connection: Connection) -> Callable[[], bool]:
        """Returns what tells whether the transaction of a connection is over."""
        return await self._store.transaction(connection)

    async def insert(
        self,
        new: Sequence[tuple[KeyRecord, KeyEvent]],
        *,
        unless: Collection[str] = (),
        connection: Connection | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Adds a key while nobody can change the caller. There is no adding of many.

        So a revocation of the caller comes before this or after it; and one of all the keys of
        its owner finds this one too.
        """
        if progress is not None or len(new) != 1:
            raise ConfigurationError("a key may make no other keys by itself than one by one")
        ((record, event),) = new
        if not record.key.prefix or unless:
            raise ConfigurationError("a key may not import tokens by itself")

        def decide(calling: KeyRecord) -> Change:
            caller = self._still_allowed(calling)
            if not self._sees(caller, record.key):
                raise InsufficientScopeError({ADMIN}, caller.scopes)
            _require_scopes(caller, record.key)
            _require_end(caller, record.key)
            return Change(key=calling.key, successor=(record, event))

        if await self._store.change(self._caller.id, decide, connection=connection) is None:
            raise InvalidKeyError

    async def load(self, key_id: str, *, connection: Connection | None = None) -> KeyRecord | None:
        """Reads a key that the caller sees."""
        record = await self._store.load(key_id, connection=connection)
        return record if record is not None and self._sees(self._caller, record.key) else None

    async def select(
        self,
        wanted: KeyFilter,
        *,
        after: Cursor | None,
        limit: int,
        connection: Connection | None = None,
    ) -> list[APIKey]:
        """Reads keys that the caller sees."""
        caller = self._caller
        if ADMIN not in caller.scopes:
            if wanted.owner not in (None, caller.owner):
                raise InsufficientScopeError({ADMIN}, caller.scopes)
            wanted = replace(wanted, owner=caller.owner)
        if wanted.prefix not in (None, *self._prefixes):
            return []
        if wanted.prefix is None and len(self._prefixes) == 1:
            wanted = replace(wanted, prefix=self._prefixes[0])  # which has an index
        elif wanted.prefix is None:
            wanted = replace(wanted, prefixes=self._prefixes)
        return await self._store.select(wanted, after=after, limit=limit, connection=connection)

    async def change(
        self,
        key_id: str,
        decide: Decide,
        *,
        leave: Leave | None = None,
        connection: Connection | None = None,
    ) -> Change | None:
        """Changes a key that the caller sees, if what becomes of it is not beyond the caller.

        Nobody can change the caller meanwhile, either: what waits for a key's lock does not
        outlive a revocation of the caller.
        """
        if leave is not None:
            raise ConfigurationError("a key changes others by its own leave, and no other's")
        caller = self._still_allowed(await self._store.load(self._caller.id, connection=connection))
        # Whoever does not see a key must not lock it, nor learn by the clock that it is there.
        if await self.load(key_id, connection=connection) is None:
            return None

        def look(calling: KeyRecord | None) -> None:
            nonlocal caller
            caller = self._still_allowed(calling)

        def guarded(record: KeyRecord) -> Change:
            if not self._sees(caller, record.key):
                raise UnknownKeyError
            change = decide(record)
            if change.key.revoked_at is None:
                _require_within(caller, record.key, change)
            return change

        return await self._store.change(
            key_id, guarded, leave=(caller.id, look), connection=connection
        )

    async def events(
        self,
        key_id: str,
        *,
        action: str | None = None,
        latest: int | None = None,
        connection: Connection | None = None,
    ) -> list[KeyEvent]:
        """Reads the audit trail of a key that the caller sees."""
        if await self.load(key_id, connection=connection) is None:
            return []
        return await self._store.events(key_id, action=action, latest=latest, connection=connection)

    def _sees(self, caller: APIKey, key: APIKey) -> bool:
        if key.prefix not in self._prefixes:
            return False
        return ADMIN in caller.scopes or (caller.owner is not None and key.owner == caller.owner)

    def _still_allowed(self, record: KeyRecord | None) -> APIKey:
        if record is None:
            raise InvalidKeyError
        status = record.key.status(self._now())
        if status != "active":
            raise RevokedKeyError if status == "revoked" else ExpiredKeyError
        if WRITE not in record.key.scopes:
            raise InsufficientScopeError({WRITE}, record.key.scopes)
        return _with_tenant(record.key)


def _with_tenant(caller: APIKey) -> APIKey:
    if caller.owner is None and ADMIN not in caller.scopes:
        raise InsufficientScopeError({ADMIN}, caller.scopes)
    return caller


def _require_within(caller: APIKey, old: APIKey, change: Change) -> None:
    _require_scopes(caller, old)
    _require_scopes(caller, change.key)
    if ends_later(change.key.expires_at, old.expires_at):
        _require_end(caller, change.key)
    if change.successor is not None:
        _require_scopes(caller, change.successor[0].key)
        _require_end(caller, change.successor[0].key)


def _require_scopes(caller: APIKey, key: APIKey) -> None:
    if not key.scopes <= caller.scopes:
        raise InsufficientScopeError(key.scopes, caller.scopes)


def _require_end(caller: APIKey, key: APIKey) -> None:
    if ADMIN not in caller.scopes and ends_later(key.expires_at, caller.expires_at):
        raise ValueError(
            f"a key ends no later than the one it comes from, at {caller.expires_at}: give an "
            f"expires_at until then, or use a key with {ADMIN}"
        )
