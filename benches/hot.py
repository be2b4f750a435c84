"""The path of a request whose key is known, and of one whose key has to be read.

Knows the native core and the store; no web framework.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from timeit import Timer
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from keylatch import APIKeys, SecretRing, mint
from keylatch._native import TokenHeaders
from keylatch.memory import MemoryStore
from keylatch.tables import api_keys

ROOT = Path(__file__).parent.parent
CHECK, NO_OP = "keylatch, headers to key", "no-op PyO3 call"
ABSORBED, ONE_SHOT = "HMAC, key absorbed (Rust)", "HMAC, one shot (Rust)"
PYTHON = "hmac.digest (OpenSSL)"
CALLS = {
    CHECK: "engine.check(sources, headers, required, None)",
    NO_OP: "engine.ticks()",
    PYTHON: "hmac.digest(subkey, salted, 'sha256')",
}
SALT_LEN = 16
MOST_NS = 1_000
# Of a no-op and an HMAC together, and of a select.
MOST_TIMES, MOST_SELECTS = 2, 1.5
SCOPES = ["items:read", "items:write"]


def request_headers(token: str) -> list[tuple[bytes, bytes]]:
    """What an HTTP client sends, as an ASGI server hands it over."""
    return [
        (b"host", b"api.example.com"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"user-agent", b"python-httpx/0.28.1"),
        (b"authorization", f"Bearer {token}".encode()),
    ]


class NativeHmac:
    """A program of Rust that computes the HMAC-SHA256 of a token as the native core does.

    Args:
        length: Of what it is computed, in bytes.
        profile: How cargo compiles it.
    """

    def __init__(self, length: int, profile: str) -> None:
        self._length = length
        self._program: str | None = None
        cargo = shutil.which("cargo")
        if cargo is None:
            return
        command = [cargo, "bench", "--quiet", "--locked", "--no-run", "--bench", "hmac"]
        command += ["--profile", profile]
        built = subprocess.check_output([*command, "--message-format=json"], cwd=ROOT, text=True)
        for line in built.splitlines():
            self._program = json.loads(line).get("executable") or self._program

    def times(self, number: int) -> dict[str, float]:
        """Nanoseconds of each kind; none if there is no Rust here."""
        if self._program is None:
            return {}
        command = [self._program, str(self._length), str(number)]
        both = subprocess.check_output(command, text=True).split()
        return dict(zip((ONE_SHOT, ABSORBED), map(float, both), strict=True))


async def hot(*, rounds: int, batch: float, profile: str) -> dict[str, list[float]]:
    """Nanoseconds of a hit, of a no-op and of an HMAC, round by round."""
    # Built before the collection starts: its rows count for ten seconds without the feed.
    length = SALT_LEN + len(mint("acme_live", SecretRing(SecretRing.generate())))
    native = NativeHmac(length, profile)
    keys = APIKeys(MemoryStore(), prefix="acme_live", secret=SecretRing.generate())
    async with keys:
        new = await keys.create(name="ci", owner="u1", scopes=SCOPES)
        await keys.verify(new.token)
        salted = b"s" * SALT_LEN + new.token.encode()
        names: dict[str, Any] = {
            "engine": keys._engine,
            "headers": request_headers(new.token),
            "required": frozenset(SCOPES[:1]),
            "salted": salted,
            "sources": TokenHeaders(bearer=True, names=["X-API-Key"]),
            "subkey": b"k" * 32,
        }
        if eval(CALLS[CHECK], names) != new.key:
            raise SystemExit("the key is not cached")
        timers = {name: Timer(call, "import hmac", globals=names) for name, call in CALLS.items()}
        number = max(1, round(batch / 1e-6))
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            await asyncio.sleep(0.001)  # for the feed, without which nothing cached counts
            await keys.verify(new.token)  # and which may have had it read anew
            found = {name: timer.timeit(number) / number * 1e9 for name, timer in timers.items()}
            for name, taken in (found | native.times(number)).items():
                times.setdefault(name, []).append(taken)
        hits = keys.health().hits
    if hits < rounds * number:
        raise SystemExit("not all of these were hits")
    return times


async def cold(*, rounds: int) -> dict[str, list[float]]:
    """Nanoseconds of a key that has to be read, and of the bare select of it, in turns."""
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
        engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/keys.db")
        select = sa.select(api_keys).where(api_keys.c.id == sa.bindparam("key_id"))
        keys = APIKeys(engine, prefix="acme_live", secret=SecretRing.generate())
        times: dict[str, list[float]] = {"keylatch, key not cached": [], "SQLAlchemy select": []}
        async with keys:
            new = await keys.create(name="ci", owner="u1", scopes=SCOPES)

            async def verify() -> None:
                await keys.verify(new.token, scopes=SCOPES[:1])

            async def read() -> None:
                async with engine.connect() as connection:
                    (await connection.execute(select, {"key_id": new.key.id})).one()

            for number in range(rounds + 3):
                for name, call in zip(times, (verify, read), strict=True):
                    keys._engine.evict(new.key.id)
                    start = time.perf_counter_ns()
                    await call()
                    if number >= 3:  # at first statements are compiled
                        times[name].append(time.perf_counter_ns() - start)
        await engine.dispose()
    return times


def measure(*, quick: bool) -> dict[str, Any]:
    """Both of them, and what was promised of them."""
    # The quick profile is what the tests have compiled.
    rounds, batch, profile = (3, 0.0001, "dev") if quick else (31, 0.02, "release")
    hit = asyncio.run(hot(rounds=rounds, batch=batch, profile=profile))
    read = asyncio.run(cold(rounds=5 if quick else 500))
    return {
        "hot": {name: summary(times) for name, times in hit.items()},
        "cold": {name: summary(times) for name, times in read.items()},
        "promises": [
            promise("a hit, in nanoseconds", statistics.median(hit[CHECK]), MOST_NS),
            *(
                promise(f"a hit over (no-op + {name})", over(hit, CHECK, NO_OP, name), MOST_TIMES)
                for name in (ABSORBED, ONE_SHOT, PYTHON)
                if name in hit
            ),
            promise("a key not cached over a select", over(read, *read), MOST_SELECTS),
        ],
    }


def summary(times: list[float]) -> dict[str, float]:
    """Of nanoseconds."""
    return {"median_ns": statistics.median(times), "min_ns": min(times)}


def over(times: dict[str, list[float]], case: str, *others: str) -> float:
    """How many times as long a case takes as others together: the median of the rounds."""
    rounds = zip(times[case], *(times[other] for other in others), strict=True)
    return statistics.median(first / sum(rest) for first, *rest in rounds)


def promise(what: str, value: float, at_most: float) -> dict[str, Any]:
    """Holds a figure against a promise."""
    return {"what": what, "value": value, "at_most": at_most, "met": value <= at_most}


def show(report: dict[str, Any]) -> None:
    """Prints the report as a table."""
    for case in ("hot", "cold"):
        for name, row in report[case].items():
            median, least = row["median_ns"] / 1e3, row["min_ns"] / 1e3
            print(f"{case:5} {name:28} {median:10.3f} µs, at the least {least:10.3f} µs")
    print()
    for each in report["promises"]:
        verdict = "met" if each["met"] else "MISSED"
        print(f"{verdict:6} {each['what']}: {each['value']:.2f}, at most {each['at_most']}")
