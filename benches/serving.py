"""Measures protected routes: in process, over HTTP, under floods, and with many keys.

Peers run in environments of their own, on the same machine, server and kind of database, in
turns. What cannot be had is left out of the report, which says why.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chart
import contenders
import environments
import floods
import growth
import load
import over_http
from contenders import FLOOR, KEY, KEYSHIELD, MIDDLEWARE, OPEN, SCOPED_FLOOR
from native import environment, show_environment

PACKAGES = ["keylatch", "fastapi", "starlette", "uvicorn", "SQLAlchemy", "aiosqlite"]
MOST_SHARE_US = 3
LEAST_OF_OPEN = {KEY: 0.92, MIDDLEWARE: 0.98}
LEAST_OF_KEYSHIELD = 40
MOST_BYTES = 800
MOST_GROWTH = 10 * 1024**2


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Everything, part by part."""
    left_out: dict[str, str] = {}
    ours = contenders.ours(directory)
    if all(each.name != MIDDLEWARE for each in ours):
        left_out[MIDDLEWARE] = "keylatch.asgi has no APIKeyMiddleware"
    peers = [] if options.no_peers else contenders.peers(directory, left_out=left_out)
    if options.wal:
        contenders.use_wal(directory)
    known = {each.name: each for each in [*ours, *peers]}
    packages = PACKAGES + environments.servers()
    turns = {"rounds": options.rounds, "seconds": options.seconds}
    turns["connections"] = options.connections
    quick = options.quick
    server = ["--http=h11", "--loop=asyncio"] if options.plain else []
    report: dict[str, Any] = {
        "environment": environment(packages),
        "peers": {each.name: environments.versions(each.python) for each in peers},
        "left_out": left_out,
        "load": {"generator": load.name(), "server": server, "wal": options.wal, **turns},
    }
    rounds, number = (3, 20) if quick else (31, 200)
    say("in process")
    report["in_process"] = over_http.alone(
        [*known.values()], directory, rounds=rounds, number=number
    )
    report["http"] = {}
    for workers in options.workers:
        say(f"over HTTP, workers: {workers}")
        report["http"][str(workers)] = over_http.race(
            [*known.values()], f"--workers={workers}", *server, **turns
        )
    say("floods")
    count = 1_000 if quick else 100_000
    report["floods"] = {
        "http": floods.over_network(known, *server, count=count, **turns),
        "in_process": floods.in_process(known[KEY], directory, rounds=rounds, number=number),
    }
    say("growth")
    report["growth"] = growth.measure(options.keys, options.bad_tokens)
    report["promises"] = list(promises(report))
    return report


