"""Measures verifying, reading, polling and listing with a million keys beside a thousand.

The two tables take turns, call after call, since the speed of a shared machine changes from second
to second. Servers are found where the tests find theirs; what is made there is dropped at the end.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sized
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import filled
import mixture
import native

from keylatch import APIKeys, SecretRing, parse
from keylatch.listing import KeyFilter
from keylatch.sqlalchemy import SQLAlchemyStore

SMALL = 1_000
OWNER, BIG_OWNER = {"owner": mixture.STEADY_OWNER}, {"owner": mixture.BIG_OWNER}
PREFIX, OLD_PREFIX = {"prefix": "acme_live"}, {"prefix": mixture.OLD_PREFIX}
STATUSES = {status: {"status": status} for status in ("active", "expired", "revoked")}
EXPIRING = {"expiring_before": mixture.NOW + timedelta(days=30)}
SCOPE = {"scope": mixture.COMMON_SCOPE}
# A page of these takes about as long on the big table as on the small one.
INDEXED: dict[str, dict[str, Any]] = {
    "owner of 120 keys": OWNER,
    "owner of a tenth": BIG_OWNER,
    "prefix of most": PREFIX,
    "prefix of a tenth": {"prefix": "acme_ops"},
    "prefix given up": OLD_PREFIX,
    **STATUSES,
    "expiring_before": EXPIRING,
}
# Of these nothing is promised.
OTHERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "expiring_before, active": EXPIRING | STATUSES["active"],
    **{f"owner of 120 keys, {name}": OWNER | status for name, status in STATUSES.items()},
    **{f"owner of a tenth, {name}": BIG_OWNER | status for name, status in STATUSES.items()},
    **{f"prefix of most, {name}": PREFIX | status for name, status in STATUSES.items()},
    **{f"prefix given up, {name}": OLD_PREFIX | status for name, status in STATUSES.items()},
    "scope of half": SCOPE,
    "scope of a hundredth": {"scope": mixture.RARE_SCOPE},
    "owner of 120 keys, scope": OWNER | SCOPE,
    "owner of a tenth, scope": BIG_OWNER | SCOPE,
    "name": {"name": "key 500"},
    "unused_since": {"unused_since": mixture.NOW - timedelta(days=180)},
}
# How many times as long as on the small table a call may take on the big one.
AT_MOST = 2
POLLED = 500
LATEST = 100
WARM_UP = 3
# Microseconds that a case may take in all on the big table.
PATIENCE = 10e6
PACKAGES = ["keylatch", "SQLAlchemy", "aiosqlite", "asyncpg", "psycopg", "asyncmy", "PyMySQL"]

Call = Callable[[], Awaitable[Sized]]


def calls(table: filled.Table, keys: APIKeys) -> dict[str, Call]:
    """What is measured on a table, by name."""
    store: Any = keys._store
    active = [(token, key) for token, key in table.sample if key.status(keys._now()) == "active"]
    tokens = cycle([token for token, _ in active])
    ids = cycle([key.id for _, key in reversed(active)])  # none that was just verified

    async def verify() -> Sized:
        token = next(tokens)
        keys._engine.evict(parse(token).key_id)  # what is cached tells nothing of a table
        return [await keys.verify(token)]

    async def get() -> Sized:
        return [await keys.get(next(ids))]

    def changes(after: int) -> Call:
        return lambda: store.changes(after=after, missing=(), limit=POLLED)

    def listed(filters: dict[str, Any], cursor: str | None) -> Call:
        async def page() -> Sized:
            return (await keys.list(**filters, cursor=cursor)).items

        return page

    made: dict[str, Call] = {
        "verify": verify,
        "get": get,
        "changes: the latest": changes(table.count - LATEST),
        "changes: from the middle": changes(table.count // 2),
    }
    for name, filters in (INDEXED | OTHERS).items():
        made[f"list: {name}"] = listed(filters, None)
        middle = table.middle(KeyFilter(now=mixture.NOW, **filters))
        if middle is not None:
            made[f"list: {name}, deep"] = listed(filters, middle)
    return made


@dataclass
class Case:
    """A call on the small and on the big table, and how long it took each time."""

    both: list[Call]
    times: list[list[float]] = field(default_factory=lambda: [[], []])
    items: list[int] = field(default_factory=lambda: [0, 0])

    async def turn(self) -> None:
        """Calls once on each table, on the one and on the other first."""
        order = [0, 1] if len(self.times[0]) % 2 else [1, 0]
        for which in order:
            start = time.perf_counter_ns()
            found = await self.both[which]()
            self.times[which].append((time.perf_counter_ns() - start) / 1e3)
            self.items[which] = len(found)

    def slow(self) -> bool:
        """Whether it has taken its share of the time."""
        return sum(self.times[1]) > PATIENCE

    def summary(self) -> dict[str, float]:
        """In microseconds. The first calls, which found nothing in a cache, stand apart."""
        warm = slice(WARM_UP if len(self.times[0]) > 2 * WARM_UP else 0, None)
        small, big = (statistics.median(each[warm]) for each in self.times)
        return {
            "small_us": small,
            "big_us": big,
            "ratio": big / small,
            "small_items": self.items[0],
            "big_items": self.items[1],
            "first_small_us": self.times[0][0],
            "first_big_us": self.times[1][0],
        }


async def measure(
    engine_name: str, both: list[filled.Table], ring: SecretRing, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Runs all cases on an engine, round after round, so that a slow minute is of all of them.

    Those that nothing is promised of come last: some read so much that no cache is left to others.
    """
    opened = []
    for table in both:
        store = SQLAlchemyStore(table.url(engine_name), deadline=600)
        prefixes = [*mixture.PREFIXES, mixture.OLD_PREFIX]
        keys = APIKeys(store, prefix=prefixes, secret=ring, clock=lambda: mixture.NOW)
        opened.append(await keys.__aenter__())
    small, big = (calls(table, keys) for table, keys in zip(both, opened, strict=True))
    cases = {name: Case([small[name], big[name]]) for name in small if name in big}
    for group in (True, False):
        for _ in range(rounds):
            for name, case in cases.items():
                if promised(name) == group and not case.slow():
                    await case.turn()
    for keys in opened:
        await keys.__aexit__(None, None, None)
    return {name: case.summary() for name, case in cases.items()}


