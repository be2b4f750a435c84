"""A key that was ended opens nothing any more in any worker, within the time that is promised.

Real uvicorn processes are asked for every key all the time while others end it. A request counts
by when it was sent: one that was sent before the change was acknowledged may pass.

``KEYLATCH_SOAK=1`` ends some hundred keys, holds workers to the promise itself, and prints how long
it took (with ``-s``).
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import stores
from hosts import Host
from worker import ENDINGS

from keylatch import APIKeys
from keylatch.records import NewKey

pytestmark = pytest.mark.anyio

SOAK = bool(os.environ.get("KEYLATCH_SOAK"))
# Seconds after which no worker accepts a key any more, by feed.
PROMISED = {"poll": 1.5, "notify": 0.2}
# Seconds more that a short run allows to a machine which is busy with other tests.
SLACK = 0.0 if SOAK else 2.0
MATRIX = [
    ("sqlite-async", "poll"),
    ("postgres-async", "poll"),
    ("postgres-async", "notify"),
    ("mariadb-async", "poll"),
]
WORKERS = 4
KEYS = 300 if SOAK else 24
SPREAD = 60.0 if SOAK else 1.0  # seconds over which they are ended
COMMANDS = 6 if SOAK else 1  # of them by the command line
# Seconds from one request with a key to the next of the same worker: before it is ended, until it
# is refused, and after that.
PACES = (0.1, 0.03, 0.2) if SOAK else (0.1, 0.05, 0.2)
AFTERWARDS = 1.0 if SOAK else 0.5  # seconds for which a key is still asked for
PATIENCE = 60  # seconds in which everything that does not hang comes to an end
WORKER = Path(__file__).parent / "worker.py"
SCRIPT = str(Path(sysconfig.get_path("scripts"), "keylatch"))


class Connection:
    """Asks one worker over a connection that stays open, one request after the other."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        """A connection to the worker behind a port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, method: str, target: str, *lines: str) -> int:
        """The status of the answer."""
        self.send(method, target, *lines)
        return await self.answer()

    def send(self, method: str, target: str, *lines: str) -> None:
        """Sends a request."""
        self._writer.write(
            "\r\n".join([f"{method} {target} HTTP/1.1", *HOST, *lines, "", ""]).encode()
        )

    async def answer(self) -> int:
        """Reads what is answered, and tells its status."""
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lengths = [line.partition(":")[2] for line in headers if line.startswith("content-length:")]
        await self._reader.readexactly(int(lengths[0]))
        return int(status.split()[1])


HOST = ("Host: localhost", "Content-Length: 0")


@dataclass
class Worker:
    """A uvicorn process that listens on a port of its own."""

    process: subprocess.Popen[bytes]
    port: int


@asynccontextmanager
async def workers(
    count: int, database: str, secret: str, log: Path, **options: Any
) -> AsyncIterator[list[Worker]]:
    """So many workers on one database, which have started; what they complain of is an error."""
    environment = os.environ | {
        "KEYLATCH_SECRET": secret,
        "KEYLATCH_TEST_WORKER": json.dumps({"database": database} | options),
    }
    started = []
    with log.open("wb") as out:
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                process = subprocess.Popen(
                    [sys.executable, WORKER, str(listener.fileno())],
                    env=environment,
                    stdout=out,
                    stderr=out,
                    pass_fds=[listener.fileno()],
                )
                started.append(Worker(process, listener.getsockname()[1]))
        try:
            async with asyncio.timeout(PATIENCE):
                for worker in started:  # it answers once it has started
                    async with Connection.to(worker.port) as connection:
                        assert await connection.ask("GET", "/") == 401
            yield started
        finally:
            for worker in started:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.terminate()
            for worker in started:
                worker.process.wait(PATIENCE)
    assert log.read_text() == ""  # noqa: ASYNC240


