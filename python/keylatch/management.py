"""What is done with keys beside making and verifying them: read, list, update, rotate and end them.

Checks what callers pass in, lets the rules decide, and has the store keep it. Knows no web
framework and no database.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from keylatch import bounds, changes
from keylatch._native import Token
from keylatch.delegation import DelegatedStore
from keylatch.errors import UnavailableError, UnknownKeyError
from keylatch.listing import Cursor, KeyFilter
from keylatch.making import KeyMaking, minted
from keylatch.records import (
    UNCHANGED,
    APIKey,
    Change,
    KeyEvent,
    KeyRecord,
    NewKey,
    Page,
    Status,
    Unchanged,
)

if TYPE_CHECKING:
    from keylatch.making import HostConnection
    from keylatch.store import Store


class KeyManagement(KeyMaking):
    """The calls that manage keys, over a store.

    Every call takes ``connection=``, a SQLAlchemy session or connection of either kind, and then
    belongs to that transaction: it happened only once its owner commits. Roll back after
    an ``UnavailableError``: the database may have done so already.
    """

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
        reason: str | None = None,
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
            reason: Why, 1 to 255 characters, for the audit trail.
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
        reason = bounds.optional_text(reason, "reason")
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
                reason=reason,
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
        async with self._changing(set(), connection) as changing:

            def noted(record: KeyRecord) -> Change:
                # It may fail half way, and its owner commit that.
                changing.key_ids.add(record.key.id)
                return changing.decided(decide(record))

            changed = await self._store.change_owned(owner, noted, connection=connection)
            changing.done(changed)
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
        async with self._changing({key_id}, connection) as changing:

            def noted(record: KeyRecord) -> Change:
                return changing.decided(decide(record))

            changed = await minted(lambda: self._store.change(key_id, noted, connection=connection))
            if changed is None:
                raise UnknownKeyError
            if changed.successor is not None:
                changing.key_ids.add(changed.successor[0].key.id)
            changing.done([changed])
        return changed

    def _revocation(self, reason: str | None, actor: str | None) -> Callable[[KeyRecord], Change]:
        reason, actor = bounds.optional_text(reason, "reason"), bounds.optional_text(actor, "actor")
        now = self._now()

        def decide(record: KeyRecord) -> Change:
            # One moment for all of them; a successor may have been made after it.
            at = max(now, record.key.created_at)
            return changes.revoked(record, now=at, reason=reason, actor=actor)

        return decide


def _key_id_or_nothing(key_id: str) -> str:
    """Drops what is no key id: it may be a token, which a traceback with locals would show."""
    return key_id if bounds.is_key_id(key_id) else ""
