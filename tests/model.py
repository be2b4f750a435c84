"""What is promised of keys, as a model in plain Python: a dictionary, and no store behind it.

Written from what the calls document. It is told which id a new key got, since chance decides
that, and predicts everything else: the answer, or the errors that may be raised, and what can be
seen afterwards. Knows of ``keylatch`` only the names of its errors.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

LATEST = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
MISSING: Any = object()


class RefusedError(Exception):
    """The call may raise any of these errors, and must raise one."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = set(faults)
        super().__init__(self.faults)


@dataclass
class Key:
    """A key, with its metadata as a JSON text, in which 1, 1.0 and true are not the same."""

    id: str
    prefix: str
    name: str
    owner: str | None
    scopes: list[str]
    metadata: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    successor: str | None = None
    trail: list[dict[str, Any]] = field(default_factory=list)

    def status(self, now: datetime) -> str:
        """What it is at a moment; revoked is the stronger word."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def seen(self) -> dict[str, Any]:
        """As ``get``, ``list`` and ``verify`` show it."""
        shown = {name: value for name, value in vars(self).items() if name != "trail"}
        return shown | {"last_used_at": None, "use_count": 0}

    def tell(self, at: datetime, action: str, actor: str | None, **details: Any) -> None:
        """Adds to the audit trail."""
        text = json_text({name: plain(value) for name, value in details.items()})
        self.trail.append({"at": at, "action": action, "actor": actor, "details": text})


class Model:
    """The keys of a database, and what each call makes of them.

    Attributes:
        now: What the clock shows.
        keys: Those that exist, by their ids.
        tokens: Every token that was ever handed out, by the id of its key.
    """

    def __init__(self, prefixes: Sequence[str], now: datetime) -> None:
        self.prefixes = prefixes
        self.now = now
        self.keys: dict[str, Key] = {}
        self.tokens: dict[str, str] = {}

    def call(self, name: str, arguments: Mapping[str, Any], made: tuple[str, str] | None) -> Any:
        """Predicts what a call answers; ``made`` is the id and the token of a key it made."""
        if name in ("create", "rotate"):
            return getattr(self, name)(made=made, **arguments)
        return getattr(self, name)(**arguments)

    def create(
        self,
        *,
        made: tuple[str, str] | None,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        metadata: Any = None,
        prefix: str | None = None,
        actor: str | None = None,
    ) -> dict[str, Any]:
        """A new key."""
        faults = wrong_text(name, owner, actor) | wrong_metadata(metadata)
        faults |= self._wrong_expiry(expires_at, expires_in)
        if prefix is not None and prefix not in self.prefixes:
            faults.add("ValueError")
        refuse(faults)
        key = Key(
            id=self._hand_out(made),
            prefix=prefix or self.prefixes[0],
            name=name,
            owner=owner,
            scopes=sorted(set(scopes)),
            metadata=json_text(metadata or {}),
            created_at=self.now,
            expires_at=self._end(expires_at, expires_in),
        )
        return self._add(key, actor)

    def get(self, *, key_id: str) -> dict[str, Any]:
        """One key."""
        return self._known(key_id).seen()

    def events(self, *, key_id: str) -> list[dict[str, Any]]:
        """Its audit trail, the oldest entry first."""
        return [event | {"key_id": key_id} for event in self._known(key_id).trail]

    def verify(self, *, token: str, scopes: Iterable[str] = ()) -> dict[str, Any]:
        """Whose key a token is."""
        ids = [key_id for key_id, other in self.tokens.items() if other == token]
        if not ids or ids[0] not in self.keys:
            raise RefusedError({"InvalidKeyError"})
        key = self.keys[ids[0]]
        status = key.status(self.now)
        if status != "active":
            raise RefusedError({f"{status.capitalize()}KeyError"})
        if not set(scopes) <= set(key.scopes):
            raise RefusedError({"InsufficientScopeError"})
        return key.seen()

    def list(
        self,
        *,
        owner: str | None = None,
        prefix: str | None = None,
        status: str | None = None,
        scope: str | None = None,
        name: str | None = None,
        unused_since: datetime | None = None,
        expiring_before: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """All keys that pass, through all pages."""
        found = [
            key
            for key in self.keys.values()
            if owner in (None, key.owner)
            and prefix in (None, key.prefix)
            and status in (None, key.status(self.now))
            and (scope is None or scope in key.scopes)
            and name in (None, key.name)
            and (unused_since is None or key.created_at < unused_since)
            and (
                expiring_before is None
                or (key.expires_at is not None and key.expires_at < expiring_before)
            )
        ]
        if expiring_before is not None:
            found.sort(key=lambda key: (key.expires_at, key.id))
        elif status == "revoked":
            found.sort(key=lambda key: (key.revoked_at, key.id), reverse=True)
        elif status == "expired":
            found.sort(key=lambda key: (key.expires_at, key.id), reverse=True)
        else:
            found.sort(key=lambda key: (key.created_at, key.id), reverse=True)
        return [key.seen() for key in found]

    def update(
        self,
        *,
        key_id: str,
        name: Any = MISSING,
        scopes: Any = MISSING,
        expires_at: Any = MISSING,
        metadata: Any = MISSING,
        actor: str | None = None,
    ) -> dict[str, Any]:
        """Other values; those that are given only."""
        edits: dict[str, Any] = {}
        faults = wrong_text(actor)
        if name is not MISSING:
            faults |= wrong_text(name)
            edits["name"] = name
        if scopes is not MISSING:
            edits["scopes"] = sorted(set(scopes))
        if expires_at is not MISSING:
            faults |= self._wrong_expiry(expires_at, None)
            edits["expires_at"] = None if "ValueError" in faults else self._end(expires_at, None)
        if metadata is not MISSING:
            faults |= wrong_metadata(metadata)
            edits["metadata"] = None if "ValueError" in faults else json_text(metadata or {})
        if not edits:
            faults.add("ValueError")
        key = self._active(key_id, faults)
        end = edits.get("expires_at", key.expires_at)
        if key.successor is not None and (end is None or end > key.expires_at):
            faults.add("KeyStateError: rotated")
        refuse(faults)
        before = {name: getattr(key, name) for name in edits}
        vars(key).update(edits)
        changed = {
            name: {"from": of_event(name, before[name]), "to": of_event(name, edits[name])}
            for name in edits
            if before[name] != edits[name]
        }
        if changed:
            key.tell(self.now, "updated", actor, **changed)
        return key.seen()

    def rotate(
        self,
        *,
        made: tuple[str, str] | None,
        key_id: str,
        grace: timedelta,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        actor: str | None = None,
    ) -> dict[str, Any]:
        """A successor like the key, which ends with the grace, or sooner if it was to."""
        faults = wrong_text(actor) | self._wrong_expiry(expires_at, expires_in)
        if not timedelta(0) <= grace <= LATEST - self.now:
            faults.add("ValueError")
        old = self._active(key_id, faults)
        if old.successor is not None:
            faults.add("KeyStateError: rotated")
        refuse(faults)
        end = self._end(expires_at, expires_in)
        if end is None and old.expires_at is not None:
            life = old.expires_at - old.created_at
            end = LATEST if life > LATEST - self.now else self.now + life
        new = Key(
            id=self._hand_out(made),
            prefix=old.prefix,
            name=old.name,
            owner=old.owner,
            scopes=old.scopes,
            metadata=old.metadata,
            created_at=self.now,
            expires_at=end,
        )
        old.successor = new.id
        old.expires_at = min(self.now + grace, old.expires_at or LATEST)
        old.tell(self.now, "rotated", actor, successor=new.id, expires_at=old.expires_at)
        return self._add(new, actor, predecessor=old.id)

    def revoke(
        self, *, key_id: str, reason: str | None = None, actor: str | None = None
    ) -> dict[str, Any]:
        """The end, for good."""
        faults = wrong_text(reason, actor)
        if key_id not in self.keys:
            faults.add("UnknownKeyError")
        refuse(faults)
        key = self.keys[key_id]
        self._revoke(key, reason, actor)
        return key.seen()

    def revoke_all(
        self, *, owner: str, reason: str | None = None, actor: str | None = None
    ) -> Sequence[str]:
        """The end of all keys of an owner; which ones, in no order."""
        refuse(wrong_text(owner, reason, actor))
        owned = [key for key in self.keys.values() if key.owner == owner]
        return sorted(key.id for key in owned if self._revoke(key, reason, actor))

    def purge(self, *, dead_for: timedelta, revoked_only: bool = False) -> int:
        """No more word of what died long ago; how many. Those that were revoked go first."""
        if not timedelta(0) <= dead_for <= self.now - datetime.min.replace(tzinfo=UTC):
            raise RefusedError({"ValueError"})
        dead_since = self.now - dead_for
        dead = [
            key.id
            for key in self.keys.values()
            if (key.revoked_at is not None and key.revoked_at <= dead_since)
            or (not revoked_only and key.expires_at is not None and key.expires_at <= dead_since)
        ]
        for key_id in dead:
            del self.keys[key_id]
        return len(dead)

    def trails(self) -> dict[str, Sequence[dict[str, Any]]]:
        """Everything that the audit trail tells, by key."""
        return {key_id: self.events(key_id=key_id) for key_id in self.keys}

    def marks(self) -> Sequence[tuple[str, datetime]]:
        """When each key was changed, each time."""
        return sorted(
            (key_id, each["at"]) for key_id, key in self.keys.items() for each in key.trail
        )

    def _revoke(self, key: Key, reason: str | None, actor: str | None) -> bool:
        if key.revoked_at is not None:
            return False
        key.revoked_at = self.now
        key.tell(self.now, "revoked", actor, reason=reason)
        return True

    def _add(self, key: Key, actor: str | None, **more: Any) -> dict[str, Any]:
        details = {"owner": key.owner, "scopes": key.scopes, "expires_at": key.expires_at}
        key.tell(self.now, "created", actor, **details, **more)
        self.keys[key.id] = key
        return key.seen()

    def _hand_out(self, made: tuple[str, str] | None) -> str:
        if made is None:
            return "the call made no key"
        key_id, token = made
        assert key_id not in self.tokens, "the id was handed out before"
        self.tokens[key_id] = token
        return key_id

    def _known(self, key_id: str) -> Key:
        if key_id not in self.keys:
            raise RefusedError({"UnknownKeyError"})
        return self.keys[key_id]

    def _active(self, key_id: str, faults: set[str]) -> Key:
        if key_id not in self.keys:
            raise RefusedError(faults | {"UnknownKeyError"})
        key = self.keys[key_id]
        status = key.status(self.now)
        if status != "active":
            raise RefusedError(faults | {f"KeyStateError: {status}"})
        return key

    def _wrong_expiry(self, at: datetime | None, duration: timedelta | None) -> set[str]:
        wrong = at is not None and duration is not None
        if at is not None:
            wrong = wrong or at.tzinfo is None or not self.now < at <= LATEST
        if duration is not None:
            wrong = wrong or not timedelta(0) < duration <= LATEST - self.now
        return {"ValueError"} if wrong else set()

    def _end(self, at: datetime | None, duration: timedelta | None) -> datetime | None:
        if duration is not None:
            return self.now + duration
        return None if at is None else at.astimezone(UTC)


def refuse(faults: set[str]) -> None:
    """Raises if there are any."""
    if faults:
        raise RefusedError(faults)


def wrong_text(*values: str | None) -> set[str]:
    """What is wrong with texts, of which some may be None."""
    given = [value for value in values if value is not None]
    bad = any(not 1 <= len(value) <= 255 or "\n" in value for value in given)
    return {"ValueError"} if bad else set()


def wrong_metadata(value: Any) -> set[str]:
    """What is wrong with metadata."""
    try:
        json_text(value)
    except ValueError:
        return {"ValueError"}
    return set()


def json_text(value: Any) -> str:
    """The one text of a JSON value, whatever the order of its names."""
    return json.dumps(value, allow_nan=False, sort_keys=True)


def plain(value: Any) -> Any:
    """As the JSON of an event has it."""
    return value.isoformat() if isinstance(value, datetime) else value


def of_event(name: str, value: Any) -> Any:
    """The value of a field, as the event of an update tells it."""
    return json.loads(value) if name == "metadata" else plain(value)
