"""How many requests each contender answers over HTTP, and in how much time in process.

Contenders take turns, so that a slow minute is everybody's. Knows contenders and the two programs
that load them.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contenders import HERE, OPEN, OPEN_CASE, SLOW, Contender, Server, environment_of


@contextmanager
def serving(contenders: list[Contender], *options: str) -> Iterator[None]:
    """Has a server up for each of them, with options of uvicorn."""
    servers: dict[Any, Server] = {}
    try:
        for contender in contenders:
            if contender.process not in servers:
                servers[contender.process] = Server(contender, *options)
            contender.server = servers[contender.process]
            if contender.server.ask(contender.path, contender.token) is None:
                sys.exit(f"{contender.name} refuses its own key")
        yield
    finally:
        for server in servers.values():
            server.close()


def load(
    contender: Contender, tokens: list[str], *, seconds: float, connections: int
) -> dict[str, float]:
    """One turn of a contender, whose server is up. It is at rest afterwards."""
    if contender.server is None:
        raise ValueError(contender.name)
    with tempfile.NamedTemporaryFile("w") as lines:
        lines.write("\n".join(tokens))
        lines.flush()
        command = [sys.executable, HERE / "load.py", str(contender.server.port), contender.path]
        command += ["--tokens", lines.name, f"--seconds={seconds}", f"--connections={connections}"]
        counts = json.loads(subprocess.check_output(command, text=True))
    contender.server.settle()
    return counts


def race(
    contenders: list[Contender],
    *options: str,
    rounds: int,
    seconds: float,
    connections: int,
) -> dict[str, dict[str, float]]:
    """Requests a second of each, and their ratio to the open route round by round."""
    turns: dict[str, list[dict[str, float]]] = {each.name: [] for each in contenders}
    with serving(contenders, *options):
        order = [each for each in contenders if each.name not in SLOW]
        for each in order:  # a first turn that does not count
            load(each, [each.token], seconds=min(0.5, seconds), connections=connections)
        for _ in range(rounds):
            for each in order:
                counts = load(each, [each.token], seconds=seconds, connections=connections)
                turns[each.name].append(counts)
            order.append(order.pop(0))
        for each in contenders:
            if each.name in SLOW:
                long = {"seconds": seconds * rounds, "connections": max(1, connections // 8)}
                turns[each.name].append(load(each, [each.token], **long) | long)
    return {name: summary(found, turns[OPEN]) for name, found in turns.items()}


def summary(turns: list[dict[str, float]], open_turns: list[dict[str, float]]) -> dict[str, float]:
    """Sums up the turns of one contender."""
    row = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    both = zip(turns, open_turns, strict=False)  # a slow one has one turn
    ratios = [turn["per_second"] / (other["per_second"] or 1) for turn, other in both]
    row |= {name: sum(turn[name] for turn in turns) for name in ("passed", "refused", "broken")}
    return row | {"to_open": statistics.median(ratios), "to_open_least": min(ratios)}


def in_process(
    cases: dict[str, str], contender: Contender, *, rounds: int, number: int
) -> dict[str, dict[str, Any]]:
    """Nanoseconds of each round in one process, and the answers, by name.

    Args:
        cases: As driver.py takes them, by name.
        contender: Whose process it is.
        rounds: How many.
        number: Of requests in a turn.
    """
    command = [contender.python, HERE / "driver.py", *cases.values(), f"--rounds={rounds}"]
    command += [f"--number={number}", *([] if contender.lifespan else ["--no-lifespan"])]
    environment = environment_of(contender) | {"PYTHONPATH": f"{HERE}:{HERE / 'peers'}"}
    printed = subprocess.check_output(command, text=True, env=environment)
    found = json.loads(printed.splitlines()[-1])
    return {name: found[case] for name, case in cases.items()}


def alone(
    contenders: list[Contender], directory: Path, *, rounds: int, number: int
) -> dict[str, dict[str, Any]]:
    """Microseconds of each in process, and of an open route in the same process."""
    groups: dict[Any, list[Contender]] = {}
    for each in contenders:
        # Ours take turns in one process, but for what is not started.
        key = each.lifespan if each.app.startswith("apps:") else each.process
        groups.setdefault(key, []).append(each)
    rows: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        ours = group[0].app.startswith("apps:")
        cases = {"": OPEN_CASE if ours else f"{group[0].app}/open"}
        for each in group:
            lines = directory / f"{len(rows)}-{len(cases)}.tokens"
            lines.write_text(each.token)
            cases[each.name] = f"{each.app}{each.path}={lines}"
        slow = group[0].name in SLOW
        few = 2 if slow else number if ours else max(1, number // 5)
        times = in_process(cases, group[0], rounds=3 if slow else rounds, number=few)
        for each in group:
            if set(times[each.name]["statuses"]) != {"200"}:
                sys.exit(f"{each.name} refuses its own key in process")
            both = list(zip(times[each.name]["ns"], times[""]["ns"], strict=True))
            rows[each.name] = {
                "median_us": statistics.median(ns for ns, _ in both) / 1e3,
                "over_open_us": statistics.median(ns - other for ns, other in both) / 1e3,
                "rounds_us": [ns / 1e3 for ns, _ in both],
            }
    return rows