@dataclass
class Watched:
    """A key that every worker is asked for, and what they answered."""

    new: NewKey
    ending: str
    bound: float
    # When the change could begin to show at the earliest, and when it was acknowledged.
    begins: float = float("inf")
    ended: float = float("inf")
    accepted: dict[int, int] = field(default_factory=dict)
    # When what a worker accepted last was sent, after the change was acknowledged, in seconds.
    lags: dict[int, float] = field(default_factory=dict)
    refused: dict[int, float] = field(default_factory=dict)
    due: dict[int, float] = field(default_factory=dict)

    def note(self, worker: int, sent: float, status: int) -> None:
        """Holds an answer against what may be answered."""
        now = time.monotonic()
        refusal = ENDINGS[self.ending][0]
        assert status in (200, refusal), f"worker {worker} answered {status}"
        if status == refusal:
            assert now >= self.begins, f"{self.ending}: refused before it could be known"
            self.refused.setdefault(worker, now)
        else:
            self.accepted[worker] = self.accepted.get(worker, 0) + 1
            assert sent < self.refused.get(worker, now), f"{self.ending}: accepted once more"
            if sent > self.ended:
                lag = self.lags[worker] = sent - self.ended
                assert lag <= self.bound, f"{self.ending}: accepted after {lag:.3f} s"
        pace = PACES[2 if worker in self.refused else self.begins <= now]
        self.due[worker] = now + pace

    @property
    def warm(self) -> bool:
        """Whether every worker has it cached."""
        return len(self.accepted) == WORKERS and min(self.accepted.values()) > 1

    @property
    def over(self) -> bool:
        """Whether every worker has refused it for a while."""
        latest = max(self.refused.values(), default=0)
        return len(self.refused) == WORKERS and time.monotonic() > latest + AFTERWARDS


class Client:
    """Asks every worker for every key that is watched, again and again."""

    def __init__(self, listening: list[Worker]) -> None:
        self._ports = [worker.port for worker in listening]
        self._watched: list[Watched] = []

    async def run(self) -> None:
        """Asks until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, port in enumerate(self._ports):
                group.create_task(self._ask(number, port))

    async def _ask(self, number: int, port: int) -> None:
        async with Connection.to(port) as connection:
            while True:
                for watched in list(self._watched):
                    if watched.due.get(number, 0) <= time.monotonic():
                        sent = time.monotonic()
                        header = f"X-API-Key: {watched.new.token}"
                        watched.note(number, sent, await connection.ask("GET", "/", header))
                await asyncio.sleep(0.005)

    async def watch(self, watched: Watched) -> None:
        """Has it asked for from now on, and returns once every worker has it cached."""
        self._watched.append(watched)
        while not watched.warm:  # noqa: ASYNC110 - there are many who could tell
            await asyncio.sleep(0.02)

    async def leave(self, watched: Watched) -> None:
        """Returns once every worker has refused it for a while, and has it asked for no more."""
        while not watched.over:  # noqa: ASYNC110 - there are many who could tell
            await asyncio.sleep(0.02)
        self._watched.remove(watched)


class Enders:
    """Those who end keys: this process, workers, and the command line."""

    def __init__(self, keys: APIKeys, host: Host, database: str, secret: str) -> None:
        self._keys = keys
        self._host = host
        self._environment = os.environ | {
            "KEYLATCH_DATABASE": database,
            "KEYLATCH_SECRET": secret,
            "KEYLATCH_PREFIX": "acme_live",
        }

    async def by_call(self, watched: Watched) -> None:
        """By a call in another process than any worker's."""
        watched.begins = time.monotonic()
        await ENDINGS[watched.ending][1](self._keys, watched.new.key.id)
        watched.ended = time.monotonic()

    async def by_transaction(self, watched: Watched, hold: float) -> None:
        """In the transaction of a host, which commits it later."""
        async with self._host.transaction() as transaction:
            make = ENDINGS[watched.ending][1]
            await make(self._keys, watched.new.key.id, connection=transaction.connection)
            await asyncio.sleep(hold)
            watched.begins = time.monotonic()
            await transaction.commit()
            watched.ended = time.monotonic()

    async def by_command(self, watched: Watched) -> None:
        """By ``keylatch revoke``."""
        watched.begins = time.monotonic()
        command = (SCRIPT, "revoke", watched.new.key.id, "--yes")
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdout=subprocess.DEVNULL
        )
        assert await process.wait() == 0
        watched.ended = time.monotonic()

    async def by_worker(self, watched: Watched, worker: Worker, hold: float) -> None:
        """By a worker, in a transaction that it commits later, or by a call."""
        watched.begins = time.monotonic() + hold
        target = f"/{watched.new.key.id}/{watched.ending}?hold={hold}"
        async with Connection.to(worker.port) as connection:
            assert await connection.ask("POST", target) == 200
            watched.ended = time.monotonic()


