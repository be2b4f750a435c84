"""What a real server that is stopped under load leaves behind: every use that it answered."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from stores import key_database

from keylatch import APIKeys

pytestmark = pytest.mark.anyio

APP = """
import os
from typing import Annotated

from fastapi import FastAPI, Security
from keylatch import APIKey, APIKeys
from keylatch.fastapi import APIKeyAuth

keys = APIKeys(os.environ["KEYS_URL"], prefix="acme")
auth = APIKeyAuth(keys)
app = FastAPI(lifespan=keys.lifespan)


@app.get("/")
async def root(key: Annotated[APIKey, Security(auth)]) -> str:
    return key.id
"""


async def requests(port: int, token: str, counts: dict[str, int]) -> None:
    """Asks again and again on one connection, until the server closes it."""
    request = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(request)
            await writer.drain()
            counts["sent"] += 1
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200 "):
                counts["answered"] += 1
            else:
                counts["others"] += 1
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answering(port: int, server: "subprocess.Popen[str]") -> None:
    """Waits until somebody listens."""
    async with asyncio.timeout(30):
        while True:
            assert server.poll() is None, "the server did not start"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return


@pytest.mark.parametrize("engine_name", ["sqlite-async", "postgres-async", "mariadb-sync"])
async def test_a_server_that_is_stopped_under_load_loses_no_use(
    engine_name, secret, free_port, tmp_path
):
    """It ends soon, and has counted whatever it answered."""
    (tmp_path / "served.py").write_text(APP)
    with key_database(engine_name) as url:
        environment = os.environ | {"KEYS_URL": url, "KEYLATCH_SECRET": secret}
        async with APIKeys(url, prefix="acme", secret=secret) as keys:
            made = [await keys.create(name="ci") for _ in range(4)]
        command = [sys.executable, "-m", "uvicorn", "served:app", "--port", str(free_port)]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "5"]
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            await answering(free_port, server)
            counts = {"sent": 0, "answered": 0, "others": 0}
            clients = [asyncio.create_task(requests(free_port, new.token, counts)) for new in made]
            await asyncio.sleep(1)
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), timeout=20)
            said = await asyncio.to_thread(server.communicate, timeout=20)
        finally:
            server.kill()
        assert time.monotonic() - began < 15
        assert "Traceback" not in said[1], said[1]
        assert counts["answered"] > 20
        assert counts["others"] == 0
        async with APIKeys(url, prefix="acme", secret=secret) as keys:
            used = sum([(await keys.get(new.key.id)).use_count for new in made])
        assert counts["answered"] <= used <= counts["sent"]