def promised(case: str) -> bool:
    """Whether a case has to take about as long on the big table as on the small one."""
    name = case.removeprefix("list: ").removesuffix(", deep")
    return name in INDEXED or name in ("verify", "get") or name.startswith("changes")


def show(engine_name: str, cases: dict[str, dict[str, float]], keys: int) -> None:
    """Prints the cases of an engine as a table."""
    print(f"\n{engine_name:37} {SMALL:>9,} keys {keys:>11,} keys   ratio   items")
    for case, row in cases.items():
        verdict = ("met" if row["ratio"] <= AT_MOST else "MISSED") if promised(case) else ""
        print(
            f"{case:37} {row['small_us']:11,.0f} µs {row['big_us']:13,.0f} µs {row['ratio']:7.2f}"
            f"   {row['small_items']:3}, {row['big_items']:3}   {verdict}".rstrip()
        )


def main() -> None:
    """Fills the tables of each kind of database, and measures on each engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000, help="in the big table")
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=filled.ENGINES,
        default=[name for name in filled.ENGINES if name.endswith("async")],
        metavar="ENGINE",
        help="of " + ", ".join(filled.ENGINES),
    )
    for kind, server in filled.KINDS.items():
        help_ = f"{server.title}, otherwise {server.variable} or {server.default}"
        parser.add_argument(f"--{kind}", metavar="URL", help=help_)
    parser.add_argument("--rounds", type=int, default=101, help="calls of each case and table")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()
    for kind, server in filled.KINDS.items():
        if getattr(options, kind):
            os.environ[server.variable] = getattr(options, kind)

    ring = SecretRing(SecretRing.generate())
    report: dict[str, Any] = {
        "environment": native.environment(PACKAGES),
        "keys": {"small": SMALL, "big": options.keys},
        "databases": {},
        "engines": {},
    }
    native.show_environment(report["environment"])
    for kind in dict.fromkeys(name.partition("-")[0] for name in options.engines):
        with filled.tables(kind, [SMALL, options.keys]) as both:
            start = time.perf_counter()
            for table in both:
                asyncio.run(table.fill(ring))
            seconds = time.perf_counter() - start
            facts = {"version": both[1].ask("version"), "cache": both[1].ask("cache")}
            print(f"\n{kind} {facts['version']}, cache {facts['cache']}: filled in {seconds:.0f} s")
            sys.stdout.flush()
            report["databases"][kind] = facts | {"filled_s": seconds}
            for name in options.engines:
                if name.startswith(kind):
                    cases = asyncio.run(measure(name, both, ring, rounds=options.rounds))
                    show(name, cases, options.keys)
                    report["engines"][name] = cases
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
