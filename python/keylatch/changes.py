"""The rules of a key's life: what a call makes of a key that it found. Knows records only.

Each function takes the key as it is while nobody else can change it, and returns what becomes of
it, or raises to leave it as it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from keylatch import bounds
from keylatch.errors import KeyStateError
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, differences

# For which a hash is not taken back to the server secret that it left: a worker that a deployment
# has overlooked has the old one, and the others may be about to drop it.
_LATELY: Final = timedelta(hours=1)


def created(key: APIKey, actor: str | None, *, predecessor: str | None = None) -> KeyEvent:
    """The event of a new key."""
    details = {} if predecessor is None else {"predecessor": predecessor}
    return _begun(key, "created", actor, details)


def imported(key: APIKey, actor: str | None) -> KeyEvent:
    """The event of a new key for a token that somebody has already."""
    return _begun(key, "imported", actor, {})


def _begun(key: APIKey, action: str, actor: str | None, more: dict[str, Any]) -> KeyEvent:
    details = {name: _plain(getattr(key, name)) for name in ("owner", "scopes", "expires_at")}
    return KeyEvent(
        key_id=key.id, at=key.created_at, action=action, actor=actor, details=details | more
    )


def updated(
    record: KeyRecord, edits: dict[str, Any], *, now: datetime, actor: str | None
) -> Change:
    """Another name, other scopes or metadata, another end.

    Only an active key can be edited: nothing brings a dead one back. One that was rotated may end
    sooner, never later.
    """
    old = record.key
    _require_active(old, now)
    key = replace(old, **edits)
    bounds.expiry(now=now, expires_at=edits.get("expires_at"), expires_in=None)
    if old.successor is not None and ends_later(key.expires_at, old.expires_at):
        raise KeyStateError("rotated")
    details = {
        name: {"from": _plain(getattr(old, name)), "to": _plain(getattr(key, name))}
        for name in differences(old, key)
    }
    if not details:
        return Change(key=old)
    event = KeyEvent(key_id=key.id, at=now, action="updated", actor=actor, details=details)
    return Change(key=key, event=event)


def rotated(
    record: KeyRecord,
    mint: Callable[[APIKey], KeyRecord],
    *,
    grace: timedelta,
    expires_at: datetime | None,
    expires_in: timedelta | None,
    now: datetime,
    reason: str | None = None,
    actor: str | None,
) -> Change:
    """A successor like the key, which itself ends with the grace, or sooner if it was to.

    Without an expiry of its own the successor lives for as long as the key was to live.
    """
    old = record.key
    _require_active(old, now)
    if old.successor is not None:
        raise KeyStateError("rotated")
    end = bounds.expiry(now=now, expires_at=expires_at, expires_in=expires_in)
    if end is None and old.expires_at is not None:
        end = _after(now, old.expires_at - old.created_at)
    successor = mint(replace(old, created_at=now, expires_at=end, last_used_at=None, use_count=0))
    ends_at: datetime | None = now + bounds.grace(grace, now=now)
    if ends_later(ends_at, old.expires_at):
        ends_at = old.expires_at
    event = KeyEvent(
        key_id=old.id,
        at=now,
        action="rotated",
        actor=actor,
        details={"successor": successor.key.id, "expires_at": _plain(ends_at)}
        | ({} if reason is None else {"reason": reason}),
    )
    return Change(
        key=replace(old, expires_at=ends_at, successor=successor.key.id),
        event=event,
        successor=(successor, created(successor.key, actor, predecessor=old.id)),
    )


def revoked(record: KeyRecord, *, now: datetime, reason: str | None, actor: str | None) -> Change:
    """The end, for good. Revoking again changes nothing, and keeps the first reason."""
    key = record.key
    if key.revoked_at is not None:
        return Change(key=key)
    event = KeyEvent(
        key_id=key.id, at=now, action="revoked", actor=actor, details={"reason": reason}
    )
    return Change(key=replace(key, revoked_at=now), event=event)


def expiring(
    record: KeyRecord, told: KeyEvent | None, *, now: datetime, within: timedelta
) -> Change:
    """Nothing becomes of a key that ends soon but an entry that says so, once for each end.

    ``told`` is the latest entry of that kind.
    """
    key = record.key
    if key.status(now) != "active" or key.expires_at is None or is_told(key, told):
        return Change(key=key)
    if key.expires_at >= now + within:
        return Change(key=key)  # it was put off
    details = {"expires_at": _plain(key.expires_at)}
    event = KeyEvent(key_id=key.id, at=now, action="expiring", actor=None, details=details)
    return Change(key=key, event=event)


def is_told(key: APIKey, told: KeyEvent | None) -> bool:
    """Whether an entry of the audit trail says that a key will end when it does."""
    return told is not None and told.details.get("expires_at") == _plain(key.expires_at)


def rehashed(key_id: str, left: str | None, kid: str, *, now: datetime) -> KeyEvent:
    """The event of a hash that was made anew, from under one server secret under another."""
    return KeyEvent(
        key_id=key_id, at=now, action="rehashed", actor=None, details={"from": left, "to": kid}
    )


def lately_left(events: Iterable[KeyEvent], kid: str, *, now: datetime) -> bool:
    """Whether a key's hash was moved away from under a server secret a moment ago.

    While workers are restarted one by one, with another active secret, those that still have the
    old one leave alone what the others have done, or they would write against each other.
    """
    return any(
        event.action == "rehashed" and event.details.get("from") == kid and event.at > now - _LATELY
        for event in events
    )


def _require_active(key: APIKey, now: datetime) -> None:
    status = key.status(now)
    if status != "active":
        raise KeyStateError(status)


def ends_later(end: datetime | None, other: datetime | None) -> bool:
    """Whether one end is later than another; None never comes."""
    return other is not None and (end is None or end > other)


def _after(now: datetime, duration: timedelta) -> datetime:
    """A moment from now, or the last one there is."""
    try:
        return min(now + duration, bounds.LATEST)
    except OverflowError:
        return bounds.LATEST


def _plain(value: Any) -> Any:
    """As the JSON of an event has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value) if isinstance(value, frozenset) else value
