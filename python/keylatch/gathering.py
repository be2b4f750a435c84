"""Counts refusals that are alike, so that a flood of them is one event. Knows records only."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keylatch.frozen import frozen
from keylatch.records import APIKey, Happening

# Kinds of refusals that are told apart at a time. Only holders of many right secrets make as many.
_MOST_KINDS: Final = 1000


@dataclass(slots=True)
class Alike:
    """Refusals with one error code, of one key or of none that is certain."""

    code: str
    key: APIKey | None
    at: datetime
    count: int

    def happening(self) -> Happening:
        """What a callback is told of them."""
        return Happening(
            action="refused",
            at=self.at,
            key=self.key,
            key_id=None if self.key is None else self.key.id,
            details=frozen({"code": self.code, "count": self.count}),
        )


class Gathering:
    """Refusals that wait to be told. Takes the same memory however many there are."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str | None], Alike] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def count(self, code: str, key: APIKey | None) -> bool:
        """Counts one more, or tells that it is the first of its kind."""
        alike = self._kinds.get((code, None if key is None else key.id))
        if alike is None:
            return False
        alike.count += 1
        return True

    def add(self, more: Alike) -> None:
        """Counts refusals. Past the most kinds those of all further keys are told as of none."""
        key_id = None if more.key is None else more.key.id
        alike = self._kinds.get((more.code, key_id))
        if alike is None and len(self._kinds) >= _MOST_KINDS:
            key_id = None
            alike = self._kinds.get((more.code, None))
        if alike is not None:
            alike.count += more.count
            return
        key = None if key_id is None else more.key
        self._kinds[more.code, key_id] = Alike(more.code, key, more.at, more.count)

    def take(self) -> Alike | None:
        """Takes the oldest kind, if there is one."""
        return self._kinds.pop(next(iter(self._kinds))) if self._kinds else None

    def take_all(self) -> Iterator[Alike]:
        """Takes all that there are now."""
        kinds, self._kinds = self._kinds, {}
        return iter(kinds.values())
