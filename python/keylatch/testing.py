"""A pytest plugin for applications with keys: a collection in memory, and clients that hold keys.

pytest finds it by itself. Nothing here is for production. Knows nothing until a fixture is used.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from keylatch import APIKeys, NewKey
    from keylatch.fastapi import APIKeyAuth

T = TypeVar("T")


class Clock:
    """A clock that stands still until it is moved.

    Attributes:
        now: What it says: an aware datetime; at first the time of the test.
    """

    def __init__(self) -> None:
        self.now: datetime = datetime.now(UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def advance(self, by: timedelta) -> None:
        """Moves it on, or back."""
        self.now += by


class MakesKeys(Protocol):
    """Makes a key, also in tests that are not asynchronous."""

    def __call__(self, *scopes: str, **options: Any) -> "NewKey":
        """Makes one with these scopes, and with what else ``keys.create`` takes."""


class MakesClients(Protocol):
    """Makes a client whose requests carry a key."""

    def __call__(
        self, app: "FastAPI", auth: "APIKeyAuth", *scopes: str, **options: Any
    ) -> "TestClient":
        """Makes one.

        Until the test ends, the application's routes ask the collection of the test instead of
        ``auth``'s own, those of FastAPI applications that are mounted in it included; by a copy of
        ``auth``, so that what a subclass adds counts as ever. The client runs no lifespan unless it
        is entered with ``with``. A rate limit of ``auth`` counts by ``keylatch_clock``, which has
        to be moved for requests to come back. It needs ``httpx2``, as ``TestClient`` does.

        Args:
            app: The application.
            auth: The dependency that its routes ask for.
            scopes: Of the key.
            options: What else ``keys.create`` takes, such as ``owner``.
        """


@pytest.fixture
def keylatch_clock() -> Clock:
    """The time, as the keys of this test have it."""
    return Clock()


@pytest.fixture
def keylatch_keys(keylatch_clock: Clock) -> "APIKeys":
    """A collection in memory, with a server secret of its own. It needs no start."""
    from keylatch import APIKeys, SecretRing
    from keylatch.memory import MemoryStore

    class KeysOfATest(APIKeys):
        """One that may go without a cache, and warns of nothing."""

        async def _ready(self) -> None:
            self._warned = True
            await super()._ready()

    return KeysOfATest(
        MemoryStore(), prefix="test", secret=SecretRing.generate(), clock=keylatch_clock
    )


@pytest.fixture
def keylatch_key(keylatch_keys: "APIKeys") -> MakesKeys:
    """Makes keys: ``keylatch_key("items:read", owner="u1").token``."""

    def make(*scopes: str, **options: Any) -> "NewKey":
        options = {"name": "test"} | options
        return _done(lambda: keylatch_keys.create(scopes=scopes, **options))

    return make


@pytest.fixture
def keylatch_client(
    keylatch_keys: "APIKeys", keylatch_key: MakesKeys, monkeypatch: pytest.MonkeyPatch
) -> MakesClients:
    """Makes clients: ``keylatch_client(app, auth, "items:read").get("/items")``."""
    stand_ins: dict[APIKeyAuth, APIKeyAuth] = {}

    def make(app: "FastAPI", auth: "APIKeyAuth", *scopes: str, **options: Any) -> "TestClient":
        from starlette.testclient import TestClient

        from keylatch.mounts import applications

        # One for all clients of the test, since it counts what a rate limit allows.
        stand_in = stand_ins.setdefault(auth, auth.over(keylatch_keys))
        found = list(applications(app))
        if not found:
            raise TypeError("keylatch_client takes a FastAPI application")
        for each in found:
            overrides: dict[Any, Any] = each.dependency_overrides
            monkeypatch.setitem(overrides, auth, stand_in)
        token = keylatch_key(*scopes, **options).token
        client = TestClient(app, headers=auth.headers_of(token))
        client.params = client.params.merge(auth.query_of(token))
        return client

    return make


def _done(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What a coroutine returns, whether or not an event loop runs here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
