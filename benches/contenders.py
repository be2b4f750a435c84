"""Who is compared: on what application, behind which route, with which key.

Knows how each makes its database and its key, and how its server is started.
"""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import environments

from keylatch import APIKeys, SecretRing

HERE = Path(__file__).parent
OPEN, HARD_CODED = "open route", "one hard-coded key"
FLOOR, SCOPED_FLOOR = "dependency that does nothing", "the same, with scopes and request"
KEY, MIDDLEWARE, UNCACHED = "keylatch", "keylatch, middleware", "keylatch, not started"
KEYSHIELD = "keyshield, cache on, sleep off"
KEYSHIELD_DEFAULT, ARTICLE = "keyshield, its defaults", "the article's app"
# As driver.py takes it.
OPEN_CASE = "apps:open_app/items"
# They answer a few requests a second, so each gets one long turn on fewer connections.
SLOW = {KEYSHIELD_DEFAULT, ARTICLE}
# Module, variant, and the environment that it needs.
PEERS = {
    "keyshield, in memory, sleep off": ("shielded", "memory", "keyshield"),
    KEYSHIELD: ("shielded", "cached", "keyshield"),
    KEYSHIELD_DEFAULT: ("shielded", "default", "keyshield"),
    "fastapi-keygate": ("gated", "sync", "fastapi-keygate"),
    "fastapi-keygate, async": ("gated", "async", "fastapi-keygate"),
    ARTICLE: ("article", "", "article"),
}
# Seconds for a server to come up, and for one to be done with what it was sent.
PATIENCE = 30
AT_REST = 0.05


@dataclass
class Contender:
    """One of those who are compared.

    Attributes:
        name: In the report.
        app: `module:name` of its application.
        path: Of its route.
        token: Its key.
        environment: Variables of its process.
        python: Its interpreter.
        lifespan: Whether its application is started.
    """

    name: str
    app: str
    path: str
    token: str
    environment: dict[str, str]
    python: Path = Path(sys.executable)
    lifespan: bool = True
    server: "Server | None" = field(default=None, repr=False)

    @property
    def process(self) -> tuple[str, bool, str]:
        """The same for those whom one server serves."""
        return self.app, self.lifespan, str(sorted(self.environment.items()))


class Server:
    """Uvicorn, with a number of workers, for one or more contenders."""

    def __init__(self, contender: Contender, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [
            contender.python,
            "-m",
            "uvicorn",
            contender.app,
            f"--port={self.port}",
            *options,
        ]
        command += [f"--app-dir={_directory(contender)}"]
        command += ["--no-access-log", "--log-level=critical"]
        command += ["--lifespan=on" if contender.lifespan else "--lifespan=off"]
        self._process = subprocess.Popen(
            command, env=environment_of(contender), stdout=subprocess.DEVNULL
        )
        give_up = time.monotonic() + PATIENCE
        while self.ask("/open", contender.token) is None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.close()
                sys.exit(f"no server comes up for {contender.name}")
            time.sleep(0.05)

    def ask(self, path: str, token: str) -> str | None:
        """The body of one answer of 200; None for anything else."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.read().decode()
        except OSError:  # refusals of urllib among them
            return None

    def settle(self) -> None:
        """Waits until it is done with what it was sent."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            start = time.monotonic()
            self.ask("/open", "")
            if time.monotonic() - start < AT_REST:
                return

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


def environment_of(contender: Contender) -> dict[str, str]:
    """All variables of its process."""
    return {**os.environ, "PYTHONWARNINGS": "ignore", **contender.environment}


def _directory(contender: Contender) -> Path:
    return HERE if contender.app.startswith("apps:") else HERE / "peers"


def ours(directory: Path) -> list[Contender]:
    """Those that need no environment of their own."""
    url, secret = f"sqlite+aiosqlite:///{directory}/keylatch.db", SecretRing.generate()

    async def create() -> str:
        async with APIKeys(url, prefix="acme_live", secret=secret) as keys:
            new = await keys.create(
                name="ci", owner="u1", scopes=["items:read"], expires_in=timedelta(days=90)
            )
            return new.token

    token = asyncio.run(create())
    environment = {"BENCH_DATABASE": url, "KEYLATCH_SECRET": secret, "BENCH_TOKEN": token}
    apps = {
        OPEN: "open_app",
        FLOOR: "floor_app",
        SCOPED_FLOOR: "scoped_floor_app",
        HARD_CODED: "hard_coded_app",
        KEY: "key_app",
    }
    found = [
        Contender(name, f"apps:{app}", "/items", token, environment) for name, app in apps.items()
    ]
    try:
        import keylatch.asgi
    except ImportError:
        pass
    else:
        if hasattr(keylatch.asgi, "APIKeyMiddleware"):
            found.append(Contender(MIDDLEWARE, "apps:guarded", "/items", token, environment))
    uncached = Contender(UNCACHED, "apps:key_app", "/items", token, environment, lifespan=False)
    return [*found, uncached]


def use_wal(directory: Path) -> None:
    """Has every database write ahead, which is kind to whoever writes at each request."""
    for path in directory.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def peers(directory: Path, *, left_out: dict[str, str]) -> list[Contender]:
    """The others. Whoever cannot be had is left out, with the reason."""
    found = []
    for name, (module, variant, needed) in PEERS.items():
        python = environments.make(needed)
        if isinstance(python, str):
            left_out[name] = python
            continue
        url = f"sqlite+aiosqlite:///{directory}/{module}-{variant}.db"
        environment = {"BENCH_DATABASE": url, "BENCH_VARIANT": variant}
        peer = Contender(name, f"{module}:app", "/key", "", environment, python)
        made = subprocess.run(
            [python, HERE / "peers" / f"{module}.py"],
            check=False,
            env=environment_of(peer),
            capture_output=True,
            text=True,
        )
        if made.returncode:
            left_out[name] = f"{module}.py: {made.stderr.strip().splitlines()[-1]}"
            continue
        peer.token = made.stdout.split()[-1]
        found.append(peer)
    return found
