"""What keylatch asks of a database. Knows records only, no database and no framework."""

from datetime import datetime
from typing import Protocol, runtime_checkable

from keylatch.records import APIKey, Cursor, KeyEvent, KeyRecord, Status


class DuplicateKeyError(Exception):
    """The store already has a key of this id. Never leaves keylatch: it mints again."""


@runtime_checkable
class Store(Protocol):
    """Keeps keys and their audit trail.

    Every method may raise ``UnavailableError``. A change and its event are written together or
    not at all.
    """

    async def open(self) -> None:
        """Makes ready for use; may be called again."""

    async def close(self) -> None:
        """Lets go of connections; may be called again."""

    async def insert(self, record: KeyRecord, event: KeyEvent) -> None:
        """Adds a key. ``DuplicateKeyError`` if the id is taken."""

    async def load(self, key_id: str) -> KeyRecord | None:
        """Reads a key by its id."""

    async def select(
        self,
        *,
        owner: str | None,
        status: Status | None,
        now: datetime,
        after: Cursor | None,
        limit: int,
    ) -> list[APIKey]:
        """Reads keys that pass every filter, the newest first; ties in descending order of id."""

    async def revoke(self, event: KeyEvent) -> bool:
        """Revokes ``event.key_id`` at ``event.at``, for ``event.details["reason"]``.

        Does nothing, and says so with False, if the key is missing or revoked already.
        """

    async def events(self, key_id: str) -> list[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first."""
