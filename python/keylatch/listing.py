"""What ``list`` is asked for: which keys, in which order, and from where on.

Knows records and bounds only.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from keylatch import bounds
from keylatch.moments import from_microseconds, to_microseconds
from keylatch.records import APIKey, Status


@dataclass(frozen=True, slots=True)
class Order:
    """How keys are sorted: by a moment, then by id.

    Attributes:
        code: Stands for it in a cursor.
        moment: The field of the key.
        descending: Whether the latest comes first.
    """

    code: str
    moment: str
    descending: bool


NEWEST_FIRST: Final = Order("c", "created_at", descending=True)
LATEST_REVOKED_FIRST: Final = Order("r", "revoked_at", descending=True)
LATEST_EXPIRED_FIRST: Final = Order("e", "expires_at", descending=True)
SOONEST_EXPIRING_FIRST: Final = Order("s", "expires_at", descending=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Which keys are wanted: those that pass everything that is not None.

    Attributes:
        now: The moment at which the status counts.
        prefixes: Any of these will do.
    """

    now: datetime
    owner: str | None = None
    prefix: str | None = None
    prefixes: Sequence[str] | None = None
    status: Status | None = None
    scope: str | None = None
    name: str | None = None
    unused_since: datetime | None = None
    expiring_before: datetime | None = None

    @property
    def order(self) -> Order:
        """By the moment that the filter is about, so that an index serves both."""
        if self.expiring_before is not None:
            return SOONEST_EXPIRING_FIRST
        if self.status == "revoked":
            return LATEST_REVOKED_FIRST
        if self.status == "expired":
            return LATEST_EXPIRED_FIRST
        return NEWEST_FIRST

    def passes(self, key: APIKey) -> bool:
        """Whether a key is wanted."""
        return (
            self.owner in (None, key.owner)
            and self.prefix in (None, key.prefix)
            and (self.prefixes is None or key.prefix in self.prefixes)
            and self.status in (None, key.status(self.now))
            and (self.scope is None or self.scope in key.scopes)
            and self.name in (None, key.name)
            and (
                self.unused_since is None
                or (key.last_used_at or key.created_at) < self.unused_since
            )
            and (
                self.expiring_before is None
                or (key.expires_at is not None and key.expires_at < self.expiring_before)
            )
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended. Written as an opaque text that can stand in a URL."""

    code: str
    moment: datetime
    key_id: str

    @classmethod
    def behind(cls, key: APIKey, order: Order) -> Self:
        """The place behind a key."""
        return cls(order.code, getattr(key, order.moment), key.id)

    def comes_before(self, key: APIKey, order: Order) -> bool:
        """Whether a key stands behind this place."""
        place, other = (self.moment, self.key_id), (getattr(key, order.moment), key.id)
        return other < place if order.descending else place < other

    def encode(self) -> str:
        """As text."""
        place = f"{self.code}{to_microseconds(self.moment)}.{self.key_id}"
        return base64.urlsafe_b64encode(place.encode()).decode()

    @classmethod
    def decode(cls, cursor: str, order: Order) -> Self:
        """From text; ``ValueError`` for what :meth:`encode` did not write for this order."""
        if not isinstance(cursor, str):
            raise TypeError(f"cursor must be a str, not {type(cursor).__name__}")
        try:
            text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode("ascii")
            microseconds, _, key_id = text[1:].partition(".")
            place = cls(text[:1], from_microseconds(int(microseconds)), key_id)
        except (binascii.Error, UnicodeError, ValueError, OverflowError):
            place = None
        if place is None or place.encode() != cursor or not bounds.is_key_id(place.key_id):
            raise ValueError("cursor must be the next_cursor of an earlier page")
        if place.code != order.code:
            raise ValueError("cursor comes from a list with other filters: list from the start")
        return place
