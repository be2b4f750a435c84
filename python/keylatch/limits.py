"""How many requests a key may send, and the counting of them. Knows keys; no framework."""

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from keylatch._native import Limiter as NativeLimiter
from keylatch.callables import is_async, yields
from keylatch.errors import ConfigurationError
from keylatch.records import APIKey

_MOST_REQUESTS: Final = 1_000_000
_SHORTEST: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=1)
_SECOND: Final = 1_000_000_000  # in nanoseconds


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests of each key, such as ``RateLimit(100, timedelta(minutes=1))``.

    A key that was silent for long may send all of them at once. They come back one by one, evenly
    over the period, so that a key that goes on for long sends so many in each period. (This is the
    generic cell rate algorithm, ITU-T I.371.) In the first period that is up to twice as many: all
    of them at once, and those that have come back.

    Attributes:
        requests: How many, 1 to 1,000,000.
        per: The period, a second to a day.

    Raises:
        ConfigurationError: One of them is outside its bounds.
    """

    requests: int
    per: timedelta
    _nanoseconds: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole = isinstance(self.requests, int) and not isinstance(self.requests, bool)
        if not whole or not 1 <= self.requests <= _MOST_REQUESTS:
            raise ConfigurationError(
                f"a limit is 1 to {_MOST_REQUESTS:,} requests, as an int; to let a key through "
                "without a limit, or not at all, leave it without a limit, or revoke it"
            )
        if not isinstance(self.per, timedelta) or not _SHORTEST <= self.per <= _LONGEST:
            raise ConfigurationError(
                "the period of a limit is a timedelta of a second to a day, such as "
                "timedelta(minutes=1)"
            )
        object.__setattr__(self, "_nanoseconds", self.per // timedelta(microseconds=1) * 1_000)


# The limit of every key, or what tells that of one; None for none.
RateLimitRule = RateLimit | Callable[[APIKey], RateLimit | None]


class Limiter:
    """Counts requests of keys against their limits, in this process.

    Args:
        rule: The limit, or what tells it.

    Raises:
        ConfigurationError: It is neither.
    """

    def __init__(self, rule: RateLimitRule) -> None:
        if not isinstance(rule, RateLimit) and (
            not callable(rule) or isinstance(rule, type) or is_async(rule) or yields(rule)
        ):
            raise ConfigurationError(
                "rate_limit is a RateLimit, or a function, not async, that takes an APIKey and "
                "returns a RateLimit, or None for none"
            )
        self.rule: Final = rule
        self.begin_anew()
        _living.add(self)

    def begin_anew(self) -> None:
        """With nothing counted: at first, and in the child after a fork."""
        self._native = NativeLimiter()

    def take(self, key: APIKey, now: int | None) -> int | None:
        """Takes one request out of the limit of a key, which has verified.

        Args:
            key: The key.
            now: Microseconds since 1970; None for a clock that nobody sets back.

        Returns:
            None, or if none is left the seconds until there is one, rounded up.

        Raises:
            ConfigurationError: There is no telling the limit. Whatever the function that should
                tell it raises goes through.
        """
        limit = self._limit_of(key)
        if limit is None:
            return None
        period = limit._nanoseconds  # noqa: SLF001 - it is ours
        wait = self._native.take(key.id, limit.requests, period, now)
        return -(-wait // _SECOND) if wait else None

    def _limit_of(self, key: APIKey) -> RateLimit | None:
        rule = self.rule
        if isinstance(rule, RateLimit):
            return rule
        limit = rule(key)
        if limit is None or isinstance(limit, RateLimit):
            return limit
        raise ConfigurationError(
            f"what tells the limit of a key returned a {type(limit).__name__}: have it return a "
            "RateLimit, or None for none"
        )


# For what a fork makes of them: another process counts by itself.
_living: weakref.WeakSet[Limiter] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for limiter in list(_living):
        limiter.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
