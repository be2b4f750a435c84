"""Calls ASGI applications in process, and times the calls. Knows nothing of what it calls.

Runs in any environment: `python driver.py CASE...`, where a case is `module:app/path`, and with
`=file` behind it takes its bearer tokens from the lines of that file, one after another.
"""

import argparse
import asyncio
import importlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# What `httpx` sends, beside the credential.
HEADERS = [
    (b"host", b"api.example.com"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"python-httpx/0.28.1"),
]


class Case:
    """One route, and what is sent to it."""

    def __init__(self, text: str) -> None:
        target, _, tokens = text.partition("=")
        target, _, path = target.partition("/")
        module, _, name = target.partition(":")
        self.app = getattr(importlib.import_module(module), name)
        self.headers = itertools.cycle(headers_of(tokens))
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": f"/{path}",
            "raw_path": f"/{path}".encode(),
            "query_string": b"",
        }
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []

    async def receive(self) -> dict[str, Any]:
        """An empty body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """Counts answers."""
        if message["type"] == "http.response.start":
            self.statuses[message["status"]] += 1

    async def turn(self, state: dict[str, Any], number: int) -> None:
        """Times that many requests."""
        app, receive, send = self.app, self.receive, self.send
        scopes = [
            {**self.scope, "headers": list(next(self.headers)), "state": state.copy()}
            for _ in range(number)
        ]
        start = time.perf_counter_ns()
        for scope in scopes:
            await app(scope, receive, send)
        self.times.append((time.perf_counter_ns() - start) / number)


def headers_of(tokens: str) -> Iterator[list[tuple[bytes, bytes]]]:
    """With each token, or without any."""
    if not tokens:
        return iter([HEADERS])
    lines = Path(tokens).read_text().splitlines()
    return iter([[*HEADERS, (b"authorization", b"Bearer " + line.encode())] for line in lines])


@asynccontextmanager
async def lifespan(app: Any):
    """The life of an application, as a server leads it."""
    state: dict[str, Any] = {}
    sent: asyncio.Queue[str] = asyncio.Queue()
    events: asyncio.Queue[str] = asyncio.Queue()

    async def receive():
        return {"type": await events.get()}

    async def send(message):
        sent.put_nowait(message["type"])

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    task = asyncio.create_task(app(scope, receive, send))
    for event in ("startup", "shutdown"):
        events.put_nowait(f"lifespan.{event}")
        if await sent.get() != f"lifespan.{event}.complete":
            sys.exit(f"the application fails at {event}")
        if event == "startup":
            yield state
    await task


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Has the cases take turns."""
    cases = {text: Case(text) for text in options.cases}
    turns = [(case, options.number) for case in cases.values()]

    async def rounds(state: dict[str, Any]) -> None:
        for case in cases.values():
            await case.turn(state, 3)
            case.times.clear()
        for _ in range(options.rounds):
            for case, number in turns:
                await case.turn(state, number)
                await asyncio.sleep(0)  # for what the applications do besides
            turns.append(turns.pop(0))

    if options.no_lifespan:
        await rounds({})
    else:
        async with lifespan(next(iter(cases.values())).app) as state:
            await rounds(state)
    return {text: {"ns": case.times, "statuses": case.statuses} for text, case in cases.items()}


def main() -> None:
    """Prints the nanoseconds of each round, and the answers, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--number", type=int, default=200, help="of requests in a turn")
    parser.add_argument("--no-lifespan", action="store_true")
    options = parser.parse_args()
    report = asyncio.run(run(options))
    print(json.dumps(report))  # behind whatever the applications print


if __name__ == "__main__":
    main()
