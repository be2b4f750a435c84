"""A store in memory, for tests and for trying things out. It is gone with the process."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime

from keylatch.errors import ConfigurationError
from keylatch.kids import SecretUse, kid_of
from keylatch.listing import Cursor, KeyFilter
from keylatch.records import DECOY, APIKey, Change, KeyEvent, KeyRecord, Mark, Use
from keylatch.store import (
    Connection,
    Decide,
    DecideKnowing,
    DuplicateKeyError,
    Leave,
    Progress,
)


class MemoryStore:
    """Keeps keys in a dictionary of this process: other workers do not see them.

    No call waits for anything in between, so that each is a transaction of its own.
    """

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._events: list[KeyEvent] = []
        self._marks: list[Mark] = []
        self._numbered = 0

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing: the keys stay for as long as the store does."""

    async def insert(
        self,
        new: Sequence[tuple[KeyRecord, KeyEvent]],
        *,
        unless: Collection[str] = (),
        connection: Connection | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Adds keys."""
        _refuse(connection)
        ids = {record.key.id for record, _ in new}
        if len(ids) < len(new) or not self._records.keys().isdisjoint(ids.union(unless)):
            raise DuplicateKeyError
        for record, event in new:
            self._write(record, event)
        if progress is not None:
            progress(len(new))

    async def load(self, key_id: str, *, connection: Connection | None = None) -> KeyRecord | None:
        """Reads a key by its id."""
        _refuse(connection)
        found = deepcopy(self._records.get(key_id, DECOY))
        return found if key_id in self._records else None

    async def existing(
        self, key_ids: Collection[str], *, connection: Connection | None = None
    ) -> set[str]:
        """Tells which of these ids keys have."""
        _refuse(connection)
        return self._records.keys() & set(key_ids)

    async def select(
        self,
        wanted: KeyFilter,
        *,
        after: Cursor | None,
        limit: int,
        connection: Connection | None = None,
    ) -> list[APIKey]:
        """Reads keys in the filter's order."""
        _refuse(connection)
        order = wanted.order
        found = [
            record.key
            for record in self._records.values()
            if wanted.passes(record.key)
            and (after is None or after.comes_before(record.key, order))
        ]
        found.sort(key=lambda key: (getattr(key, order.moment), key.id), reverse=order.descending)
        return deepcopy(found[:limit])

    async def change(
        self,
        key_id: str,
        decide: Decide,
        *,
        leave: Leave | None = None,
        connection: Connection | None = None,
    ) -> Change | None:
        """Changes a key."""
        _refuse(connection)
        if leave is not None:
            by, look = leave
            look(deepcopy(self._records.get(by)))
        record = self._records.get(key_id)
        return None if record is None else self._change(record, decide)

    async def change_knowing(
        self, key_id: str, action: str, decide: DecideKnowing
    ) -> Change | None:
        """Changes a key by the latest entry of an action."""
        record = self._records.get(key_id)
        if record is None:
            return None
        told = self._latest([key_id], action).get(key_id)
        return self._change(record, lambda record: decide(record, told))

    async def change_owned(
        self, owner: str, decide: Decide, *, connection: Connection | None = None
    ) -> list[Change]:
        """Changes every unrevoked key of an owner."""
        _refuse(connection)
        owned = [
            record
            for record in self._records.values()
            if record.key.owner == owner and record.key.revoked_at is None
        ]
        return [self._change(record, decide) for record in owned]

    async def purge(self, dead_since: datetime, *, connection: Connection | None = None) -> int:
        """Deletes dead keys and their events."""
        _refuse(connection)
        dead = {
            key_id
            for key_id, record in self._records.items()
            if any(
                moment is not None and moment <= dead_since
                for moment in (record.key.revoked_at, record.key.expires_at)
            )
        }
        for key_id in dead:
            del self._records[key_id]
        self._events = [event for event in self._events if event.key_id not in dead]
        self._marks = [mark for mark in self._marks if mark.key_id not in dead]
        return len(dead)

    async def changes(
        self, *, after: int | None, missing: Sequence[range], limit: int
    ) -> list[Mark]:
        """Reads entries of the audit trail."""
        if after is None:
            return self._marks[-limit:]
        return [mark for mark in self._marks if mark.number >= after][:limit]

    @property
    def notifies(self) -> bool:
        """Nobody else could be told."""
        return False

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Refuses: nobody else could change a key."""
        raise ConfigurationError("the store in memory has nothing to listen to")

    async def record_usage(self, uses: Sequence[Use]) -> list[Use]:
        """Adds uses to the counts of keys."""
        for use in uses:
            record = self._records.get(use.key_id)
            if record is None:
                continue
            key = record.key
            last_used_at = max(use.last_at, key.last_used_at or use.last_at)
            key = replace(key, use_count=key.use_count + use.count, last_used_at=last_used_at)
            self._records[use.key_id] = replace(record, key=key)
        return []

    async def rehash(self, old: str, new: str, event: KeyEvent) -> bool:
        """Replaces the stored hash of a key."""
        record = self._records.get(event.key_id)
        if record is None or record.hash != old or record.key.status(event.at) != "active":
            return False
        self._write(replace(record, hash=new), event)
        return True

    async def count_secrets(
        self, now: datetime, *, besides: Collection[str] = ()
    ) -> list[SecretUse]:
        """Counts the keys that need each server secret."""
        living: Counter[str | None] = Counter()
        dead: Counter[str | None] = Counter()
        imported: Counter[str | None] = Counter()
        for record in self._records.values():
            is_living, kid = record.key.status(now) == "active", kid_of(record.hash)
            (living if is_living else dead)[kid] += 1
            imported[kid] += is_living and not record.key.prefix
        return [SecretUse(kid, living[kid], dead[kid], imported[kid]) for kid in imported]

    async def transaction(self, connection: Connection) -> Callable[[], bool]:
        """Refuses: there are no transactions."""
        _refuse(connection)
        return lambda: True

    async def events(
        self,
        key_id: str,
        *,
        action: str | None = None,
        latest: int | None = None,
        connection: Connection | None = None,
    ) -> list[KeyEvent]:
        """Reads the audit trail of a key."""
        _refuse(connection)
        found = [
            event
            for event in self._events
            if event.key_id == key_id and action in (None, event.action)
        ]
        return deepcopy(found if latest is None else found[-latest:])

    async def latest_events(self, key_ids: Collection[str], action: str) -> dict[str, KeyEvent]:
        """Reads the latest entry of an action of each key."""
        return self._latest(key_ids, action)

    def _latest(self, key_ids: Collection[str], action: str) -> dict[str, KeyEvent]:
        wanted = set(key_ids)
        return {
            event.key_id: deepcopy(event)
            for event in self._events
            if event.action == action and event.key_id in wanted
        }

    def _change(self, record: KeyRecord, decide: Decide) -> Change:
        change = decide(deepcopy(record))
        if change.successor is not None:
            if change.successor[0].key.id in self._records:
                raise DuplicateKeyError
            self._write(*change.successor)
        if change.event is not None:
            self._write(replace(record, key=change.key), change.event)
        return change

    def _write(self, record: KeyRecord, event: KeyEvent) -> None:
        self._records[record.key.id] = deepcopy(record)
        self._events.append(deepcopy(event))
        self._numbered += 1
        self._marks.append(Mark(self._numbered, event.key_id, event.at))


def _refuse(connection: Connection | None) -> None:
    if connection is not None:
        raise ConfigurationError(
            "the store in memory has no transactions: leave connection= out, or keep the keys in "
            "a database"
        )
