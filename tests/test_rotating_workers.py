"""The server secret of four workers under load is replaced, and no request fails.

Real processes serve with uvicorn. They are replaced one by one, as a deployment does it: a new one
is asked once it answers, and the old one ends when nobody asks it any more. They are forked from a
server that has imported everything, or most of the time would go into imports.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import stores
from test_workers import Connection
from worker import serve

from keylatch import APIKeys, SecretRing, parse
from keylatch.errors import ConfigurationError

pytestmark = pytest.mark.anyio

SOAK = bool(os.environ.get("KEYLATCH_SOAK"))
ENGINES = ["sqlite-async", "postgres-async", "mariadb-async"][: None if SOAK else 1]
WORKERS = 4
KEYS = 12
PATIENCE = 60  # seconds in which everything that does not hang comes to an end
K1, K2 = (SecretRing.generate(kid) for kid in ("k1", "k2"))
# In this order: each worker knows every secret that another one may hash with.
RINGS = (K1, f"{K1},{K2}", f"{K2},{K1}", K2)


@dataclass
class Place:
    """Where one worker after the other is asked for every key, again and again."""

    tokens: dict[str, int]  # and the status that each is answered with
    port: int = 0
    process: BaseProcess | None = None
    asked: int = 0
    rounds: int = 0

    async def run(self) -> None:
        """Asks until there is no port any more."""
        while port := self.port:
            async with Connection.to(port) as connection:
                while port == self.port:
                    for token, expected in self.tokens.items():
                        status = await connection.ask("GET", "/", f"X-API-Key: {token}")
                        assert status == expected, f"answered {status}, not {expected}"
                        self.asked += status == 200
                        await asyncio.sleep(0.004)
                    self.rounds += 1

    async def hand_over(self, port: int, process: BaseProcess) -> None:
        """Has another worker asked, and the one that was asked before end."""
        old, self.process = self.process, process
        self.port, before = port, self.rounds
        if old is not None:
            while self.rounds < before + 2:  # noqa: ASYNC110 - it may be in the middle of one
                await asyncio.sleep(0.002)
            old.terminate()


async def start(**options: str) -> tuple[int, BaseProcess]:
    """A worker that answers, and its port."""
    context = multiprocessing.get_context("forkserver")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = context.Process(target=serve, args=(listener,), kwargs=options, daemon=True)
        process.start()
    async with Connection.to(port) as connection:
        assert await connection.ask("GET", "/") == 401
    return port, process


async def end(workers: list[tuple[int, BaseProcess]]) -> None:
    """Returns once workers that were told to stop have done so, and in order."""
    for _, process in workers:
        await asyncio.to_thread(process.join, PATIENCE)
        assert process.exitcode in (0, -signal.SIGTERM)  # uvicorn passes it on


@pytest.mark.parametrize("engine_name", ENGINES)
async def test_a_server_secret_is_replaced_under_load(engine_name, tmp_path, monkeypatch):
    """Every key moves, once, and their tokens, which the old secret sealed, open them to the end.

    Each use is counted, a key that was revoked before is refused as ever, and a ring without the
    old secret is refused as long as keys need it.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["worker"])
    log = tmp_path / "log"
    log.touch()
    async with AsyncExitStack() as stack:
        database = stack.enter_context(stores.key_database(engine_name))
        keys = APIKeys(database, prefix="acme_live", secret=RINGS[2])
        old_keys = APIKeys(database, prefix="acme_live", secret=K1)
        stack.push_async_callback(keys._store.close)
        stack.push_async_callback(old_keys._store.close)
        new = [await old_keys.create(name="ci", scopes=["b"]) for _ in range(KEYS)]
        revoked = await old_keys.create(name="ci", scopes=["b"])
        await old_keys.revoke(revoked.key.id)
        tokens = {each.token: 200 for each in new} | {revoked.token: 401}
        with pytest.raises(ConfigurationError, match="k1"):
            async with APIKeys(database, prefix="acme_live", secret=K2):
                pass
        places = [Place(tokens) for _ in range(WORKERS)]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            asking, old = [], []
            for secret in RINGS:
                while secret == K2 and (await living(keys))["k1"]:  # noqa: ASYNC110 - it is told
                    await asyncio.sleep(0.05)
                options = {"secret": secret, "database": database, "log": str(log)}
                started = await asyncio.gather(*(start(**options) for _ in places))
                for place, worker in zip(places, started, strict=True):
                    await place.hand_over(*worker)
                await end(old)
                old = started
                asking = asking or [group.create_task(place.run()) for place in places]
            for place in places:
                place.port = 0
            await asyncio.gather(*asking)
            for _, process in old:
                process.terminate()
            await end(old)
        assert await living(keys) == {"k2": KEYS, "k1": 0}
        assert parse(new[0].token).sealed_by(SecretRing(K2)) is None
        found = [await keys.get(each.key.id) for each in new]
        if engine_name == "sqlite-async":  # elsewhere nobody waits for a row that another one locks
            asked = sum(place.asked for place in places)
            assert sum(key.use_count for key in found) == asked
        for each in new:
            actions = [event.action for event in await keys.events(each.key.id)]
            assert actions == ["created", "rehashed"]
    assert log.read_text() == ""


async def living(keys: APIKeys) -> dict[str | None, int]:
    """How many living keys need each secret."""
    return {use.kid: use.living for use in (await keys.secret_status()).uses}
