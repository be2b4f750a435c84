"""A TCP proxy that stands between a driver and its server, and fails when a test tells it to.

Knows nothing of what it carries. It runs in a thread, so that every kind of test can use it, and
what it is told holds when the call returns, for live connections as for new ones.
"""

import asyncio
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from typing import Any, Self

from sqlalchemy import make_url

PORTS = {"postgresql": 5432, "mariadb": 3306, "mysql": 3306}
CHUNK = 65536  # bytes
PATIENCE = 10  # seconds that the thread has to do what it is told


class Proxy:
    """Forwards to the server of a URL, from when it is entered until it is left."""

    def __init__(self, server: str) -> None:
        url = make_url(server)
        self._server = (url.host, url.port or PORTS[url.get_backend_name()])
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._live: set[asyncio.Task[None]] = set()
        self._asks = self._answers = True
        self._delay = 0.0

    def url(self, url: str) -> str:
        """The same URL by way of the proxy."""
        way = make_url(url).set(host="127.0.0.1", port=self._port)
        return way.render_as_string(hide_password=False)

    def forward(self) -> None:
        """Works as a proxy should, on its old port. Bytes that were swallowed stay lost."""
        self._asks = self._answers = True
        self._delay = 0.0
        self._call(self._listen())

    def refuse(self) -> None:
        """Closes the port to new connections, as a server does that is about to stop."""
        self._call(self._stop_listening())

    def cut(self) -> int:
        """Ends every live connection, as when the server has crashed; tells how many."""
        return int(self._call(self._cut()))

    def swallow(self) -> None:
        """Takes connections and bytes and neither answers nor closes, as a firewall does."""
        self._asks = self._answers = False

    def mute(self) -> None:
        """Lets the server hear and act, and swallows its answers."""
        self._asks, self._answers = True, False

    def slow(self, seconds: float) -> None:
        """Holds every chunk up, either way."""
        self._delay = seconds

    def __enter__(self) -> Self:
        self._thread.start()
        self.forward()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> int:
        live = list(self._live)
        for connection in live:
            connection.cancel()
        await asyncio.gather(*live, return_exceptions=True)
        return len(live)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = self._loop.create_task(self._carry(reader, writer))
        self._live.add(connection)
        connection.add_done_callback(self._live.discard)

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Stays with a connection until one of its ends closes it."""
        writers = [writer]
        try:
            if not self._asks:
                await self._pump(reader, writer, lambda: False)
            answers, server = await asyncio.open_connection(*self._server)
            writers.append(server)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server, lambda: self._asks))
                group.create_task(self._pump(answers, writer, lambda: self._answers))
        except* (EOFError, OSError):
            pass
        finally:
            for end in writers:
                end.close()

    async def _pump(
        self, reader: StreamReader, writer: StreamWriter, passes: Callable[[], bool]
    ) -> None:
        """Carries chunks one way, or drops them, until there are no more."""
        while chunk := await reader.read(CHUNK):
            await asyncio.sleep(self._delay)
            if passes():
                writer.write(chunk)
                await writer.drain()
        raise EOFError
