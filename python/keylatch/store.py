"""What keylatch asks of a database. Knows records only, no database and no framework."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from keylatch.kids import SecretUse
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, Mark, Use

# A session or connection of the host application, of a type that only the store knows.
Connection = Any
# Says what becomes of a key, from the key as it is; raises to leave it as it is. It may be called
# again, with the key read anew, where a transaction has to be repeated.
Decide = Callable[[KeyRecord], Change]
# The same, from the key and the latest entry of some action in its audit trail, if there is one.
DecideKnowing = Callable[[KeyRecord, KeyEvent | None], Change]
# A key by whose leave another one is changed, and what looks at it, None where it is gone; that
# raises to leave all as it is.
Leave = tuple[str, Callable[[KeyRecord | None], None]]

# Is told how many keys are written so far, in the event loop.
Progress = Callable[[int], None]


class DuplicateKeyError(Exception):
    """The store already has a key of this id. Never leaves keylatch: it mints again."""


@runtime_checkable
class Store(Protocol):
    """Keeps keys and their audit trail.

    Every method may raise ``UnavailableError``. A change and its event are written together or
    not at all. With a ``connection`` a call belongs to that connection's transaction, and
    happened only if its owner commits; a store without transactions refuses one with a
    ``ConfigurationError``.
    """

    async def open(self) -> None:
        """Makes ready for use; may be called again. ``SchemaError`` if the tables do not fit."""

    async def close(self) -> None:
        """Lets go of connections; may be called again."""

    async def insert(
        self,
        new: Sequence[tuple[KeyRecord, KeyEvent]],
        *,
        unless: Collection[str] = (),
        connection: Connection | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Adds keys, all or none. ``DuplicateKeyError`` if an id is taken, or one of ``unless``.

        Of two transactions that would take an id, or have it in ``unless``, one waits for the end
        of the other.

        A transaction that it belongs to can go on after that, without any of them.
        """

    async def load(self, key_id: str, *, connection: Connection | None = None) -> KeyRecord | None:
        """Reads a key by its id."""

    async def existing(
        self, key_ids: Collection[str], *, connection: Connection | None = None
    ) -> set[str]:
        """Tells which of these ids keys have."""

    async def select(
        self,
        wanted: KeyFilter,
        *,
        after: Cursor | None,
        limit: int,
        connection: Connection | None = None,
    ) -> list[APIKey]:
        """Reads keys that pass the filter, in its order, behind a place."""

    async def change(
        self,
        key_id: str,
        decide: Decide,
        *,
        leave: Leave | None = None,
        connection: Connection | None = None,
    ) -> Change | None:
        """Changes a key, one change of it after the other. None if there is no such key.

        The key by whose leave this is done is looked at first, and changed by nobody meanwhile.
        ``DuplicateKeyError`` if the successor's id is taken.
        """

    async def change_knowing(
        self, key_id: str, action: str, decide: DecideKnowing
    ) -> Change | None:
        """Changes a key by the latest entry of an action, which nobody else can write meanwhile.

        The decision leaves no successor.
        """

    async def change_owned(
        self, owner: str, decide: Decide, *, connection: Connection | None = None
    ) -> list[Change]:
        """Changes every unrevoked key of an owner, those made meanwhile included.

        The decision must revoke.
        """

    async def purge(self, dead_since: datetime, *, connection: Connection | None = None) -> int:
        """Deletes the keys that were revoked or had expired by a moment, with their events.

        Returns how many. They go in portions: those that went stay gone when it fails.
        """

    async def changes(
        self, *, after: int | None, missing: Sequence[range], limit: int
    ) -> list[Mark]:
        """Reads entries of the audit trail, in their order.

        Of those from a number on, that one included, the first ones up to the limit, or the
        latest ones up to the limit if it is None; and those whose numbers are missing. Some of
        these may be left for the next time where at least so many are read as the limit says.
        """

    @property
    def notifies(self) -> bool:
        """Whether there is a ``listen`` that works."""

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Calls ``heard`` with the id of each key that changes, as soon as the change commits.

        Goes on until it is cancelled. ``UnavailableError`` when the connection is lost.
        """

    async def record_usage(self, uses: Sequence[Use]) -> list[Use]:
        """Adds uses to the counts of keys, and touches nothing else of them, in one transaction.

        Of a key that was used later already the later moment stays. Unknown keys are left out.
        Returns the uses that have to wait, since somebody else changes their keys now.
        """

    async def rehash(self, old: str, new: str, event: KeyEvent) -> bool:
        """Replaces the stored hash of the event's key, and touches nothing else of it.

        Tells whether it did: it does nothing if the hash is not the old one any more, or the key
        is revoked or has expired by the event's moment.
        """

    async def count_secrets(
        self, now: datetime, *, besides: Collection[str] = ()
    ) -> list[SecretUse]:
        """Counts the keys that need each server secret, once for each kid.

        Those under some kids need not be counted. It may read every key.
        """

    async def transaction(self, connection: Connection) -> Callable[[], bool]:
        """Returns what tells whether the transaction of a connection, as it is now, is over."""

    async def events(
        self,
        key_id: str,
        *,
        action: str | None = None,
        latest: int | None = None,
        connection: Connection | None = None,
    ) -> list[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first.

        Only entries of an action, or only so many of the latest, if that is given: a trail grows
        as long as its key is changed.
        """

    async def latest_events(self, key_ids: Collection[str], action: str) -> dict[str, KeyEvent]:
        """Reads the latest entry of an action of each key that has one, by the key's id."""
