"""Measures how long the event loop is kept from other work while many tokens are stretched.

As many cold Argon2id verifications as are asked for begin at once; meanwhile a task asks to be
woken every millisecond, and notes how late that was.
"""

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from native import environment, show_environment

from keylatch import APIKey, APIKeys, Hasher, SecretRing, Token
from keylatch.memory import MemoryStore
from keylatch.records import KeyEvent, KeyRecord

AT_MOST_MS = 20
BEAT = 0.001  # seconds


async def filled(count: int, ring: SecretRing, **cost: int) -> tuple[MemoryStore, list[Token]]:
    """A store with so many keys whose hashes are slow, and their tokens."""
    store, hasher = MemoryStore(), Hasher(ring, scheme="argon2id", **cost)
    tokens, now = [], datetime.now(UTC)
    for _ in range(count):
        token = Token.mint("acme", ring)
        key = APIKey(
            id=token.key_id,
            prefix="acme",
            name="ci",
            owner=None,
            scopes=frozenset(),
            metadata={},
            created_at=now,
        )
        event = KeyEvent(key_id=key.id, at=now, action="created", actor=None, details={})
        await store.insert([(KeyRecord(key, hasher.hash(token)), event)])
        tokens.append(token)
    return store, tokens


async def measure(count: int, **cost: int) -> dict[str, Any]:
    """The worst delay, in milliseconds, of an idle loop and of a busy one."""
    ring = SecretRing(SecretRing.generate())
    store, tokens = await filled(count, ring, **cost)
    delays: list[float] = []

    async def beat() -> None:
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(BEAT)
            delays.append((time.perf_counter() - asked - BEAT) * 1e3)

    async with APIKeys(store, prefix="acme", secret=ring) as keys:
        heart = asyncio.create_task(beat())
        await asyncio.sleep(0.5)
        idle = max(delays)
        delays.clear()
        began = time.perf_counter()
        # One after the other, as requests come in: to begin them all takes the loop's own time.
        verifying = []
        for token in tokens:
            verifying.append(asyncio.create_task(keys.verify(token)))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*verifying, return_exceptions=True)
        took = time.perf_counter() - began
        heart.cancel()
    opened = sum(isinstance(each, APIKey) for each in outcomes)
    delays.sort()
    return {
        "count": count,
        "opened": opened,
        "no_telling": count - opened,
        "took_s": took,
        "idle_worst_ms": idle,
        "p99_ms": delays[int(len(delays) * 0.99)],
        "worst_ms": delays[-1],
        "met": delays[-1] < AT_MOST_MS,
    }


def main() -> None:
    """Measures, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="of verifications at once")
    parser.add_argument("--cheap", action="store_true", help="Argon2id at its least cost")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()
    cost = {"memory_kib": 7168, "iterations": 1} if options.cheap else {}
    report = {"environment": environment(["keylatch"])}
    report |= asyncio.run(measure(options.count, **cost))
    show_environment(report["environment"])
    print(
        f"{report['count']} cold Argon2id verifications at once: {report['opened']} opened in "
        f"{report['took_s']:.2f} s, {report['no_telling']} waited too long. The event loop was "
        f"late by {report['worst_ms']:.1f} ms at worst ({report['p99_ms']:.1f} at the 99th "
        f"percentile; {report['idle_worst_ms']:.1f} when idle): at most {AT_MOST_MS} ms, "
        f"{'met' if report['met'] else 'missed'}"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