@pytest.mark.parametrize(("engine_name", "feed"), MATRIX)
async def test_no_worker_accepts_a_key_that_was_ended(engine_name, feed, secret, tmp_path):
    """Revoked, rotated or narrowed, by a call, a late commit, a worker or the command line.

    The worker that does it accepts the key no more once it has answered, and a worker that has
    refused a key never accepts it again.
    """
    dice = random.Random(f"{engine_name} {feed}")
    async with AsyncExitStack() as stack:
        database = stack.enter_context(stores.key_database(engine_name))
        host = await stack.enter_async_context(Host.at(database))
        keys = APIKeys(host.engine, prefix="acme_live", secret=secret)
        await keys.list()  # SQLite has its tables now
        options = {"secret": secret, "log": tmp_path / "log", "feed": feed}
        listening = await stack.enter_async_context(workers(WORKERS, database, **options))
        client, enders = Client(listening), Enders(keys, host, database, secret)
        ended: dict[str, list[Watched]] = {}

        async def live(number: int) -> None:
            new = await keys.create(name="ci", scopes=["a", "b"])
            ending = "revoke" if number < COMMANDS else list(ENDINGS)[number % len(ENDINGS)]
            watched = Watched(new, ending, PROMISED[feed] + SLACK)
            await asyncio.sleep(dice.uniform(0, SPREAD))
            await client.watch(watched)
            hold, maker = dice.uniform(0.02, 0.2), dice.randrange(WORKERS)
            if number < COMMANDS:
                by = "the command line"
                await enders.by_command(watched)
            elif number % 4 == 0:
                by = "a call elsewhere"
                await enders.by_call(watched)
            elif number % 4 == 1:
                by = "a commit elsewhere"
                await enders.by_transaction(watched, hold)
            else:
                by = "a call of a worker" if number % 4 == 2 else "a commit of a worker"
                hold = hold if number % 4 == 3 else 0
                await enders.by_worker(watched, listening[maker], hold)
            await client.leave(watched)
            if "of a worker" in by:
                assert maker not in watched.lags, "its own process accepted it"
            ended.setdefault(by, []).append(watched)

        async with asyncio.timeout(PATIENCE + SPREAD), asyncio.TaskGroup() as group:
            asking = group.create_task(client.run())
            await asyncio.gather(*(live(number) for number in range(KEYS)))
            asking.cancel()
        await everybody_refuses(listening, [each for some in ended.values() for each in some])
    if SOAK:
        report(f"{engine_name}, {feed}", ended)


async def everybody_refuses(listening: list[Worker], ended: list[Watched]) -> None:
    """Asks once more for every key, at the end."""
    assert len(ended) == KEYS
    for worker in listening:
        async with Connection.to(worker.port) as connection:
            for each in ended:
                status = await connection.ask("GET", "/", f"X-API-Key: {each.new.token}")
                assert status == ENDINGS[each.ending][0]


def report(title: str, ended: dict[str, list[Watched]]) -> None:
    """Prints after how many seconds the last worker accepted a key for the last time."""
    print(f"\n{title}: seconds from the acknowledgement to the last request that was accepted")
    everything = [each for some in ended.values() for each in some]
    for by, some in [*sorted(ended.items()), ("all", everything)]:
        lags = sorted(max(each.lags.values(), default=0.0) for each in some)
        half, most = lags[len(lags) // 2], lags[len(lags) * 9 // 10]
        print(f"  {by:20} {len(lags):4} keys: p50 {half:.3f}, p90 {most:.3f}, max {lags[-1]:.3f}")


async def test_a_worker_that_was_paused_knows_that_it_is_out_of_date(secret, tmp_path):
    """Once it goes on, it refuses a key that was revoked meanwhile, though it heard of nothing."""
    with stores.key_database("sqlite-async") as database:
        keys = APIKeys(database, prefix="acme_live", secret=secret)
        new, other = [await keys.create(name="ci", scopes=["b"]) for _ in range(2)]
        options = {"secret": secret, "max_staleness": 1.0, "poll_interval": 0.5}
        async with (
            workers(1, database, log=tmp_path / "log", **options) as (worker,),
            Connection.to(worker.port) as connection,
        ):
            for _ in range(3):
                assert await connection.ask("GET", "/", f"X-API-Key: {new.token}") == 200
            worker.process.send_signal(signal.SIGSTOP)
            await keys.revoke(new.key.id)
            connection.send("GET", "/", f"X-API-Key: {new.token}")
            await asyncio.sleep(1.1)
            worker.process.send_signal(signal.SIGCONT)
            assert await connection.answer() == 401
            assert await connection.ask("GET", "/", f"X-API-Key: {other.token}") == 200
        await keys._store.close()
