"""Tells the application's callbacks what happened to keys, without anybody waiting for them.

Knows records and the store; no framework and no database.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final, TypeVar, cast, get_args, overload

from keylatch import bounds
from keylatch.callables import yields
from keylatch.errors import AuthenticationError
from keylatch.expiring import Expiring, Window
from keylatch.frozen import frozen
from keylatch.gathering import Alike, Gathering
from keylatch.listeners import PARTING, Listener, is_within_callback
from keylatch.records import Action, APIKey, Happening, KeyEvent
from keylatch.settling import News, Over, Settling
from keylatch.store import Store

logger: Final = logging.getLogger("keylatch")

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

# Seconds for which refusals that are alike are counted before they are told.
_GATHERED: Final = 1.0
# Seconds that are spent on telling what waits, at the end or when somebody waits for it.
PATIENCE: Final = 5.0

# Events that may wait for a callback when a key is found that ends soon.
_MOST_AHEAD: Final = 100
# Seconds until it is looked whether they are fewer.
_PAUSE: Final = 0.05

# For events that wait: metadata may be written in any letters.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)

C = TypeVar("C", bound=Callable[[Happening], object])


class Hooks:
    """The callbacks of a collection, and what they are told.

    Args:
        store: Tells whether the changes of a host's transaction were committed.
        now: Tells the time.
        expiring: Which keys are told of before they end.

    Attributes:
        hears_refusals: Whether a callback is told of refusals.
    """

    def __init__(self, store: Store, now: Callable[[], datetime], *, expiring: Window) -> None:
        self.hears_refusals: bool = False
        self._store = store
        self._now = now
        self._window = expiring
        self._listeners: list[Listener] = []
        self._reset()

    def begin_anew(self) -> None:
        """With the same callbacks and nothing that waits: in the child after a fork."""
        inherited, self._listeners = self._listeners, []
        # A task that goes unfinished would be complained about.
        self._inherited: object = inherited, self._settler, self._watcher
        self._reset()
        for listener in inherited:
            self.add(listener.callback, listener.actions)

    def _reset(self) -> None:
        self._settling = Settling(self._store, self._hand_out)
        self._settler: asyncio.Task[None] | None = None
        self._expiring = Expiring(
            self._store,
            self._now,
            window=self._window,
            room=self._room,
            tell=self._hand_out,
            doubt=self.doubt,
        )
        self._watcher: asyncio.Task[None] | None = None
        self._refusals = Gathering()
        self._loop: asyncio.AbstractEventLoop | None = None  # while the collection is started

    def add(self, callback: Callable[[Happening], object], actions: frozenset[Action]) -> None:
        """Has a callback be told."""
        self._listeners.append(Listener(callback, actions))
        self.hears_refusals = self.hears_refusals or "refused" in actions
        self._in_loop(self._watch)

    def counts(self) -> tuple[int, int, int]:
        """How many events wait, how many were dropped, and how often callbacks have failed."""
        each = self._listeners
        return (
            sum(listener.waiting for listener in each)
            + self._settling.waiting
            + len(self._refusals),
            sum(listener.dropped for listener in each) + self._settling.dropped,
            sum(listener.failed for listener in each),
        )

    def tell(self, news: Sequence[News], over: Over | None) -> None:
        """Tells of changes that were made, once their transaction is over if it is a host's."""
        if not self._listeners or not news:
            return
        if over is None:
            self._hand_out(news)
        else:
            self._hold(news, over)

    def doubt(self, news: Sequence[News], over: Over | None) -> None:
        """Tells of those changes that turn out to be made, of some that failed or were given up."""
        if self._listeners:
            # Once each: an attempt that was repeated may have decided the same.
            for each in dict(news).items():
                self._hold([each], over)

    def refuse(self, error: AuthenticationError) -> None:
        """Tells of a refusal, a second later and with others like it."""
        if self._refusals.count(error.code, error.key):
            return
        if not self._refusals:
            self._in_loop(self._gather)
        self._refusals.add(Alike(error.code, error.key, self._now(), 1))

    def start(self) -> None:
        """Begins to tell, in this event loop, beginning with what happened before."""
        self._loop = asyncio.get_running_loop()
        self._settling.attach()
        self._expiring.attach()
        self._settle()
        self._watch()
        self._ripen()

    async def flush(self) -> None:
        """Tells what there is to tell, and waits for that, but not for long.

        Raises:
            UnavailableError: Keys that end soon could not be looked for.
        """
        if self._loop is not None and self._loop.is_closed():
            self._loop = None
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            told = asyncio.run_coroutine_threadsafe(self.flush(), self._loop)
            await asyncio.wrap_future(told)
            return
        try:
            # A callback may be what it would wait for.
            if self._hear("expiring") and not is_within_callback():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await self._expiring.look()
        finally:
            await self._tell_waiting()

    async def _tell_waiting(self) -> None:
        await self._settling.look()
        self._ripen()
        await self._told(PATIENCE)
        if self._loop is None:  # nobody else would end them
            await self._stop(each for each in self._listeners if each.is_waited_for())

    async def close(self) -> None:
        """Tells what there is to tell, within five seconds."""
        try:
            await self._end_tasks()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE - PARTING):
                    await self._settling.look()
                    self._ripen()
                    await self._told(PATIENCE)
        finally:
            self._loop = None
            await self._end_tasks()  # of what was cut off just now
            if lost := await self._stop(self._listeners):
                logger.warning("%d events were not told to callbacks: the end came first", lost)

    async def _end_tasks(self) -> None:
        tasks = [task for task in (self._settler, self._watcher) if task is not None]
        self._settler = self._watcher = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _told(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while (left := until - loop.time()) > 0:
            self._begin()
            workers = [each.worker for each in self._listeners if each.is_waited_for()]
            here = [each for each in workers if each is not None and each.get_loop() is loop]
            if not here:
                return
            await asyncio.wait(here, timeout=left)

    async def _stop(self, listeners: Iterable[Listener]) -> int:
        return sum(await asyncio.gather(*(each.stop() for each in listeners)))

    def _hold(self, news: Sequence[News], over: Over | None) -> None:
        self._settling.add(news, over)
        self._in_loop(self._settle)

    def _settle(self) -> None:
        if self._settling.waiting and (self._settler is None or self._settler.done()):
            self._settler = asyncio.create_task(self._settling.run(), name="keylatch-settling")

    def _watch(self) -> None:
        if self._watcher is None and self._hear("expiring"):
            self._watcher = asyncio.create_task(self._expiring.run(), name="keylatch-expiring")

    async def _room(self) -> None:
        """Waits until another key may be told of: once it is written that it was, it has to be."""
        while any(
            listener.waiting >= _MOST_AHEAD
            for listener in self._listeners
            if "expiring" in listener.actions
        ):
            self._begin()
            await asyncio.sleep(_PAUSE)

    def _hear(self, action: Action) -> bool:
        return any(action in listener.actions for listener in self._listeners)

    def _gather(self) -> None:
        asyncio.get_running_loop().call_later(_GATHERED, self._ripen)

    def _ripen(self) -> None:
        for alike in self._refusals.take_all():
            for listener in self._listeners:
                if "refused" in listener.actions:
                    listener.add_refusals(alike)
        if self._loop is not None:
            self._begin()

    def _hand_out(self, news: Sequence[News]) -> None:
        for event, key in news:
            make: Callable[[], Happening] | None = None
            for listener in self._listeners:
                if event.action not in listener.actions:
                    continue
                if listener.is_full:
                    listener.dropped += 1
                    continue
                make = make or _to_be_made(event, key)
                listener.add(make)
        self._in_loop(self._begin)

    def _begin(self) -> None:
        for listener in self._listeners:
            listener.begin()

    def _in_loop(self, what: Callable[[], None]) -> None:
        """Does it in the event loop of the collection, from wherever this is; unstarted, never."""
        if self._loop is None:
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            what()
        else:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(what)


class EventCallbacks:
    """The call that has callbacks be told of events."""

    _hooks: Hooks

    @overload
    def on_event(self, callback: C, *, actions: Iterable[Action] = ACTIONS) -> C: ...

    @overload
    def on_event(self, *, actions: Iterable[Action] = ACTIONS) -> Callable[[C], C]: ...

    def on_event(
        self, callback: C | None = None, *, actions: Iterable[Action] = ACTIONS
    ) -> C | Callable[[C], C]:
        """Has a callback be told what happens to keys: ``keys.on_event(tell_slack)``.

        Also a decorator: ``@keys.on_event``, or ``@keys.on_event(actions=["revoked"])``. It may be
        called before the start and after it. A callback gets a ``keylatch.Happening``, which holds
        no token.

        Nobody waits for a callback, and none can break anything: not the request, not the change
        that it is told of, not another callback. One that is ``async`` runs in the event loop,
        which it must not block, and is cancelled after 30 seconds; any other runs in a thread. It
        is called with one event after the other, in their order. What it raises is logged, and
        counted in ``keys.health()``.

        - It is told of what is done through this collection, here in this process: not by other
          workers, nor by the command line. One event for each key, also where a call changes many.
        - A change with ``connection=`` is told a moment after its transaction has committed, and
          never if that is rolled back.
        - ``expiring`` is told once for each key that ends within ``expiring_within``, by one of all
          workers with a callback for it: the audit trail has an entry that it was. It is told again
          if the key is to end at another moment. Keys that were rotated are among them.
        - ``refused`` is told a second later, once for all refusals since then that have the same
          error code and the same key. Requests without a key are among them, as ``missing_key``;
          not those that ``auth.optional`` lets pass, or ``auth.either`` leaves to the other scheme.
          The key is given only where the secret was right. What cannot be told (503) is none.
        - Each is told once at most. At most 10,000 events wait for a callback, and what finds no
          room is dropped, and counted. At the end of the collection five seconds are spent on those
          that wait; a process that crashes tells no more.
        - Events wait until the collection is started. ``await keys.flush()`` tells them at once, in
          tests for one, and without a start, too.

        Args:
            callback: Takes an event.
            actions: What it is told of; everything if left out.

        Returns:
            The callback; without one, what takes it.

        Raises:
            ValueError: An action is not one, or there is none.
            TypeError: The callback cannot be called or is a generator, or the actions are no list
                of names.
        """
        wanted = _actions(actions)
        if callback is None:
            return lambda callback: self._listened(callback, wanted)
        return self._listened(callback, wanted)

    def _listened(self, callback: C, actions: frozenset[Action]) -> C:
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
        if yields(callback):
            raise TypeError("a callback must not yield: nothing of it would ever run")
        self._hooks.add(callback, actions)
        return callback


def _actions(values: Iterable[Action]) -> frozenset[Action]:
    names = bounds.names(values, "actions", such_as="revoked")
    if not names or not names <= set(ACTIONS):
        raise ValueError("actions must be some of " + ", ".join(ACTIONS))
    return names


def _to_be_made(event: KeyEvent, key: APIKey) -> Callable[[], Happening]:
    """Makes what a callback is told when it is: thousands at once would hold up the event loop."""
    # As text: what the caller has got may be changed before that, and lists and dicts take a
    # hundred times the memory while they wait.
    written = _ENCODER.encode([key.metadata, event.details])
    return partial(
        _happening, event.action, event.at, event.actor, replace(key, metadata={}), written
    )


def _happening(
    action: str, at: datetime, actor: str | None, key: APIKey, written: str
) -> Happening:
    metadata, details = map(frozen, json.loads(written))
    return Happening(
        action=cast("Action", action),  # as one that a callback is told of
        at=at,
        key=replace(key, metadata=metadata),
        key_id=key.id,
        actor=actor,
        details=details,
    )
