"""What the tests share: a server secret, a clock that stands still, and keys in every store."""

import asyncio
import os
import shutil
import socket
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import browsers
import databases
import pytest
import stores
from hosts import Host
from hypothesis import settings
from subject import SILENT

from keylatch import APIKeys, SecretRing, Token, parse
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore
from keylatch.store import Store

# In CI every run tries the same examples; elsewhere new ones, and failures are remembered.
settings.register_profile("ci", derandomize=True, database=None, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


# These drivers go through what the others go through, but for a thread or none.
_SELDOM = ("sqlite-sync", "postgres-sync", "mariadb-async")
_SERVERS = ("postgres-async", "mariadb-sync")
# What tries all of them, as `make test-drivers` does with every file.
_ABOUT_DRIVERS = {
    "test_bulk.py",
    "test_drivers.py",
    "test_host_connections.py",
    "test_host_sessions.py",
    "test_isolation.py",
    "test_keys.py",
    "test_schema.py",
    "test_transactions.py",
}


# What takes a minute or so, and would be waited for at the end: a file is one process's work.
_LONG = [
    "test_site_snippets.py",
    "test_site.py",
    "test_benches.py",
    "test_model.py",
    "test_example_article.py",
    "test_workers.py",
    "test_newcomer.py",
    "test_db.py",
    "test_host_alembic.py",
    "test_failures.py",
    "test_commands.py",
    "test_docs.py",
    "test_rotating_workers.py",
    "test_lifecycle.py",
    "test_bench_scan.py",
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begins with what takes longest, and runs most tests on SQLite and one server."""
    place = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))  # others keep their order
    if os.environ.get("KEYLATCH_TEST_DRIVERS") or any("::" in argument for argument in config.args):
        return
    engines: dict[str, set[str]] = defaultdict(set)
    for item in items:
        engines[_whatever_engine(item)].add(_engine(item))
    left_out = {item for item in items if _is_left_out(item, engines[_whatever_engine(item)])}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _engine(item: pytest.Item) -> str:
    parameters = item.name.partition("[")[2]
    return next((engine for engine in databases.ENGINES if engine in parameters), "")


def _whatever_engine(item: pytest.Item) -> str:
    engine = _engine(item)
    return item.nodeid.replace(engine, "*") if engine else item.nodeid


def _is_left_out(item: pytest.Item, engines: set[str]) -> bool:
    """Whether a test runs elsewhere: by another driver, or on the other of the two servers."""
    engine = _engine(item)
    if not engine or item.path.name in _ABOUT_DRIVERS:
        return False
    if engine in _SELDOM:
        kind = engine.partition("-")[0]
        return any(other.startswith(kind) for other in engines - {*_SELDOM})
    if engine in _SERVERS and engines.issuperset(_SERVERS):
        return engine == _SERVERS[zlib.crc32(_whatever_engine(item).encode()) % 2]
    return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the servers, and the browser, that tests had to do without."""
    databases.summarise(terminalreporter)
    browsers.summarise(terminalreporter)


def pytest_sessionfinish() -> None:
    """Leaves nothing on the servers."""
    stores.close()
    databases.close_servers()


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tells the time."""
        return self.now

    def advance(self, **duration: float) -> None:
        """Moves on."""
        self.now += timedelta(**duration)


class PatientLoop(asyncio.SelectorEventLoop):
    """Waits a moment at its end for connections that are about to close.

    asyncpg leaves a connection whose query was cancelled to asyncio, which tells the server so
    over TLS and waits for its answer. A test that ends meanwhile would leave a socket behind. One
    that nobody closes is still found.
    """

    def close(self) -> None:
        """Ends the loop."""
        if not self.is_closed():
            for _ in range(100):
                if len(self._selector.get_map()) <= 1:  # the loop's own
                    break
                self.run_until_complete(asyncio.sleep(0.01))
        super().close()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Everything runs on asyncio, as FastAPI's servers do."""
    return "asyncio", {"loop_factory": PatientLoop}


@pytest.fixture
def clock() -> Clock:
    """A clock of this test's own."""
    return Clock()


@pytest.fixture(scope="session")
def secret() -> str:
    """A server secret as it stands in the environment."""
    return SecretRing.generate()


@pytest.fixture(params=databases.ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Each kind of database and driver; a test that wants some of them only parametrizes it."""
    return str(request.param)


@pytest.fixture
def database_url(engine_name: str) -> Iterator[str]:
    """An empty database of that kind, for one test."""
    with databases.empty_database(engine_name) as url:
        yield url


@pytest.fixture(params=databases.ENGINES)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with empty tables, on each engine."""
    with stores.key_database(request.param) as url:
        yield url


@pytest.fixture(params=["memory", *databases.ENGINES])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with stores.key_database(request.param) as url:
        yield SQLAlchemyStore(url)


@pytest.fixture
async def keys(store: Store, secret: str, clock: Clock) -> AsyncIterator[APIKeys]:
    """A started collection in each kind of store."""
    async with APIKeys(store, prefix="acme_live", secret=secret, clock=clock, **SILENT) as keys:
        yield keys


@pytest.fixture
def engine_options() -> dict[str, Any]:
    """How the engine of the application is made; a test that wants it otherwise parametrizes it."""
    return {}


@pytest.fixture
async def host(engine_name: str, engine_options: dict[str, Any]) -> AsyncIterator[Host]:
    """An application with a table of its own in the database of the keys, on each engine."""
    with stores.key_database(engine_name) as url:
        async with Host.at(url, **engine_options) as host:
            yield host


@pytest.fixture
async def host_keys(host: Host, secret: str, clock: Clock) -> AsyncIterator[APIKeys]:
    """A started collection on the engine of that application."""
    async with APIKeys(
        host.engine, prefix="acme_live", secret=secret, clock=clock, **SILENT
    ) as keys:
        yield keys


@pytest.fixture
def mint_first(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Token]]:
    """Has these tokens minted before new ones, and tells which are still to come."""

    def mint_first(*texts: str) -> list[Token]:
        tokens = [parse(text) for text in texts]

        class Minting:
            @staticmethod
            def mint(prefix: str, ring: SecretRing) -> Token:
                return tokens.pop(0) if tokens else Token.mint(prefix, ring)

        for module in ("making", "management"):
            monkeypatch.setattr(f"keylatch.{module}.Token", Minting)
        return tokens

    return mint_first


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def curl() -> str:
    """The program that READMEs show. Tests that need it are skipped without it, but in CI."""
    path = shutil.which("curl")
    if path is None and not os.environ.get("CI"):
        pytest.skip("curl is not installed")
    assert path
    return path


@pytest.fixture(scope="session")
def wrong_secret() -> Callable[[str], str]:
    """Makes a token of the same key with another secret and a right checksum, as anyone can."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

    def wrong_secret(token: str) -> str:
        last = token[-13]
        body = token[:-13] + ("1" if last == "0" else "0") + token[-12:-6]
        number = zlib.crc32(body.encode())
        return body + "".join(digits[number // 62**place % 62] for place in range(5, -1, -1))

    return wrong_secret


@dataclass(frozen=True)
class Answer:
    """What an ASGI application answered, with its header names in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that stands once."""
        values = [value for key, value in self.headers if key == name.encode()]
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0].decode() if values else None


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Sends a raw request to an ASGI application, past every server and client that tidies it."""

    async def ask(
        app: Any,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        path: str = "/",
        query: str = "",
        method: str = "GET",
        body: bytes = b"",
        **others: Any,
    ) -> Answer:
        messages: list[dict[str, Any]] = []
        request = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not request:
                await anyio.sleep_forever()  # as long as the client stays
            return request.pop()

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": headers or [],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        } | others
        await app(scope, receive, send)
        start, *rest = messages
        return Answer(
            start["status"],
            [(name.lower(), value) for name, value in start["headers"]],
            b"".join(message.get("body", b"") for message in rest),
        )

    return ask
