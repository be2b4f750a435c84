"""A store in memory, for tests and for trying things out. It is gone with the process."""

from copy import deepcopy
from dataclasses import replace
from datetime import datetime

from keylatch.records import APIKey, Cursor, KeyEvent, KeyRecord, Status
from keylatch.store import DuplicateKeyError


class MemoryStore:
    """Keeps keys in a dictionary of this process: other workers do not see them."""

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._events: list[KeyEvent] = []

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing: the keys stay for as long as the store does."""

    async def insert(self, record: KeyRecord, event: KeyEvent) -> None:
        """Adds a key."""
        if record.key.id in self._records:
            raise DuplicateKeyError
        self._records[record.key.id] = deepcopy(record)
        self._events.append(deepcopy(event))

    async def load(self, key_id: str) -> KeyRecord | None:
        """Reads a key by its id."""
        return deepcopy(self._records.get(key_id))

    async def select(
        self,
        *,
        owner: str | None,
        status: Status | None,
        now: datetime,
        after: Cursor | None,
        limit: int,
    ) -> list[APIKey]:
        """Reads keys, the newest first."""
        found = [
            key
            for key in (record.key for record in self._records.values())
            if (owner is None or key.owner == owner)
            and (status is None or key.status(now) == status)
            and (after is None or (key.created_at, key.id) < (after.created_at, after.key_id))
        ]
        found.sort(key=lambda key: (key.created_at, key.id), reverse=True)
        return deepcopy(found[:limit])

    async def revoke(self, event: KeyEvent) -> bool:
        """Revokes a key, unless it is missing or revoked already."""
        record = self._records.get(event.key_id)
        if record is None or record.key.revoked_at is not None:
            return False
        revoked = replace(record.key, revoked_at=event.at)
        self._records[event.key_id] = replace(record, key=revoked)
        self._events.append(deepcopy(event))
        return True

    async def events(self, key_id: str) -> list[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first."""
        return deepcopy([event for event in self._events if event.key_id == key_id])
