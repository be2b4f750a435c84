"""Ways to reach an application: past every server, and through a real one. Knows no key."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

Headers = Iterable[tuple[bytes, bytes]]

# Seconds that an answer may take, on a machine that is busy: to catch what hangs.
PATIENCE = 30
# What a server asks an application for that it can have answer a WebSocket.
CAN_ANSWER: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
UPGRADE: dict[str, Any] = {
    "type": "websocket",
    "scheme": "ws",
    "query_string": b"",
    "subprotocols": [],
}
# RFC 6455, section 1.3, has this key.
HANDSHAKE = [
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]


async def talk(
    app: Any, headers: Headers = (), *, path: str = "/", **others: Any
) -> list[dict[str, Any]]:
    """Opens a WebSocket, without a server, and returns what the application sends."""
    incoming = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    others = {"raw_path": path.encode("utf-8", "replace"), "root_path": ""} | others
    await app(UPGRADE | {"path": path, "headers": list(headers)} | others, receive, send)
    return sent


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """A real uvicorn in this event loop; gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = {"log_config": None, "log_level": "info", "lifespan": "off"} | options
        server = uvicorn.Server(uvicorn.Config(app, **config))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                assert not task.done()
                await asyncio.sleep(0.01)
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def connected(
    port: int, headers: Headers = (), *, target: str = "/"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Sends a request over a socket, byte for byte, and leaves the connection open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"GET {target} HTTP/1.1".encode(), b"host: localhost"]
        lines += [name + b": " + value for name, value in headers]
        writer.write(b"\r\n".join([*lines, b"", b""]))
        yield reader, writer
    finally:
        writer.close()


async def head_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status of an answer, and its headers."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), head.lower()


async def exchange(port: int, headers: Headers, *, target: str = "/") -> tuple[int, bytes, bytes]:
    """Sends a request, byte for byte; returns status, headers and body."""
    async with asyncio.timeout(PATIENCE), connected(port, headers, target=target) as (reader, _):
        status, head = await head_of(reader)
        length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        body = await reader.readexactly(int(length)) if length else b""
        return status, head, body
