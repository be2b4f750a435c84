"""Loads a server over HTTP: with wrk if it is installed, otherwise with what stands here.

Each connection sends its next request when it has its answer. Knows nothing of what is served.
"""

import argparse
import asyncio
import importlib
import itertools
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# How long answers are waited for once nothing more is sent.
PATIENCE = 20.0
# Sends the lines of a file as bearer tokens, one after another.
LUA = """
local requests, n = {}, 0
init = function(args)
  for line in io.lines(args[1]) do
    local headers = {}
    if line ~= "" then headers["Authorization"] = "Bearer " .. line end
    requests[#requests + 1] = wrk.format("GET", nil, headers)
  end
end
request = function()
  n = n % #requests + 1
  return requests[n]
end
"""
UNITS = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}


def name() -> str:
    """Which generator it is."""
    if not shutil.which("wrk"):
        return "benches/load.py: asyncio, one process"
    said = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout
    return said.splitlines()[0].partition(" Copyright")[0]


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.answer = b""

    def connection_made(self, transport: Any) -> None:
        """Sends the first request."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Sends a request, unless the time is over."""
        self.sent = time.perf_counter()
        if self.sent >= self.load.end:
            self.transport.close()
        else:
            self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        """Takes an answer, whose length its header says."""
        answer = self.answer = self.answer + data
        head = answer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = answer.lower().find(b"content-length:", 0, head)
        if len(answer) < head + 4 + int(answer[at + 15 : answer.find(b"\r", at)]):
            return
        self.answer = b""
        now = time.perf_counter()
        if now < self.load.end:
            self.load.took.append(now - self.sent)
            self.load.passed += answer[9:10] == b"2"
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Is one less to wait for."""
        self.load.broken += bool(self.answer) or time.perf_counter() < self.load.end
        self.load.open -= 1
        if not self.load.open:
            self.load.done.set()


class Load:
    """All connections, and what they count."""

    def __init__(self, requests: Iterator[bytes], connections: int) -> None:
        self.requests = requests
        self.open = connections
        self.took: list[float] = []
        self.passed = self.broken = 0
        self.end = 0.0
        self.done = asyncio.Event()

    async def run(self, port: int, seconds: float) -> dict[str, float]:
        """Loads for that long."""
        loop = asyncio.get_running_loop()
        self.end = time.perf_counter() + seconds
        busy = time.process_time()
        for _ in range(self.open):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
        try:
            await asyncio.wait_for(self.done.wait(), seconds + PATIENCE)
        except TimeoutError:
            self.broken += self.open
        busy = time.process_time() - busy
        took = sorted(self.took) or [seconds]
        return {
            "per_second": len(self.took) / seconds,
            "passed": self.passed,
            "refused": len(self.took) - self.passed,
            "broken": self.broken,
            "median_ms": statistics.median(took) * 1e3,
            "p99_ms": took[int(len(took) * 0.99)] * 1e3,
            "client_busy": busy / seconds,
        }


def ours(port: int, path: str, tokens: list[str], options: argparse.Namespace) -> dict[str, float]:
    """With what stands here."""
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n"
        f"{f'Authorization: Bearer {token}' + chr(13) + chr(10) if token else ''}\r\n".encode()
        for token in tokens
    ]

    async def load() -> dict[str, float]:
        return await Load(itertools.cycle(requests), options.connections).run(port, options.seconds)

    try:
        run = importlib.import_module("uvloop").run
    except ImportError:
        run = asyncio.run
    return run(load())


def wrk(port: int, path: str, tokens: list[str], options: argparse.Namespace) -> dict[str, float]:
    """With wrk, in one thread."""
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
        script, lines = Path(directory, "script.lua"), Path(directory, "tokens")
        script.write_text(LUA)
        lines.write_text("".join(f"{token}\n" for token in tokens))
        command = ["wrk", "-t1", f"-c{options.connections}", f"-d{max(1, round(options.seconds))}s"]
        command += ["--timeout", "20s", "--latency", "-s", script]
        command += [f"http://127.0.0.1:{port}{path}", "--", lines]
        said = subprocess.check_output(command, text=True)

    def number(pattern: str) -> float:
        found = re.search(pattern + r"\s*([\d.]+)(us|ms|s|m)?", said)
        return float(found[1]) * UNITS.get(found[2], 1) if found else 0.0

    answers = int(number(r"\n *(?=\d+ requests in)"))
    broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = int(number("Non-2xx or 3xx responses:"))
    return {
        "per_second": number("Requests/sec:"),
        "passed": answers - refused,
        "refused": refused,
        "broken": sum(map(int, broken.groups())) if broken else 0,
        "median_ms": number(r"\n +50%"),
        "p99_ms": number(r"\n +99%"),
    }


def main() -> None:
    """Loads a server and prints the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--tokens", type=Path, help="lines, each sent as a bearer token in turn")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    tokens = options.tokens.read_text().splitlines() if options.tokens else [""]
    load = wrk if shutil.which("wrk") else ours
    print(json.dumps(load(options.port, options.path, tokens, options)))


if __name__ == "__main__":
    main()
