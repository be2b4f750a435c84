"""What a key may be: checks for everything that callers pass in, made once, at the boundary.

Knows nothing of stores or frameworks. Every failure is a ``ValueError`` (or, for another type
than the annotation says, a ``TypeError``) that names the bound.
"""

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

T = TypeVar("T")

MAX_TEXT: Final = 255
MAX_SCOPES: Final = 64
MAX_METADATA_BYTES: Final = 8 * 1024
# MariaDB reads 32 levels of JSON (JSON_DEPTH_LIMIT), two of which the audit trail takes; and
# deeper still it could be stored and then not be read, where less of the stack is left.
MAX_METADATA_DEPTH: Final = 16
# A day later PostgreSQL's drivers cannot read a moment any more in every time zone.
LATEST: Final = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
MAX_PAGE: Final = 500
# By when workers have heard of a change, or read everything anew.
LEAST_DEAD_FOR: Final = timedelta(hours=1)

SCOPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._/-]{0,63}")
_KEY_ID: Final = re.compile(r"[0-9a-hjkmnp-tv-z]{16}")
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
# Control characters, lone surrogates, and the line and paragraph separators.
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def text(value: str, what: str) -> str:
    """Checks a name, an owner, an actor or a reason: 1 to 255 characters, none a control one."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= MAX_TEXT:
        raise ValueError(f"{what} must be 1 to {MAX_TEXT} characters long, not {len(value)}")
    if not value.isprintable() and any(unicodedata.category(c) in _UNPRINTABLE for c in value):
        raise ValueError(f"{what} must not hold control characters, line breaks or surrogates")
    return value


def optional_text(value: str | None, what: str) -> str | None:
    """Checks the same, or nothing."""
    return None if value is None else text(value, what)


def names(values: Iterable[T], what: str, *, such_as: str) -> frozenset[T]:
    """Checks that names are given as a list, or another collection: not as one string."""
    if isinstance(values, str | bytes):
        raise TypeError(f'{what} must be a list of names, such as ["{such_as}"], not one string')
    try:
        return frozenset(values)
    except TypeError:
        raise TypeError(f'{what} must be a list of names, such as ["{such_as}"]') from None


def scopes(values: Iterable[str]) -> frozenset[str]:
    """Checks scope names: at most 64, each ``[A-Za-z0-9][A-Za-z0-9:._/-]{0,63}``."""
    wanted = names(values, "scopes", such_as="items:read")
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"a scope must be a str, not {type(name).__name__}")
        if not SCOPE.fullmatch(name):
            raise ValueError(
                "a scope is 1 to 64 characters, begins with a letter or digit, and goes on with "
                "letters, digits and : . _ / - (such as items:read)"
            )
    if len(wanted) > MAX_SCOPES:
        raise ValueError(f"a key has at most {MAX_SCOPES} scopes, not {len(wanted)}")
    return wanted


def metadata(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks a JSON object: at most 8 KiB, 16 levels. Returns it as a database gives it back."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"metadata must be a dict, not {type(value).__name__}")
    try:
        document = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        encoded = document.encode()
    except (TypeError, ValueError, RecursionError):
        raise ValueError("metadata must be a JSON object: text, finite numbers, lists") from None
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata must be at most {MAX_METADATA_BYTES} bytes of JSON, not {len(encoded)}"
        )
    brackets = document.count("[") + document.count("{")
    if brackets > MAX_METADATA_DEPTH and _depth(document) > MAX_METADATA_DEPTH:
        raise ValueError(f"metadata must be nested at most {MAX_METADATA_DEPTH} levels deep")
    decoded: dict[str, Any] = json.loads(document)
    return decoded


def _depth(document: str) -> int:
    brackets = _JSON_STRING.sub("", document)
    return max(itertools.accumulate((c in "[{") - (c in "]}") for c in brackets))


def utc(value: datetime, what: str) -> datetime:
    """Checks that a moment is aware, and returns it in UTC."""
    if not isinstance(value, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(
            f"{what} must be an aware datetime: give it a time zone, such as "
            "datetime.now(timezone.utc)"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{what} must lie between the years 1 and 9999 in UTC") from None


def optional_utc(value: datetime | None, what: str) -> datetime | None:
    """Checks the same, or nothing."""
    return None if value is None else utc(value, what)


def expiry(
    *, now: datetime, expires_at: datetime | None, expires_in: timedelta | None
) -> datetime | None:
    """Checks a moment or a duration, at most one of them, that must lie in the future."""
    if expires_in is not None:
        if expires_at is not None:
            raise ValueError("give expires_at or expires_in, not both")
        if not isinstance(expires_in, timedelta):
            raise TypeError(f"expires_in must be a timedelta, not {type(expires_in).__name__}")
        try:
            expires_at = now + expires_in
        except OverflowError:
            raise ValueError("expires_in must end before the year 9999") from None
    if expires_at is None:
        return None
    moment = utc(expires_at, "expires_at")
    if moment <= now:
        raise ValueError(
            "a key must expire in the future: leave the expiry out for a key that stays"
        )
    if moment > LATEST:
        raise ValueError("a key must expire before the year 9999: leave the expiry out instead")
    return moment


def grace(value: timedelta, *, now: datetime) -> timedelta:
    """Checks how long a rotated key may go on: not less than nothing, and to the year 9999."""
    if not isinstance(value, timedelta):
        raise TypeError(f"grace must be a timedelta, not {type(value).__name__}")
    if value < timedelta(0):
        raise ValueError("grace must not be negative: timedelta(0) ends the old key at once")
    if value > LATEST - now:
        raise ValueError("grace must end before the year 9999")
    return value


def dead_since(dead_for: timedelta, *, now: datetime) -> datetime:
    """Checks for how long a key must have been dead: at least an hour. Returns since when."""
    if not isinstance(dead_for, timedelta):
        raise TypeError(f"dead_for must be a timedelta, not {type(dead_for).__name__}")
    if dead_for < LEAST_DEAD_FOR:
        raise ValueError(
            "dead_for must be at least an hour: workers hear of a revocation from what is deleted"
        )
    try:
        return now - dead_for
    except OverflowError:
        raise ValueError("dead_for must begin after the year 1") from None


def is_key_id(value: object) -> bool:
    """Whether this is a key id at all. What is not is never echoed: it may be a whole token."""
    return isinstance(value, str) and _KEY_ID.fullmatch(value) is not None


def page_limit(value: int, what: str = "limit") -> int:
    """Checks the size of a page: 1 to 500."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not 1 <= value <= MAX_PAGE:
        raise ValueError(f"{what} must be 1 to {MAX_PAGE}")
    return value
