"""How the time of a hit and the memory of the process grow with keys, and with bad tokens.

`python growth.py COUNT` fills a cache in a process of its own; `growth.measure` starts those.
Knows the native core and how rows get into it.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from timeit import Timer
from typing import Any

import floods
import hot

from keylatch import APIKey, APIKeys, Hasher, SecretRing, mint, parse
from keylatch._native import Engine, TokenHeaders
from keylatch.errors import AuthenticationError, UnavailableError
from keylatch.loading import Loader
from keylatch.memory import MemoryStore
from keylatch.records import KeyRecord

PREFIX = "acme_live"
SCOPES = [frozenset({f"area{number}:read", "items:read"}) for number in range(8)]
# Hits are of so many keys in turn, out of all parts of the cache.
SAMPLE = 1_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that the process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def typical(number: int, key_id: str) -> APIKey:
    """A key as tables have it: each has a name, an owner and an expiry of its own."""
    now = datetime.now(UTC)
    return APIKey(
        id=key_id,
        prefix=PREFIX,
        name=f"service {number}",
        owner=f"user-{number}",
        scopes=SCOPES[number % len(SCOPES)],
        metadata={},
        created_at=now,
        expires_at=now + timedelta(days=90, seconds=number),
    )


def filled(count: int) -> dict[str, float]:
    """Fills a cache as loading does, and measures hits."""
    ring = SecretRing(SecretRing.generate())
    hasher = Hasher(ring)
    engine = Engine(
        ring, prefixes=[PREFIX], capacity=count, max_staleness=3_600_000_000, unsealed_lookups=50
    )
    engine.heard(engine.ticks())
    loader = Loader(engine, MemoryStore(), ring, lambda: datetime.now(UTC))
    sample = []
    before = resident()
    for number in range(count):
        token = mint(PREFIX, ring)
        key_id = parse(token).key_id
        record = KeyRecord(typical(number, key_id), hasher.hash(token))
        loader._row(key_id, engine.epoch(key_id), record, keep=True)
        if number % max(1, count // SAMPLE) == 0:
            sample.append(token)
    grown = resident() - before
    names: dict[str, Any] = {
        "check": engine.check,
        "required": frozenset({"items:read"}),
        "sources": TokenHeaders(bearer=True, names=["X-API-Key"]),
    }
    # As in a server, most of a request's headers were just in use.
    *same, _ = hot.request_headers("")
    requests = [[*same, hot.request_headers(token)[-1]] for token in sample]
    kept = [each for each in requests if isinstance(_hit(names, each), APIKey)]
    names["requests"] = itertools.cycle(kept)
    loop = Timer("check(sources, next(requests), required, None)", globals=names)
    bare = Timer("next(requests)", globals=names)
    times = [(loop.timeit(20_000), bare.timeit(20_000)) for _ in range(15)]
    return {
        "cached": engine.counts()["cached"],
        "bytes_per_key": grown / engine.counts()["cached"],
        "hit_ns": statistics.median(hit - empty for hit, empty in times) / 20_000 * 1e9,
    }


def _hit(names: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> object:
    return names["check"](names["sources"], headers, names["required"], None)


async def flooded(count: int) -> dict[str, float]:
    """Has a started collection refuse that many different tokens of each kind in turn."""
    keys = APIKeys(MemoryStore(), prefix=PREFIX, secret=SecretRing.generate())
    sources = TokenHeaders(bearer=True, names=["X-API-Key"])
    refused, before = 0, 0
    async with keys:
        new = await keys.create(name="ci", owner="u1", scopes=["items:read"])
        portion = min(30_000, max(3, count // 4))
        # The first portion is what any load makes of a process; it stands in the base.
        for number in range(0, count + portion, portion):
            if number == portion:
                before = resident()
                start = time.perf_counter()
            for token in _bad(portion, new.token):
                headers = [*hot.request_headers(token)]
                try:
                    await keys.authenticate(headers, sources=sources)
                except (AuthenticationError, UnavailableError):
                    refused += 1
            await asyncio.sleep(0.001)  # for the feed
        seconds = time.perf_counter() - start
        grown = resident() - before
        cached = keys.health().cached_keys
    return {"tokens": refused, "grown": grown, "cached": cached, "seconds": seconds}


def _bad(count: int, token: str) -> list[str]:
    third = count // 3
    kinds = [floods.tokens_of(kind, third, token) for kind in (floods.FORGED, floods.JUNK)]
    # A quick form of the third kind: a flood of ten millions is to be over some day.
    wrong = [f"{token[:-12]}{secrets.token_hex(3)}" for _ in range(third)]
    return [*itertools.chain(*kinds), *map(floods._summed, wrong)]


def measure(counts: list[int], bad: int) -> dict[str, Any]:
    """Each of it in a process of its own, so that none has what another one left."""

    def started(*arguments: str) -> dict[str, float]:
        command = [sys.executable, __file__, *arguments]
        return json.loads(subprocess.check_output(command, text=True))

    return {
        "keys": {str(count): started(str(count)) for count in counts},
        "bad_tokens": started(str(bad), "--bad"),
    }


def main() -> None:
    """Measures one of them, and prints it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--bad", action="store_true", help="bad tokens in place of keys")
    options = parser.parse_args()
    if options.bad:
        print(json.dumps(asyncio.run(flooded(options.count))))
    else:
        print(json.dumps(filled(options.count)))


if __name__ == "__main__":
    main()
