"""Measures making many keys at once beside a plain insert of the same rows with SQLAlchemy Core.

Both write into tables of the same indexes, on the same engine, one after the other in turns. The
event loop is watched meanwhile, and how long it was kept from other work.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import filled
import native
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keylatch import APIKeys, KeyRequest, SecretRing
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore
from keylatch.tables import api_key_events, api_keys

BEAT = 0.001  # seconds
PACKAGES = ["keylatch", "SQLAlchemy", "aiosqlite", "asyncpg", "psycopg", "asyncmy", "PyMySQL"]
OURS, BOTH, ALONE = "create_many", "Core insert, both tables", "Core insert, keys alone"


def requests(count: int) -> list[KeyRequest]:
    """Keys as a customer's import has them."""
    return [
        KeyRequest(
            name=f"key {number}",
            owner=f"owner {number % 1000}",
            scopes=["items:read", "items:write"],
            expires_in=timedelta(days=365),
            metadata={"team": f"team {number % 20}"},
        )
        for number in range(count)
    ]


async def watched(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """What it took.

    Returns:
        Seconds; seconds of the processor in this process; and for how many milliseconds at most the
        event loop was kept from other work, and how many of these it was computing, whereas others
        had the processor or the GIL in the rest.
    """
    held = computing = 0.0

    async def beat() -> None:
        nonlocal held, computing
        while True:
            asked, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT)
            held = max(held, time.perf_counter() - asked - BEAT)
            computing = max(computing, time.thread_time() - used)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.1)
    held = computing = 0.0
    start, used = time.perf_counter(), time.process_time()
    await work()
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    await asyncio.sleep(2 * BEAT)
    heart.cancel()
    return {
        "seconds": seconds,
        "processor_s": processor,
        "held_ms": held * 1e3,
        "computing_ms": computing * 1e3,
    }


def rows_of(connection: sa.Connection) -> list[list[dict[str, Any]]]:
    """What create_many has written, as Core takes it."""
    tables = (api_keys, api_key_events)
    read = [connection.execute(sa.select(table)).mappings().all() for table in tables]
    return [[dict(row) for row in rows] for rows in read]


def empty(connection: sa.Connection) -> None:
    """Makes room for the next one."""
    for table in (api_key_events, api_keys):
        connection.execute(sa.delete(table))


def alone(connection: sa.Connection, rows: list[list[dict[str, Any]]]) -> None:
    """Writes the keys and not their events."""
    connection.execute(sa.insert(api_keys), rows[0])


def both(connection: sa.Connection, rows: list[list[dict[str, Any]]]) -> None:
    """Writes what create_many writes."""
    alone(connection, rows)
    connection.execute(sa.insert(api_key_events), rows[1])


class Core:
    """An engine of an application, used in one transaction after the other."""

    def __init__(self, url: str) -> None:
        asynchronous = sa.make_url(url).get_dialect().is_async
        self._engine = (create_async_engine if asynchronous else sa.create_engine)(url)

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Does something with a connection, and commits it."""
        if isinstance(self._engine, AsyncEngine):
            async with self._engine.begin() as connection:
                return await connection.run_sync(work, *arguments)
        return await asyncio.to_thread(self._in_thread, work, *arguments)

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with self._engine.begin() as connection:
            return work(connection, *arguments)

    async def dispose(self) -> None:
        """Closes its connections."""
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()


async def measure(table: filled.Table, engine_name: str, rounds: int) -> dict[str, Any]:
    """Runs all of them in turns, and keeps of each its best round."""
    url = table.url(engine_name)
    core, wanted = Core(url), requests(table.count)
    best: dict[str, dict[str, float]] = {}

    def note(name: str, row: dict[str, float]) -> None:
        if name not in best or row["seconds"] < best[name]["seconds"]:
            best[name] = row

    async with APIKeys(
        SQLAlchemyStore(url), prefix="acme_live", secret=SecretRing.generate()
    ) as keys:
        for _ in range(rounds):
            note(OURS, await watched(lambda: keys.create_many(wanted, actor="import")))
            rows = await core.run(rows_of)
            assert len(rows[0]) == len(rows[1]) == table.count
            for name, work in ((BOTH, both), (ALONE, alone)):
                await core.run(empty)
                note(name, await watched(lambda work=work, rows=rows: core.run(work, rows)))
            await core.run(empty)
    await core.dispose()
    return {
        name: row
        | {
            "keys_per_s": table.count / row["seconds"],
            "of_core": row["seconds"] / best[BOTH]["seconds"],
        }
        for name, row in best.items()
    }


async def without_database(count: int) -> float:
    """Seconds of the processor to check, mint and hash alone."""

    class Nowhere(MemoryStore):
        async def insert(self, new: object, **_: object) -> None:
            """Keeps nothing."""

    wanted = requests(count)
    async with APIKeys(Nowhere(), prefix="acme_live", secret=SecretRing.generate()) as keys:
        return (await watched(lambda: keys.create_many(wanted)))["processor_s"]


def show(engine_name: str, count: int, cases: dict[str, dict[str, float]]) -> None:
    """Prints what an engine takes as a table."""
    print(f"\n{engine_name}, {count:,} keys")
    print(f"{'':26}      took  processor     keys/s  of Core   event loop held, by computing")
    for name, row in cases.items():
        print(
            f"{name:26} {row['seconds']:7.2f} s {row['processor_s']:8.2f} s "
            f"{row['keys_per_s']:10,.0f} {row['of_core']:8.2f} {row['held_ms']:15.0f} ms "
            f"{row['computing_ms']:9.0f} ms"
        )
    sys.stdout.flush()


def main() -> None:
    """Measures on each engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=filled.ENGINES,
        default=list(filled.ENGINES),
        metavar="ENGINE",
        help="of " + ", ".join(filled.ENGINES),
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()

    report: dict[str, Any] = {
        "environment": native.environment(PACKAGES),
        "keys": options.keys,
        "load": os.getloadavg()[0],
        "minting_s": asyncio.run(without_database(options.keys)),
        "engines": {},
    }
    native.show_environment(report["environment"])
    print(f"to check, mint and hash alone: {report['minting_s']:.2f} s of the processor")
    for name in options.engines:
        kind = name.partition("-")[0]
        with filled.tables(kind, [options.keys]) as (table,):
            filled.metadata.create_all(
                sa.create_engine(table.url(f"{kind}-sync"), poolclass=sa.NullPool)
            )
            cases = asyncio.run(measure(table, name, options.rounds))
        show(name, options.keys, cases)
        report["engines"][name] = cases
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
