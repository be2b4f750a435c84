"""Runs the demo: a server secret, a SQLite database, a few keys, and curl lines that work."""

import argparse
import asyncio
import contextlib
import os
import socket
import tempfile
from pathlib import Path

import uvicorn

from keylatch import APIKeys, NewKey, SecretRing
from keylatch.sqlalchemy import SQLAlchemyStore


def main() -> None:
    """Sets the demo up in its directory and serves it until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=Path(".demo"))
    options = parser.parse_args()

    listener = listen(options.port)
    options.data.mkdir(mode=0o700, exist_ok=True)
    os.environ["KEYLATCH_SECRET"] = server_secret(options.data / "secret")
    os.environ["DEMO_DATABASE"] = f"sqlite+aiosqlite:///{options.data / 'keys.db'}"
    welcome = asyncio.run(prepare(options.data, listener.getsockname()[1]))
    config = uvicorn.Config("app:app", log_level="warning")
    server = Server(config, welcome)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if not server.started:
        raise SystemExit("The demo did not start: see above.")
    print("\nStopped. `make demo` starts it again with the same keys.")


class Server(uvicorn.Server):
    """Says hello once it listens."""

    def __init__(self, config: uvicorn.Config, welcome: str) -> None:
        super().__init__(config)
        self.welcome = welcome

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening."""
        await super().startup(sockets)
        if self.started:
            print(self.welcome, flush=True)


def listen(port: int) -> socket.socket:
    """Takes the port, or says how to choose another."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise SystemExit(f"Port {port} cannot be used ({error}): try make demo PORT=8001") from None
    return listener


def server_secret(path: Path) -> str:
    """Reads the demo's server secret, or makes one that only this user can read."""
    if not path.exists():
        if path.with_name("keys.db").exists():
            raise SystemExit(
                f"{path} is gone, and the keys beside it need it: "
                f"remove {path.parent} and start anew"
            )
        # Written aside, with mode 0600, and moved: a demo that dies leaves no half of a secret.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(SecretRing.generate())
        Path(file.name).rename(path)
    return path.read_text()


async def prepare(data: Path, port: int) -> str:
    """Makes the demo's keys, and the text that shows how to use them."""
    store = SQLAlchemyStore(os.environ["DEMO_DATABASE"])
    await store.upgrade()  # an earlier version may have made it
    async with APIKeys(store, prefix="demo") as keys:
        earlier = (await keys.list(owner="ada", limit=500)).items
        reader = await keys.create(name="reader", owner="ada", actor="demo")
        admin = await keys.create(
            name="admin", owner="ada", scopes=["reports:read", "keys:write"], actor="demo"
        )
    found = (
        f"Found {len(earlier)} keys of earlier runs in {data}/keys.db. They still work, but only\n"
        "their hashes are stored, so their tokens cannot be shown again: here are two new keys.\n"
        if earlier
        else f"Made a server secret and a database in {data}/, and two keys.\n"
    )
    return found + instructions(f"http://127.0.0.1:{port}", reader, admin)


def instructions(url: str, reader: NewKey, admin: NewKey) -> str:
    """Curl lines, with the status that each answers."""
    wrong = reader.token[:-1] + ("0" if reader.token[-1] != "0" else "1")
    create = """-H 'Content-Type: application/json' -d '{"name": "mine", "scopes": []}'"""
    return f"""
# 200: an open route
curl -i {url}/

# 200: a protected route, with a key
curl -i {url}/me -H 'Authorization: Bearer {reader.token}'

# 401: the same key, mistyped
curl -i {url}/me -H 'Authorization: Bearer {wrong}'

# 403: a right key that lacks the scope reports:read
curl -i {url}/reports -H 'X-API-Key: {reader.token}'

# 200: a key that has it
curl -i {url}/reports -H 'X-API-Key: {admin.token}'

# 201: a key that may make other keys
curl -i {url}/keys -H 'X-API-Key: {admin.token}' {create}

The same by clicking, behind the Authorize button: {url}/docs
Ctrl-C stops the demo."""


if __name__ == "__main__":
    main()
