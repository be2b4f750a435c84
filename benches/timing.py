"""Tries to tell by the clock what must not be told.

Whether a key id is unknown or its secret is wrong, while both are cached and while neither is; and
how much of a tag was right. Takes many times in turns, lets a simple classifier learn from one half
of them, and sees how often it is right about the other half: 50 in 100 is chance. The comparison
of tags is held to a t-test as dudect (Reparaz, Balasch and Verbauwhede, 2017) makes it.
"""

import argparse
import asyncio
import base64
import json
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pure_python

from keylatch import APIKeys, Hasher, SecretRing, Token, mint, parse
from keylatch.errors import InvalidKeyError

AT_MOST = 0.55  # of a classifier's guesses may be right
MOST_T = 5.0
KEYS = 64  # of each kind, so that no place in a cache is taken for a difference
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

Once = Callable[[], Awaitable[int]]


def accuracy(one: Sequence[int], other: Sequence[int]) -> float:
    """How often a threshold that was learnt from the even times is right about the odd ones."""
    learnt = sorted([(each, 1) for each in one[::2]] + [(each, -1) for each in other[::2]])
    ahead = best = threshold = 0
    for place, (took, which) in enumerate(learnt):
        ahead += which
        last = place + 1 == len(learnt) or learnt[place + 1][0] != took
        if last and abs(ahead) > abs(best):
            best, threshold = ahead, took
    faster = 1 if best > 0 else -1
    tried = [(each, 1) for each in one[1::2]] + [(each, -1) for each in other[1::2]]
    right = sum((took <= threshold) == (which == faster) for took, which in tried)
    return right / len(tried)


def t_value(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t of both, without the slowest tenth, which is other programs' work."""
    cut = sorted([*one, *other])[int((len(one) + len(other)) * 0.9)]
    one, other = [each for each in one if each <= cut], [each for each in other if each <= cut]
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.fmean(one) - statistics.fmean(other)) / spread**0.5


async def in_turns(count: int, one: Once, other: Once) -> tuple[list[int], list[int]]:
    """So many times of each, in an order that nobody knows."""
    order = [0] * count + [1] * count
    random.shuffle(order)
    times: tuple[list[int], list[int]] = [], []
    for which in order:
        times[which].append(await (other if which else one)())
    return times


def refusing(keys: APIKeys, tokens: Sequence[Token], *, cold: bool) -> Once:
    """Refuses one of these tokens, and tells the nanoseconds that it took."""
    turns = cycle(tokens)

    async def once() -> int:
        token = next(turns)
        if cold:
            keys._engine.evict(token.key_id)
        began = time.perf_counter_ns()
        try:
            await keys.verify(token)
        except InvalidKeyError:
            return time.perf_counter_ns() - began
        raise AssertionError("it opened")

    return once


def with_another_secret(token: str) -> Token:
    """A token of the same key with a right checksum, as anyone can make it."""
    middle = token[:-13] + ("1" if token[-13] == "0" else "0") + token[-12:-6]
    number = zlib.crc32(middle.encode())
    return parse(middle + "".join(BASE62[number // 62**place % 62] for place in range(5, -1, -1)))


async def refusals(count: int, *, cold: bool) -> dict[str, Any]:
    """Unknown ids beside wrong secrets, in a SQLite database."""
    ring = SecretRing(SecretRing.generate())
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"max_staleness": 7200, "poll_interval": 3600}
        async with APIKeys(
            f"sqlite+aiosqlite:///{directory}/keys.db",
            prefix="acme_live",
            secret=ring,
            unsealed_lookups=1_000_000,
            **options,
        ) as keys:
            made = [
                await keys.create(name="ci", owner="u1", scopes=["items:read"]) for _ in range(KEYS)
            ]
            wrong = [with_another_secret(new.token) for new in made]
            unknown = [with_another_secret(mint("acme_live", ring)) for _ in range(KEYS)]
            keys_of = [refusing(keys, tokens, cold=cold) for tokens in (wrong, unknown)]
            await in_turns(KEYS, *keys_of)
            times = await in_turns(count, *keys_of)
    return {
        "wrong_ns": statistics.median(times[0]),
        "unknown_ns": statistics.median(times[1]),
        "accuracy": accuracy(*times),
        "met": accuracy(*times) <= AT_MOST,
    }


async def comparison(count: int) -> dict[str, Any]:
    """Tokens whose tag begins as the stored one does, beside others: what a guesser would vary."""
    text = SecretRing.generate()
    ring, pure_ring = SecretRing(text), pure_python.SecretRing(text)
    hasher = Hasher(ring)
    stored = hasher.hash(mint("acme_live", ring))
    salt, right = (base64.b64decode(part + "==") for part in stored.split("$")[-2:])

    def tag_of(token: str) -> bytes:
        mac = pure_ring.hashes[pure_ring.active].copy()
        mac.update(salt + token.encode())
        return mac.digest()

    near: list[str] = []
    far: list[str] = []
    while len(near) < KEYS:
        token = mint("acme_live", ring)
        if tag_of(token)[0] == right[0]:
            near.append(token)
        elif len(far) < KEYS:
            far.append(token)
    # Made in turns, and tried by the same code: neither place nor path is to differ.
    pairs = [(parse(one), parse(other)) for one, other in zip(near, far, strict=True)]
    tried = [(secret, [0] * 0) for pair in pairs for secret in pair]
    for secret, taken in random.choices(tried, k=2 * count) + tried * 2:
        began = time.perf_counter_ns()
        opened = hasher.verify(secret, stored)
        took = time.perf_counter_ns() - began
        assert not opened
        taken.append(took)
    # Each token has its place in memory, which tells more than a nanosecond: they are the samples.
    means = [statistics.fmean(sorted(taken)[: len(taken) * 9 // 10 + 1]) for _, taken in tried]
    times = means[::2], means[1::2]
    value = t_value(*times)
    return {
        "near_ns": statistics.median(times[0]),
        "far_ns": statistics.median(times[1]),
        "t": value,
        "met": abs(value) < MOST_T,
    }


async def measure(cached: int, cold: int) -> dict[str, Any]:
    """All of it."""
    return {
        "cached": await refusals(cached, cold=False),
        "cold": await refusals(cold, cold=True),
        "tags": await comparison(cached),
    }


def main() -> None:
    """Measures, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cached", type=int, default=100_000, help="times of each kind")
    parser.add_argument("--cold", type=int, default=100_000, help="times of each kind, uncached")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()
    report = asyncio.run(measure(options.cached, options.cold))
    for name in ("cached", "cold"):
        case = report[name]
        print(
            f"{name:7} wrong secret {case['wrong_ns']:>9,.0f} ns   unknown id "
            f"{case['unknown_ns']:>9,.0f} ns   told apart {case['accuracy']:.1%} of the time   "
            f"{'met' if case['met'] else 'missed'}"
        )
    tags = report["tags"]
    print(
        f"tags    begin alike {tags['near_ns']:>6,.0f} ns   do not {tags['far_ns']:>11,.0f} ns"
        f"   t = {tags['t']:+.1f}   {'met' if tags['met'] else 'missed'}"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
