"""A table of keys as an application has it after two years: some last, some ended, some revoked.

The same seed makes the same mixture, but for the tokens. Knows no database.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from keylatch import APIKey, Hasher, KeyEvent, SecretRing, mint, parse
from keylatch.records import KeyRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SINCE = NOW - timedelta(days=730)
# What falls to each out of a hundred keys; the first ten bear a prefix that is long given up.
PREFIXES = {"acme_live": 60, "acme_test": 20, "acme_ops": 10}
OLD_PREFIX = "acme"
LIVES = {"lasting": 40, "ending": 20, "ended": 20, "revoked": 20}
# One owner has as many keys in a big table as in a small one, another one a tenth of any table.
STEADY_OWNER, STEADY_KEYS = "steady", 120
BIG_OWNER = "big"
# Half of the keys have the one, a hundredth has the other.
COMMON_SCOPE, RARE_SCOPE = "items:read", "items:purge"


def make(count: int, ring: SecretRing) -> Iterator[tuple[str, KeyRecord, KeyEvent]]:
    """Makes that many keys, the oldest first, each with its token and its latest event."""
    chance = random.Random(count)
    hasher = Hasher(ring)
    steady = set(chance.sample(range(count), min(STEADY_KEYS, count // 4)))
    for number in range(count):
        prefix = OLD_PREFIX if number < count // 10 else _one_of(chance, PREFIXES)
        token = mint(prefix, ring)
        created_at = SINCE + (NOW - SINCE) * (number + chance.random()) / (count + 1)
        expires_at, revoked_at = _ends(chance, created_at)
        used = chance.random() < 0.7
        key = APIKey(
            id=parse(token).key_id,
            prefix=prefix,
            name=f"key {number}",
            owner=STEADY_OWNER if number in steady else _owner(chance, count),
            scopes=_scopes(chance),
            metadata={"team": f"team {chance.randrange(20)}"},
            created_at=created_at,
            expires_at=expires_at,
            revoked_at=revoked_at,
            last_used_at=_between(chance, created_at, NOW) if used else None,
            use_count=chance.randrange(1, 10_000) if used else 0,
        )
        event = KeyEvent(
            key_id=key.id,
            at=revoked_at or created_at,
            action="revoked" if revoked_at else "created",
            actor="admin",
            details={},
        )
        yield token, KeyRecord(key, hasher.hash(token)), event


def _one_of(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices([*weights], [*weights.values()])[0]


def _between(chance: random.Random, start: datetime, end: datetime) -> datetime:
    return start + (end - start) * chance.random()


def _ends(chance: random.Random, created_at: datetime) -> tuple[datetime | None, datetime | None]:
    """When a key ends by itself, and when it was revoked."""
    match _one_of(chance, LIVES):
        case "ending":
            return NOW + timedelta(days=365) * (1 - chance.random()), None
        case "ended":
            return _between(chance, created_at, NOW), None
        case "revoked":
            ends = chance.random() < 0.5
            expires_at = created_at + timedelta(days=365) if ends else None
            return expires_at, _between(chance, created_at, min(NOW, expires_at or NOW))
    return None, None


def _owner(chance: random.Random, count: int) -> str | None:
    draw = chance.random()
    if draw < 0.1:
        return BIG_OWNER
    return None if draw < 0.15 else f"user {chance.randrange(1 + count // 4)}"


def _scopes(chance: random.Random) -> frozenset[str]:
    wanted = {f"area{chance.randrange(8)}:read"}
    if chance.random() < 0.5:
        wanted.add(COMMON_SCOPE)
    if chance.random() < 0.01:
        wanted.add(RARE_SCOPE)
    return frozenset(wanted)