def promises(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Holds what was measured against what was promised."""

    def hold(what: str, value: float, bound: str, limit: float) -> dict[str, Any]:
        met = value <= limit if bound == "at most" else value >= limit
        return {"what": what, "value": value, "bound": bound, "limit": limit, "met": met}

    alone = report["in_process"]
    both = zip(alone[KEY]["rounds_us"], alone[FLOOR]["rounds_us"], strict=True)
    share = statistics.median(key - floor for key, floor in both)
    yield hold("µs over a dependency that does nothing", share, "at most", MOST_SHARE_US)
    both = zip(alone[KEY]["rounds_us"], alone[SCOPED_FLOOR]["rounds_us"], strict=True)
    share = statistics.median(key - floor for key, floor in both)
    yield hold("µs over one that is given as much", share, "at most", MOST_SHARE_US)
    rows = report["http"].get("1", {})
    for name, least in LEAST_OF_OPEN.items():
        if name in rows:
            yield hold(f"{name} ÷ open route, 1 worker", rows[name]["to_open"], "at least", least)
    if KEYSHIELD in rows:
        times = rows[KEY]["per_second"] / rows[KEYSHIELD]["per_second"]
        yield hold(f"keylatch ÷ {KEYSHIELD}", times, "at least", LEAST_OF_KEYSHIELD)
    for name, row in report["floods"]["http"].items():
        if name != OPEN:
            yield hold(f"{name}: answers ÷ open route", row["to_open"], "at least", 1)
            budget = row["lookups_budget"]
            yield hold(f"{name}: lookups in the database", row["lookups"], "at most", budget)
    count, row = max(report["growth"]["keys"].items(), key=lambda item: int(item[0]))
    yield hold(f"bytes a key of {count}", row["bytes_per_key"], "at most", MOST_BYTES)
    bad = report["growth"]["bad_tokens"]
    what = f"bytes that {bad['tokens']:,} bad tokens add"
    yield hold(what, bad["grown"], "at most", MOST_GROWTH)


def show(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    show_environment(report["environment"])
    loaded = report["load"]
    print(
        f"load: {loaded['generator']}, {loaded['connections']} connections,"
        f" {loaded['rounds']} rounds of {loaded['seconds']} s, contenders in turns;"
        f" SQLite with {'a write-ahead log' if loaded['wal'] else 'its default journal'};"
        f" uvicorn {' '.join(loaded['server']) or 'with uvloop and httptools, if installed'}"
    )
    rows = [row for rows in report["http"].values() for row in rows.values()]
    busiest = max((row.get("client_busy", 0) for row in rows), default=0)
    print(f"the generator was busy for {busiest:.0%} of a turn at the most, if it is ours\n")
    print(f"{'in process':36} {'median µs':>10} {'over open':>10}")
    for name, row in report["in_process"].items():
        print(f"{name:36} {row['median_us']:10,.1f} {row['over_open_us']:10,.1f}")
    tables = {f"over HTTP, workers: {workers}": rows for workers, rows in report["http"].items()}
    tables["floods, 1 worker"] = report["floods"]["http"]
    for title, rows in tables.items():
        print(
            f"\n{title:46} {'answers/s':>10} {'to open':>8} {'median ms':>10} {'p99 ms':>8}"
            f" {'refused':>8} {'broken':>7}"
        )
        for name, row in rows.items():
            lookups = f" {row['lookups']:5} lookups" if "lookups" in row else ""
            print(
                f"{name:46} {row['per_second']:10,.0f} {row['to_open']:8.3f}"
                f" {row['median_ms']:10.1f} {row['p99_ms']:8.1f} {row['refused']:8,}"
                f" {row['broken']:7}{lookups}"
            )
    print(f"\n{'floods, in process':36} {'median µs':>10}   answers")
    for name, row in report["floods"]["in_process"].items():
        print(f"{name:36} {row['median_us']:10,.1f}   {row['statuses']}")
    print(f"\n{'keys cached':>12} {'hit ns':>8} {'bytes a key':>12}")
    for row in report["growth"]["keys"].values():
        print(f"{row['cached']:12,} {row['hit_ns']:8,.0f} {row['bytes_per_key']:12,.0f}")
    print()
    for name, reason in report["left_out"].items():
        print(f"left out: {name}: {reason}")
    for each in report["promises"]:
        verdict = "met" if each["met"] else "MISSED"
        print(
            f"{verdict:6} {each['what']}: {each['value']:,.2f},"
            f" {each['bound']} {each['limit']:,.2f}"
        )


def say(what: str) -> None:
    """Tells what goes on, beside the report."""
    print(f"measuring {what}", file=sys.stderr)


def main() -> None:
    """Runs every part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the report here as well")
    parser.add_argument("--chart", type=Path, help="draw the requests a second here, as SVG")
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    parser.add_argument("--no-peers", action="store_true", help="install nothing")
    parser.add_argument("--plain", action="store_true", help="uvicorn with h11 and asyncio")
    parser.add_argument("--wal", action="store_true", help="SQLite with a write-ahead log")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of a turn")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 1_000, 100_000, 1_000_000])
    parser.add_argument("--bad-tokens", type=int, default=1_000_000, help="10000000 is promised")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.connections = 1, 0.1, 4
        options.workers, options.keys, options.bad_tokens = [2], [1, 1_000], 3_000
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
        report = measure(options, Path(directory))
    show(report)
    written = {options.json: json.dumps(report, indent=1, ensure_ascii=False) + "\n"}
    written[options.chart] = chart.draw(report)
    for path, text in written.items():
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
