"""Pages of keys: every filter with every other one, in every store, page after page."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from keylatch import APIKeys, KeyEvent
from keylatch.memory import MemoryStore
from keylatch.records import APIKey, KeyRecord

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FILTERS = {
    "owner": ["u1"],
    "prefix": ["acme_live"],
    "status": ["active", "expired", "revoked"],
    "scope": ["read"],
    "unused_since": [NOW - 2 * DAY],
    "expiring_before": [NOW + 2 * DAY],
}
COMBINATIONS = [
    {name: value for name, value in zip(FILTERS, values, strict=True) if value is not None}
    for values in product(*([None, *values] for values in FILTERS.values()))
]


def records():
    """Keys of every kind, of which many share their moments: only their ids tell them apart."""
    ends = [None, NOW - DAY, NOW, NOW + DAY, NOW + 3 * DAY]
    kinds = product(["u1", "u10", None], ["acme_live", "acme"], ends, [None, NOW - DAY])
    for number, (owner, prefix, expires_at, revoked_at) in enumerate(kinds):
        # The ids are in no order that anything else is in.
        key = APIKey(
            id=f"{number * 37 % 101:016}",
            prefix=prefix,
            name="ci",
            owner=owner,
            scopes=frozenset({"read"} if number % 3 else {"write"}),
            metadata={},
            created_at=NOW - (4 - number % 4) * DAY,
            expires_at=expires_at,
            revoked_at=revoked_at,
        )
        event = KeyEvent(key_id=key.id, at=NOW, action="created", actor=None, details={})
        yield KeyRecord(key, "hash"), event
        twin = replace(key, id=f"{number * 37 % 101 + 500:016}", last_used_at=NOW)
        yield KeyRecord(twin, "hash"), replace(event, key_id=twin.id)


async def pages(keys, *, limit, **filters):
    """All pages, each but the last one full."""
    cursor = None
    found = []
    while True:
        page = await keys.list(**filters, limit=limit, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.items) == limit


async def test_every_combination_of_filters_is_paged_alike(store, secret):
    """In each store the pages hold every key that passes, once, in an order without ties."""
    new = list(records())
    memory = APIKeys(MemoryStore(), prefix="acme", secret=secret, clock=lambda: NOW)
    other = APIKeys(store, prefix="acme", secret=secret, clock=lambda: NOW)
    async with memory, other:
        for keys in (memory, other):
            await keys._store.insert(new)
        for filters in COMBINATIONS:
            expected = (await memory.list(**filters, limit=500)).items
            assert await pages(other, **filters, limit=5) == expected, filters
