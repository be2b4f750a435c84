"""Stops calls of a store where a test wants them, so that it decides what comes first."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keylatch import APIKeys


class Held:
    """A store one of whose calls stops, before it asks the database or after, until it may go on.

    Attributes:
        arrived: A call has come there.
        go: All may go on, and those to come do not stop.
    """

    def __init__(self, store: Any, call: str, where: str) -> None:
        self._store = store
        self._call = call
        self._where = where
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        """The store's own, but for the call that stops."""
        call = getattr(self._store, name)
        if name != self._call:
            return call

        async def stopping(*arguments: Any, **options: Any) -> Any:
            if self._where == "before":
                await self.stop()
            result = await call(*arguments, **options)
            if self._where == "after":
                await self.stop()
            return result

        return stopping

    async def stop(self) -> None:
        """Waits until it may go on."""
        self.arrived.set()
        await self.go.wait()


@contextmanager
def loads_held(keys: APIKeys, where: str) -> Iterator[Held]:
    """What verification reads stops there; what manages keys does not."""
    loader = keys._loader
    store, loader._store = loader._store, Held(loader._store, "load", where)
    try:
        yield loader._store
    finally:
        loader._store.go.set()
        loader._store = store


@contextmanager
def changes_held(keys: APIKeys, where: str) -> Iterator[Held]:
    """A change of a key stops there; what verification reads does not."""
    store, keys._store = keys._store, Held(keys._store, "change", where)
    try:
        yield keys._store
    finally:
        keys._store.go.set()
        keys._store = store
