"""What keys, events and pages look like. Knows nothing of stores.

Of frameworks it knows one thing, without importing any: how to keep Pydantic from reading a key.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal, NoReturn

Status = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class APIKey:
    """A key, as the application sees it: everything but its secret and its hash.

    Every datetime is aware and in UTC.

    Attributes:
        id: Its public name, 16 characters; may be logged and may stand in a URL.
        prefix: The prefix of its token, such as ``acme_live``; empty if the token was imported.
        name: What people call it.
        owner: Whom it belongs to: an id of the host application, or None.
        scopes: What it may do. Names are compared whole, never by prefix.
        metadata: A JSON object of the host application.
        created_at: When it was made.
        expires_at: When it ends by itself; None if it does not.
        revoked_at: When it was revoked; None if it was not. Nothing un-revokes a key.
        last_used_at: When it last verified, as far as it was counted.
        use_count: How often it verified, as far as it was counted.
        successor: The id of the key that replaced it, or None.
    """

    id: str
    prefix: str
    name: str
    owner: str | None
    scopes: frozenset[str]
    metadata: dict[str, Any] = field(hash=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    use_count: int = 0
    successor: str | None = None

    def status(self, now: datetime) -> Status:
        """Tells whether the key is active, expired or revoked at a moment."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: Callable[[object], Any]
    ) -> dict[str, Any]:
        """Lets FastAPI answer with a key, and never read one.

        It takes a parameter ``key: APIKey`` whose ``Security(auth)`` was forgotten for a part of
        the request's body: every client could be whom it likes.
        """
        function = {"type": "no-info", "function": _verified}
        return {"type": "function-before", "function": function, "schema": handler(source)}


def _verified(value: object) -> APIKey:
    if isinstance(value, APIKey):
        return value
    raise ValueError(
        "a key comes from Security(auth), never out of a request: declare the parameter as "
        "Annotated[APIKey, Security(auth)]"
    )


def differences(one: APIKey, other: APIKey) -> list[str]:
    """The fields in which two keys differ. In metadata 1, 1.0 and True are not the same."""
    return [
        name
        for name in APIKey.__dataclass_fields__
        if _exact(getattr(one, name)) != _exact(getattr(other, name))
    ]


def _exact(value: object) -> object:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A key to be made, one of many. The bounds are those of ``create``.

    Attributes:
        name: What people call it, 1 to 255 characters.
        owner: Whom it belongs to: an id of the host application, 1 to 255 characters.
        scopes: What it may do; at most 64 names such as ``items:read``.
        expires_in: How long it lives. It lives until revoked if neither is given.
        expires_at: The moment, aware, at which it ends.
        metadata: A JSON object of at most 8 KiB.
        prefix: One of the collection's prefixes; the first one if left out.
    """

    name: str
    owner: str | None = None
    scopes: Iterable[str] = ()
    expires_in: timedelta | None = None
    expires_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with its token, which nothing keeps: show it once, to its owner only.

    ``repr`` hides the token, and it cannot be pickled.

    Attributes:
        key: The key.
        token: The whole string that a client sends.
    """

    key: APIKey
    token: str = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a NewKey holds a token and cannot be pickled or copied")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as a store keeps it: with the stored hash of its token."""

    key: APIKey
    hash: str = field(repr=False)


# Stands where there is no key, so that finding none takes as long as finding one. Opens nothing.
DECOY: Final = KeyRecord(
    APIKey(
        id="0" * 16,
        prefix="decoy",
        name="a key that is not there",
        owner="nobody",
        scopes=frozenset({"items:read"}),
        metadata={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    ),
    f"$hmac-sha256$v=1$kid=decoy${'A' * 22}${'A' * 43}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """One entry of a key's audit trail.

    Attributes:
        key_id: The key it happened to.
        at: When, in UTC.
        action: What: created, imported, updated, rotated, revoked or rehashed.
        actor: Who did it, as the caller said; None if it did not say.
        details: A JSON object that depends on the action.
    """

    key_id: str
    at: datetime
    action: str
    actor: str | None
    details: dict[str, Any] = field(hash=False)


# What callbacks are told of.
Action = Literal["created", "imported", "updated", "rotated", "revoked", "expiring", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What happened to a key, or that requests were refused: what callbacks are told.

    Holds no token, no secret and no hash.

    Attributes:
        action: What: ``created``, ``imported``, ``updated``, ``rotated``, ``revoked``, ``expiring``
            or ``refused``.
        at: When, in UTC; the first time, of refusals that are told together.
        key: The key as it was then. None of refusals whose secret was not right, since anyone can
            write a key id into a token.
        key_id: Its id, or None.
        actor: Who did it, as the caller said; None if it did not say.
        details: As the audit trail has them. Of ``expiring`` the ``expires_at``, and of ``refused``
            the ``code`` of the error and the ``count``. Nothing in it can be changed.
    """

    action: Action
    at: datetime
    key: APIKey | None
    key_id: str | None
    actor: str | None = None
    details: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry of the audit trail, as a feed of changes sees it.

    Attributes:
        number: Its place in the order that the store gives its entries, 1 or more.
        key_id: The key that changed.
        at: When.
    """

    number: int
    key_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """How often a key was used since that was last written down.

    Attributes:
        key_id: The key.
        count: How often.
        last_at: When last.
    """

    key_id: str
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a collection does in this process, since it was made.

    Attributes:
        started: Whether it was started, so that it caches at all.
        fresh: Whether cached keys count now, since changes were heard of not long ago.
        feed_age: Seconds since all was known that had changed until then; None if it never was.
        cached_keys: Keys that are cached, absent ones among them.
        hits: Requests that a cached key let pass.
        misses: Requests for which nothing cached told.
        hit_rate: The share of hits in these; None if there were none.
        refusals: How many requests were refused, by the code of the error.
        unwritten_usage: Keys whose last uses are not in the database yet.
        lost_usage: Uses that will not be counted: the database was away for too long.
        waiting_events: Events that callbacks have still to be told, once for each callback.
        dropped_events: Those that no callback will be told: too many waited, or the end came.
        failed_callbacks: How often a callback raised, or did not end in time.
    """

    started: bool
    fresh: bool
    feed_age: float | None
    cached_keys: int
    hits: int
    misses: int
    hit_rate: float | None
    refusals: dict[str, int]
    unwritten_usage: int
    lost_usage: int
    waiting_events: int
    dropped_events: int
    failed_callbacks: int


class Unchanged(Enum):
    """Stands for a value that is not given, where None is a value."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of a key, decided while nobody else could change it.

    Attributes:
        key: The key as it is from now on.
        event: What the audit trail says of it; None if nothing changed.
        successor: A key that comes to be with it, and its own event.
    """

    key: APIKey
    event: KeyEvent | None = None
    successor: tuple[KeyRecord, KeyEvent] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys, in the order that ``list`` documents.

    Attributes:
        items: The keys.
        next_cursor: Pass it as ``cursor`` for the next page; None if this is the last one.
    """

    items: list[APIKey]
    next_cursor: str | None
