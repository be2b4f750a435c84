"""Moments as numbers: microseconds since 1970, exactly. Knows nothing else of keylatch."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """Back, in UTC. ``OverflowError`` for what is no moment."""
    return _EPOCH + timedelta(microseconds=number)
