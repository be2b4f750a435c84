"""What is done with keys beside verifying them: create, read, list, update, rotate, revoke, purge.

Checks what callers pass in, lets the rules decide, and has the store keep it. Knows no web
framework and no database.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from keylatch import bounds, changes, loading
from keylatch._native import Hasher, SecretRing, Token
from keylatch.delegation import DelegatedStore
from keylatch.errors import KeyRequestError, UnavailableError, UnknownKeyError
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import (
    UNCHANGED,
    APIKey,
    Change,
    KeyEvent,
    KeyRecord,
    KeyRequest,
    NewKey,
    Page,
    Status,
    Unchanged,
)
from keylatch.store import DuplicateKeyError, Progress, Store
from keylatch.turns import in_turns

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    HostConnection = AsyncSession | AsyncConnection | Session | Connection

T = TypeVar("T")

logger = logging.getLogger("keylatch")

# A second duplicate among 2^80 ids is a broken random source, not chance.
_MINT_ATTEMPTS: Final = 3


class KeyManagement:
    """The calls that manage keys, over a store.

    Every call takes ``connection=``, a SQLAlchemy session or connection of either kind, and then
    belongs to that transaction: it happened only once its owner commits. Roll back after
    an ``UnavailableError``: the database may have done so already.
    """

    _prefixes: Sequence[str]
    _accepts_imported: bool

    def __init__(self, store: Store, ring: SecretRing, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._ring = ring
        self._hasher = Hasher(ring)
        self._clock = clock
        self._opened = False
        self._warned = False

    def delegated_to(self, caller: APIKey) -> "KeyManagement":
        """The same calls, as far as a key may make them by itself.

        For routes that manage keys in the name of the key that the request carries, such as those
        of ``keylatch.fastapi.keys_router``. ``keylatch.delegation`` has the rules.

        Args:
            caller: The key, as it has verified.

        Raises:
            InsufficientScopeError: It has no owner, and no ``keys:admin`` either. The calls raise
                this, too, for scopes that it lacks; ``UnknownKeyError`` for keys that it may not
                see; another ``AuthenticationError`` if it has ended meanwhile; ``ValueError`` for
                a key that would outlive it; ``ConfigurationError`` for what no key may do.
        """
        prefixes = (*self._prefixes, "") if self._accepts_imported else self._prefixes
        store = DelegatedStore(self._store, caller, prefixes=prefixes, now=self._now)
        calls = copy(self)
        calls._store = cast("Store", store)  # noqa: SLF001 - it is ours
        return calls

    async def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        prefix: str | None = None,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> NewKey:
        """Makes a key.

        Args:
            name: What people call it, 1 to 255 characters.
            owner: Whom it belongs to: an id of the host application, 1 to 255 characters.
            scopes: What it may do; at most 64 names such as ``items:read``.
            expires_in: How long it lives. It lives until revoked if neither is given.
            expires_at: The moment, aware, at which it ends.
            metadata: A JSON object of at most 8 KiB.
            prefix: One of the collection's prefixes; the first one if left out.
            actor: Who makes it, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Returns:
            The key and its token. Nothing keeps the token: show it once.

        Raises:
            ValueError: A value is outside its bounds; the text names them.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed; nothing was written that would open anything.
            OSError: The operating system gave no random bytes.
        """
        request = KeyRequest(
            name=name,
            owner=owner,
            scopes=scopes,
            expires_in=expires_in,
            expires_at=expires_at,
            metadata=metadata,
            prefix=prefix,
        )
        wanted = self._wanted(request, self._now())
        actor = bounds.optional_text(actor, "actor")
        await self._ready()

        async def insert() -> NewKey:
            token = Token.mint(wanted.prefix, self._ring)
            record = self._record(wanted, token)
            event = changes.created(record.key, actor)
            async with self._changing({token.key_id}, connection):
                await self._store.insert([(record, event)], connection=connection)
            return NewKey(record.key, token.reveal())

        return await _minted(insert)

    async def create_many(
        self,
        requests: Iterable[KeyRequest],
        *,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
        progress: Progress | None = None,
    ) -> Sequence[NewKey]:
        """Makes many keys in one transaction: all of them, or none.

        All requests are checked before anything is written. The database has its deadline for
        each step, not for all of them. SQLite lets nobody else write meanwhile, and takes a
        kilobyte of memory a key. Garbage collections of Python take longer with many keys about:
        in a process that serves requests, make some ten thousand at a time.

        Args:
            requests: What to make, each with the bounds of :meth:`create`.
            actor: Who makes them, for the audit trail.
            connection: A session or connection whose transaction this belongs to. Hand out no
                token before it commits.
            progress: Called in the event loop, now and then, with how many are written so far.

        Returns:
            The keys and their tokens, in the order of the requests. Nothing keeps the tokens.

        Raises:
            KeyRequestError: A request is outside the bounds; its text and ``index`` name it.
            ValueError: The actor is outside its bounds.
            TypeError: The actor is no str.
            UnavailableError: The database failed; nothing was written that would open anything.
            OSError: The operating system gave no random bytes.
        """
        actor = bounds.optional_text(actor, "actor")
        now = self._now()
        wanted: list[APIKey] = []
        async for request in in_turns(requests):
            try:
                wanted.append(self._wanted(request, now))
            except (TypeError, ValueError) as error:
                raise KeyRequestError(len(wanted), str(error)) from None
        await self._ready()
        if not wanted:
            return []

        async def insert() -> Sequence[NewKey]:
            made: list[NewKey] = []
            rows: list[tuple[KeyRecord, KeyEvent]] = []
            async for key in in_turns(wanted):
                token = Token.mint(key.prefix, self._ring)
                record = self._record(key, token)
                rows.append((record, changes.created(record.key, actor)))
                made.append(NewKey(record.key, token.reveal()))
            # No cache has to be told: nobody can have asked for an id before it was minted.
            await self._store.insert(rows, connection=connection, progress=progress)
            return made

        return await _minted(insert)

    async def get(self, key_id: str, *, connection: "HostConnection | None" = None) -> APIKey:
        """Reads a key.

        Raises:
            UnknownKeyError: No key has this id.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        await self._ready()
        record = await self._store.load(key_id, connection=connection)
        if record is None:
            raise UnknownKeyError
        return record.key

    async def list(
        self,
        *,
        owner: str | None = None,
        prefix: str | None = None,
        status: Status | None = None,
        scope: str | None = None,
        name: str | None = None,
        unused_since: datetime | None = None,
        expiring_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> Page:
        """Reads keys that pass every filter.

        The newest come first; with ``status`` "revoked" or "expired" those that ended last; with
        ``expiring_before`` those that end soonest.

        Args:
            owner: Only the keys of this owner.
            prefix: Only those whose tokens begin with this prefix; with "" only those whose tokens
                were imported.
            status: Only ``active``, ``expired`` or ``revoked`` keys.
            scope: Only those that have this scope.
            name: Only those of exactly this name.
            unused_since: Only those neither used nor made since this moment, as far as uses were
                counted.
            expiring_before: Only those that end before this moment. Those that have ended
                already are among them: add ``status="active"`` to leave them out.
            limit: How many, 1 to 500.
            cursor: The ``next_cursor`` of the page before, of a list with the same filters.
            connection: A session or connection to read with.

        Raises:
            ValueError: A filter, the limit or the cursor is not one.
            TypeError: One is of another type than the annotation says.
            UnavailableError: The database failed.
        """
        if status not in (None, "active", "expired", "revoked"):
            raise ValueError("status must be active, expired or revoked")
        wanted = KeyFilter(
            now=self._now(),
            owner=bounds.optional_text(owner, "owner"),
            prefix="" if prefix == "" else bounds.optional_text(prefix, "prefix"),
            status=status,
            scope=None if scope is None else next(iter(bounds.scopes([scope]))),
            name=bounds.optional_text(name, "name"),
            unused_since=bounds.optional_utc(unused_since, "unused_since"),
            expiring_before=bounds.optional_utc(expiring_before, "expiring_before"),
        )
        limit = bounds.page_limit(limit)
        after = None if cursor is None else Cursor.decode(cursor, wanted.order)
        await self._ready()
        found = await self._store.select(
            wanted, after=after, limit=limit + 1, connection=connection
        )
        items = found[:limit]
        more = len(found) > limit
        return Page(items, Cursor.behind(items[-1], wanted.order).encode() if more else None)

    async def update(
        self,
        key_id: str,
        *,
        name: str | Unchanged = UNCHANGED,
        scopes: Iterable[str] | Unchanged = UNCHANGED,
        expires_at: datetime | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, Any] | Unchanged | None = UNCHANGED,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> APIKey:
        """Changes an active key; what is not given stays as it is.

        Args:
            key_id: Which.
            name: Another name, 1 to 255 characters.
            scopes: All the scopes that it has from now on.
            expires_at: The moment, aware, at which it ends; None if it ends no more by itself. A
                key that was rotated may end sooner, never later.
            metadata: Another JSON object of at most 8 KiB, instead of the old one.
            actor: Who, 1 to 255 characters, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Raises:
            UnknownKeyError: No key has this id.
            KeyStateError: It is revoked or has expired, or was rotated and should live longer.
            ValueError: A value is outside its bounds, or none is given.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        edits: dict[str, Any] = {}
        if name is not UNCHANGED:
            edits["name"] = bounds.text(name, "name")
        if scopes is not UNCHANGED:
            edits["scopes"] = bounds.scopes(scopes)
        if expires_at is not UNCHANGED:
            edits["expires_at"] = bounds.optional_utc(expires_at, "expires_at")
        if metadata is not UNCHANGED:
            edits["metadata"] = bounds.metadata(metadata)
        if not edits:
            raise ValueError("nothing to update: give a name, scopes, expires_at or metadata")
        actor = bounds.optional_text(actor, "actor")

        def decide(record: KeyRecord) -> Change:
            return changes.updated(record, edits, now=self._now(), actor=actor)

        return (await self._change(key_id, decide, connection)).key

    async def rotate(
        self,
        key_id: str,
        *,
        grace: timedelta,
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> NewKey:
        """Replaces an active key by a new one of the same owner, prefix, name, scopes and metadata.

        The old key goes on for the grace, so that clients can change over, and ends with it, or
        when it would have ended anyway if that is sooner. Its ``successor`` is the new key's id.
        The successor of an imported one has the collection's first prefix.

        Args:
            key_id: Which.
            grace: How long the old key goes on; ``timedelta(0)`` ends it at once.
            expires_in: How long the new key lives. If neither is given, for as long as from the
                making of the old one to its end.
            expires_at: The moment, aware, at which the new key ends.
            actor: Who, 1 to 255 characters, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Returns:
            The new key and its token. Nothing keeps the token: show it once.

        Raises:
            UnknownKeyError: No key has this id.
            KeyStateError: It is revoked, has expired, or was rotated before.
            ValueError: A value is outside its bounds; the text names them.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed, or the operating system gave no random bytes.
                Where the connection was lost during the commit, the key may be rotated all the
                same: look at ``(await keys.get(key_id)).successor``, revoke that one, whose token
                nobody has, and create another.
        """
        key_id = _key_id_or_nothing(key_id)
        actor = bounds.optional_text(actor, "actor")
        bounds.grace(grace, now=self._now())
        bounds.expiry(now=self._now(), expires_at=expires_at, expires_in=expires_in)
        made: dict[str | None, NewKey] = {}  # one for each time that a transaction was begun

        def mint(wanted: APIKey) -> KeyRecord:
            try:
                token = Token.mint(wanted.prefix or self._prefixes[0], self._ring)
                record = self._record(wanted, token)
            except OSError as error:
                # Here in the middle of a transaction, where it would be taken for the database's.
                raise UnavailableError(f"the random source failed: {error}") from None
            made[record.key.id] = NewKey(record.key, token.reveal())
            return record

        def decide(record: KeyRecord) -> Change:
            return changes.rotated(
                record,
                mint,
                grace=grace,
                expires_at=expires_at,
                expires_in=expires_in,
                now=self._now(),
                actor=actor,
            )

        return made[(await self._change(key_id, decide, connection)).key.successor]

    async def revoke(
        self,
        key_id: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> APIKey:
        """Revokes a key, for good: once this returns, its token opens nothing.

        Revoking it again changes nothing, and keeps the first reason. A successor, which a
        rotation left, is a key of its own, and goes on.

        Args:
            key_id: Which.
            reason: Why, 1 to 255 characters, for the audit trail.
            actor: Who, 1 to 255 characters, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Raises:
            UnknownKeyError: No key has this id.
            ValueError: The reason or the actor is outside its bounds.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        changed = await self._change(key_id, self._revocation(reason, actor), connection)
        if connection is not None:
            return changed.key  # as it was locked: what the host's snapshot shows may be older
        revoked = await self._store.load(key_id)
        if revoked is None:
            return changed.key  # a purge was quick
        if revoked.key.revoked_at is None:
            raise UnavailableError("the revocation did not reach the database: revoke it again")
        return revoked.key

    async def revoke_all(
        self,
        *,
        owner: str,
        reason: str | None = None,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> Sequence[str]:
        """Revokes every key of an owner, also those that a rotation makes meanwhile.

        Keys that are created while it runs may stay: stop those who create them first.

        Args:
            owner: Whose.
            reason: Why, 1 to 255 characters, for the audit trail.
            actor: Who, 1 to 255 characters, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Returns:
            The ids of the keys that this call revoked.

        Raises:
            ValueError: A value is outside its bounds.
            UnavailableError: The database failed. Some keys may be revoked: call it again.
        """
        owner = bounds.text(owner, "owner")
        decide = self._revocation(reason, actor)
        await self._ready()
        async with self._changing(set(), connection) as changed_ids:

            def noted(record: KeyRecord) -> Change:
                changed_ids.add(record.key.id)  # it may fail half way, and its owner commit that
                return decide(record)

            changed = await self._store.change_owned(owner, noted, connection=connection)
        return [change.key.id for change in changed]

    async def events(
        self,
        key_id: str,
        *,
        latest: int | None = None,
        connection: "HostConnection | None" = None,
    ) -> Sequence[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first.

        Args:
            key_id: Whose.
            latest: How many at most, 1 to 500, of the latest ones. All of them if it is left out:
                a trail grows as long as its key is changed.
            connection: A session or connection to read with.

        Raises:
            UnknownKeyError: No key has this id.
            ValueError: ``latest`` is outside its bounds.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        if latest is not None:
            latest = bounds.page_limit(latest, "latest")
        await self._ready()
        found = await self._store.events(key_id, latest=latest, connection=connection)
        if not found:
            # Asked afterwards, so that a purge in between cannot empty the trail of a key.
            await self.get(key_id, connection=connection)
        return found

    async def purge(
        self, *, dead_for: timedelta, connection: "HostConnection | None" = None
    ) -> int:
        """Deletes keys that were revoked, or have expired, long ago, with their audit trails.

        Args:
            dead_for: How long they must have been dead, at least an hour: every worker has heard
                of it by then.
            connection: A session or connection whose transaction this belongs to.

        Returns:
            How many.

        Raises:
            ValueError: The duration is shorter than an hour.
            UnavailableError: The database failed. Some keys may be gone: call it again.
        """
        dead_since = bounds.dead_since(dead_for, now=self._now())
        await self._ready()
        return await self._store.purge(dead_since, connection=connection)

    async def _change(
        self, key_id: str, decide: Callable[[KeyRecord], Change], connection: Any
    ) -> Change:
        if not key_id:
            raise UnknownKeyError
        await self._ready()
        async with self._changing({key_id}, connection) as changed_ids:
            changed = await _minted(
                lambda: self._store.change(key_id, decide, connection=connection)
            )
            if changed is None:
                raise UnknownKeyError
            if changed.successor is not None:
                changed_ids.add(changed.successor[0].key.id)
        return changed

    @asynccontextmanager
    async def _changing(self, key_ids: set[str], connection: Any) -> AsyncIterator[set[str]]:
        """Has keys be read anew, whatever became of the change; more may be named meanwhile."""
        over = None if connection is None else await self._store.transaction(connection)
        try:
            yield key_ids
        finally:
            # A thread that was given up may still name some.
            loading.changed(tuple(key_ids), over)

    def _revocation(self, reason: str | None, actor: str | None) -> Callable[[KeyRecord], Change]:
        reason, actor = bounds.optional_text(reason, "reason"), bounds.optional_text(actor, "actor")
        now = self._now()

        def decide(record: KeyRecord) -> Change:
            # One moment for all of them; a successor may have been made after it.
            at = max(now, record.key.created_at)
            return changes.revoked(record, now=at, reason=reason, actor=actor)

        return decide

    def _wanted(self, request: KeyRequest, now: datetime) -> APIKey:
        """A key as it is requested, without an id so far."""
        if not isinstance(request, KeyRequest):
            raise TypeError(f"a request must be a KeyRequest, not {type(request).__name__}")
        return APIKey(
            id="",
            prefix=self._own_prefix(request.prefix),
            name=bounds.text(request.name, "name"),
            owner=bounds.optional_text(request.owner, "owner"),
            scopes=bounds.scopes(request.scopes),
            metadata=bounds.metadata(request.metadata),
            created_at=now,
            expires_at=bounds.expiry(
                now=now, expires_at=request.expires_at, expires_in=request.expires_in
            ),
        )

    def _record(self, key: APIKey, token: Token) -> KeyRecord:
        key = replace(key, id=token.key_id, prefix=token.prefix)
        return KeyRecord(key, self._hasher.hash(token))

    def _own_prefix(self, prefix: str | None) -> str:
        if prefix is None:
            return self._prefixes[0]
        if prefix not in self._prefixes:
            raise ValueError("prefix must be one of the collection's: " + ", ".join(self._prefixes))
        return prefix

    async def _ready(self) -> None:
        if self._opened:
            return
        if not self._warned:
            self._warned = True
            logger.warning(
                "these API keys were not started: use FastAPI(lifespan=keys.lifespan), or "
                "async with keys"
            )
        await self._store.open()
        self._opened = True

    def _now(self) -> datetime:
        return bounds.utc(self._clock(), "the clock's time")


async def _minted(attempt: Callable[[], Awaitable[T]]) -> T:
    """What mints a key id is tried again where the id is taken."""
    for _ in range(_MINT_ATTEMPTS):
        with suppress(DuplicateKeyError):
            return await attempt()
    raise UnavailableError("new key ids keep colliding: check the system's random source")


def _key_id_or_nothing(key_id: str) -> str:
    """Drops what is no key id: it may be a token, which a traceback with locals would show."""
    return key_id if bounds.is_key_id(key_id) else ""
