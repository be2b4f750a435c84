"""Random lives of keys: every store does what the model says, for one worker and for two at once.

``KEYLATCH_SOAK=1`` tries forty times as many.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from calls import CALLS, PREFIXES, Call, FromNow, any_of
from conftest import Clock
from databases import ENGINES
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from model import Model, RefusedError, json_text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only
from stores import key_database
from subject import SILENT, as_elsewhere

from keylatch import APIKeys, SecretRing, Token, management
from keylatch.bounds import LEAST_DEAD_FOR
from keylatch.errors import KeylatchError, KeyStateError
from keylatch.memory import MemoryStore
from keylatch.records import APIKey, KeyEvent, NewKey
from keylatch.sqlalchemy import SQLAlchemyStore, metadata
from keylatch.store import Store

EXAMPLES = 4 * (150 if os.environ.get("KEYLATCH_SOAK") else 1)
examples = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.explain},  # which takes as long as all the rest
)
# How long a worker is held up for another one, which may be waiting for it: seconds.
PATIENCE = 0.01
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

changing = ("create", "create", "update", "update", "rotate", "rotate", "revoke", "revoke_all")
# What shrinks ends up as the first: a wait for nothing.
reading = ("get", "events", "verify", "list", "list")
steps = any_of("wait", *changing, *changing, *reading, "purge", "wait")
beginnings = st.lists(CALLS["create"], min_size=2, max_size=4)


@dataclass(frozen=True)
class Pair:
    """Two calls at once.

    Attributes:
        calls: One for each worker.
        pause: Before which statement of the first worker the second one begins.
        collide: Whether both mint the same key id, if both mint one.
    """

    calls: tuple[Call, Call]
    pause: int
    collide: bool


@st.composite
def pairs(draw: Callable[..., Any]) -> Pair:
    """Two calls, often about the same key."""
    first, second = draw(
        st.sampled_from(
            [
                ("rotate", "rotate"),
                ("rotate", "revoke"),
                ("rotate", "revoke_all"),
                ("update", "update"),
                ("update", "rotate"),
                ("create", "create"),
                ("create", "rotate"),
            ]
        )
        | st.tuples(st.sampled_from(changing), st.sampled_from(sorted(CALLS.keys() - {"wait"})))
        | st.tuples(st.just("purge"), st.sampled_from(sorted(CALLS.keys() - {"wait"})))
    )
    calls = [draw(CALLS[first]), draw(CALLS[second])]
    if draw(st.booleans()):
        key = {"key": 0, "token": 0}
        calls = [
            Call(each.name, {k: key.get(k, value) for k, value in each.arguments.items()})
            for each in calls
        ]
    if draw(st.booleans()):
        calls.reverse()
    return Pair((calls[0], calls[1]), draw(st.integers(1, 8)), draw(st.booleans()))


# Of two keys that live, and one that has expired: their places are 0, 1 and 2.
ROTATE = Call("rotate", {"key": 0, "grace": HOUR})
REVOKE = Call("revoke", {"key": 0, "reason": "leaked"})
REVOKE_ALL = Call("revoke_all", {"owner": "u1"})
UPDATE = Call("update", {"key": 0, "name": "b", "expires_at": FromNow(2 * DAY)})
PURGE = Call("purge", {"dead_for": HOUR * 0})
OVERTAKING = [
    (ROTATE, ROTATE),
    (ROTATE, REVOKE),
    (ROTATE, REVOKE_ALL),
    (ROTATE, UPDATE),
    (ROTATE, Call("create", {"name": "new"})),
    (UPDATE, Call("update", {"key": 0, "scopes": ["b"]})),
    (REVOKE, PURGE),
    (REVOKE_ALL, REVOKE_ALL),
    (REVOKE_ALL, PURGE),
    (PURGE, Call("events", {"key": 2})),
]


@dataclass(frozen=True)
class Outcome:
    """What came of a call: an answer or an error, and a key's id and token if it made one."""

    answer: Any = None
    fault: str = ""
    made: tuple[str, str] | None = None


Step = tuple[tuple[str, dict[str, Any]], Outcome]


async def ask(keys: APIKeys, name: str, arguments: dict[str, Any]) -> Outcome:
    """Makes a call."""
    try:
        if name == "list":
            return Outcome(await pages(keys, **arguments))
        if name == "purge" and timedelta(0) <= arguments["dead_for"] < LEAST_DEAD_FOR:
            # A store has no least, and there is most to run into.
            answer = await keys._store.purge(keys._now() - arguments["dead_for"])
        else:
            answer = await getattr(keys, name)(**arguments)
    except KeyStateError as error:
        return Outcome(fault=f"KeyStateError: {error.state}")
    except (KeylatchError, ValueError, TypeError) as error:
        return Outcome(fault=type(error).__name__)
    if isinstance(answer, NewKey):
        assert answer.token.startswith(f"{answer.key.prefix}_{answer.key.id}_")
        return Outcome(told(answer.key), made=(answer.key.id, answer.token))
    return Outcome(sorted(answer) if name == "revoke_all" else told(answer))


async def pages(keys: APIKeys, *, limit: int = 500, **filters: Any) -> list[dict[str, Any]]:
    """Reads all pages, each of which is full but the last one."""
    found, cursor = [], None
    while True:
        page = await keys.list(**filters, limit=limit, cursor=cursor)
        found += told(page.items)
        cursor = page.next_cursor
        if cursor is None:
            assert len(page.items) <= limit
            return found
        assert len(page.items) == limit


def told(value: Any) -> Any:
    """What a caller gets, as the model tells it."""
    if isinstance(value, list):
        return [told(each) for each in value]
    if isinstance(value, datetime):
        assert value.tzinfo is UTC
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return json_text(value)
    if isinstance(value, APIKey | KeyEvent):
        return {name: told(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def explains(model: Model, name: str, arguments: dict[str, Any], outcome: Outcome) -> bool:
    """Whether the model says the same, which has gone on then."""
    try:
        predicted = model.call(name, arguments, outcome.made)
    except RefusedError as refused:
        return outcome.fault in refused.faults
    return not outcome.fault and bool(predicted == outcome.answer)


def orders(one: Step, two: Step) -> Iterator[tuple[Step, ...]]:
    """In which order calls at once may have been. A purge goes in portions, as it says."""
    yield one, two
    yield two, one
    for ((name, arguments), outcome), other in ((one, two), (two, one)):
        if name == "purge" and not outcome.fault:
            for number, revoked_only in product(range(1, outcome.answer + 1), (True, False)):
                portion = arguments | {"revoked_only": revoked_only}
                yield (
                    ((name, portion), Outcome(number)),
                    other,
                    ((name, arguments), Outcome(outcome.answer - number)),
                )


class World:
    """Some workers on one database, under one clock."""

    def __init__(self, stores: Sequence[Store], secret: str) -> None:
        self.clock = Clock()
        self.stores = stores
        self.rings = [SecretRing(secret) for _ in stores]
        self.workers = [
            APIKeys(store, prefix=PREFIXES, secret=ring, clock=self.clock, **SILENT)
            for store, ring in zip(stores, self.rings, strict=True)
        ]
        self.holdup = Holdup(stores[0]) if isinstance(stores[0], SQLAlchemyStore) else None

    async def begin(self) -> Model:
        """Empties the store, and begins anew."""
        store = self.stores[0]
        if isinstance(store, MemoryStore):
            store.__init__()
        else:
            await store._database.run(empty)
        self.clock.now = Clock.now
        return Model(PREFIXES, self.clock.now)

    async def open(self) -> None:
        """Opens all connections."""
        for keys in self.workers:
            as_elsewhere(await keys.__aenter__())

    async def close(self) -> None:
        """Closes them."""
        for keys in self.workers:
            await keys.__aexit__(None, None, None)

    async def live(self, calls: Sequence[Call | Pair]) -> None:
        """Does one thing after the other, and finds all as the model has it."""
        model = await self.begin()
        for number, each in enumerate(calls):
            if isinstance(each, Pair):
                note(repr(each))
                model = await self.both(model, each)
            elif each.name == "wait":
                self.clock.now += each.resolve(model)["by"]
                model.now = self.clock.now
            else:
                arguments = each.resolve(model)
                keys = self.workers[number % len(self.workers)]
                outcome = await ask(keys, each.name, arguments)
                note(f"{each}: {outcome}")
                arguments.pop("limit", None)
                assert explains(model, each.name, arguments, outcome), (each, outcome)
                assert await self.state() == state(model), each
            await self.hear()
            if "purge" in [
                call.name for call in (each.calls if isinstance(each, Pair) else [each])
            ]:
                self.forget()
        await self.audit(model)

    async def hear(self) -> None:
        """Every worker has heard of what the others did."""
        for keys in self.workers:
            await keys._feed.once()

    def forget(self) -> None:
        """No worker has a key in its cache, where one that had expired may outlast a purge."""
        for keys in self.workers:
            keys._engine.flush()

    async def both(self, model: Model, pair: Pair) -> Model:
        """Two calls at once come out as if one had been made after the other."""
        calls = [(each.name, each.resolve(model)) for each in pair.calls]
        for _, arguments in calls:
            arguments.pop("limit", None)
        asked = [partial(ask, keys, *each) for keys, each in zip(self.workers, calls, strict=True)]
        with colliding(self.rings if pair.collide else []):
            if self.holdup is None:
                outcomes = await asyncio.gather(*(each() for each in asked))
            else:
                outcomes = await self.holdup.overtake(pair.pause, *asked)
        seen = await self.state()
        for order in orders(*zip(calls, outcomes, strict=True)):
            trial = deepcopy(model)
            if all(explains(trial, *call, outcome) for call, outcome in order) and (
                state(trial) == seen
            ):
                return trial
        raise AssertionError(f"no order explains {pair} at {model.now}: {outcomes}, {seen}")

    async def state(self) -> Any:
        """All keys, as the last worker lists them, and all events, as they stand there."""
        trails = defaultdict(list)
        for event in await self._events():
            trails[event.key_id].append(told(event))
        return await pages(self.workers[-1]), dict(trails)

    async def _events(self) -> list[KeyEvent]:
        store = self.stores[-1]
        if isinstance(store, MemoryStore):
            return store._events
        return await store._database.run(all_events)

    async def audit(self, model: Model) -> None:
        """Every key and every token that there ever was is as the model says, and every list."""
        for key_id, token in model.tokens.items():
            for name, arguments in (
                ("get", {"key_id": key_id}),
                ("events", {"key_id": key_id}),
                ("verify", {"token": token}),
            ):
                outcome = await ask(self.workers[0], name, arguments)
                assert explains(model, name, arguments, outcome), (name, key_id, outcome)
        for filters in probes(model):
            outcome = await ask(self.workers[0], "list", filters | {"limit": 3})
            assert explains(model, "list", filters, outcome), (filters, outcome)
        marks = await self.stores[0].changes(after=0, missing=(), limit=1000)
        assert sorted((mark.key_id, mark.at) for mark in marks) == model.marks()
        assert [mark.number for mark in marks] == sorted({mark.number for mark in marks})


class Holdup:
    """Holds up the transactions of a store while somebody overtakes them."""

    def __init__(self, store: SQLAlchemyStore) -> None:
        self._statements = 0
        self._pause = 0
        self._wait: Callable[[], Any] | None = None
        engine = store._database.engine
        if isinstance(engine, AsyncEngine):
            self._stop: Callable[[], Any] = lambda: await_only(self._wait())
            engine = engine.sync_engine
        else:
            loop = asyncio.get_running_loop()
            self._stop = lambda: asyncio.run_coroutine_threadsafe(self._wait(), loop).result()
        sa.event.listen(engine, "before_cursor_execute", self._count)
        sa.event.listen(engine, "commit", self._count)

    @property
    def came(self) -> bool:
        """Whether the last call had a statement to be held up at."""
        return self._statements >= self._pause

    def _count(self, *_: object) -> None:
        if self._wait is None:
            return
        self._statements += 1
        if self._statements == self._pause:
            self._stop()

    async def overtake(
        self, pause: int, slow: Callable[[], Any], fast: Callable[[], Any]
    ) -> tuple[Outcome, Outcome]:
        """Starts one call, and another one before some statement of the first."""
        stopped, passed = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            stopped.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await passed.wait()

        self._statements, self._pause, self._wait = 0, pause, wait
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(slow())
            first.add_done_callback(lambda _: stopped.set())
            await stopped.wait()
            second = tasks.create_task(fast())
            second.add_done_callback(lambda _: passed.set())
        self._wait = None
        return first.result(), second.result()


@contextmanager
def colliding(rings: Sequence[SecretRing]) -> Iterator[None]:
    """Has the first key that each of some workers makes bear one id, as chance might have it."""
    twins: dict[str, Token] = {}
    waiting = [id(ring) for ring in rings]

    class Colliding:
        @staticmethod
        def mint(prefix: str, ring: SecretRing) -> Token:
            if id(ring) not in waiting:
                return Token.mint(prefix, ring)
            waiting.remove(id(ring))
            return twins.setdefault(prefix, Token.mint(prefix, ring))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(management, "Token", Colliding)
        yield


def state(model: Model) -> Any:
    """All keys and all events."""
    return model.list(), model.trails()


def probes(model: Model) -> Iterator[dict[str, Any]]:
    """Filters by what is, in each order, with moments that just miss a key."""
    made = [key.created_at for key in model.keys.values()]
    ends = [key.expires_at for key in model.keys.values() if key.expires_at is not None]
    others: list[dict[str, Any]] = [{}, {"owner": "u1"}]
    others += [{"unused_since": max(made)}] if made else []
    others += [{"expiring_before": max(ends)}] if ends else []
    for status in (None, "active", "expired", "revoked"):
        for other in others:
            yield {"status": status, **other}


def empty(connection: sa.Connection) -> None:
    """Deletes all keys, in no way that keylatch knows."""
    for name in ("api_key_events", "api_keys"):
        connection.execute(sa.delete(metadata.tables[name]))


def all_events(connection: sa.Connection) -> list[KeyEvent]:
    """Reads the audit trails of all keys, as they stand in the database."""
    event = metadata.tables["api_key_events"].c
    query = sa.select(event.key_id, event.at, event.action, event.actor, event.details)
    return [KeyEvent(**row) for row in connection.execute(query.order_by(event.id)).mappings()]


async def overtake_everywhere(world: World, pair: tuple[Call, Call], *, collide: bool) -> None:
    """Has the second call overtake the first one before each of its statements."""
    keys = {"name": "ci", "owner": "u1"}
    for pause in range(1, 20):
        model = await world.begin()
        for each in (
            Call("create", keys | {"expires_in": HOUR}),
            Call("create", keys),
            Call("create", keys | {"expires_in": DAY}),
        ):
            outcome = await ask(world.workers[0], each.name, each.resolve(model))
            assert explains(model, each.name, each.resolve(model), outcome)
        world.clock.now = model.now = model.now + HOUR
        model = await world.both(model, Pair(pair, pause, collide))
        if world.holdup is None or not world.holdup.came:
            await world.audit(model)
            return
    raise AssertionError("the first call never ended")


@pytest.fixture(params=["memory", *ENGINES])
def make_stores(request: pytest.FixtureRequest) -> Iterator[Callable[[int], list[Store]]]:
    """Makes stores of each kind for some workers, on one database."""
    if request.param == "memory":
        store = MemoryStore()
        yield lambda workers: [store] * workers
        return
    with key_database(request.param) as url:
        yield lambda workers: [SQLAlchemyStore(url) for _ in range(workers)]


def test_a_call_may_be_overtaken_anywhere(make_stores, secret):
    """Before whichever statement another worker comes in, some order of both explains it all."""

    async def overtake() -> None:
        world = World(make_stores(2), secret)
        await world.open()
        try:
            for pair in OVERTAKING:
                for each in [pair] if pair[0] == pair[1] else [pair, pair[::-1]]:
                    made = {call.name for call in each} & {"create", "rotate"}
                    await overtake_everywhere(world, each, collide=bool(made))
        finally:
            await world.close()

    asyncio.run(overtake())


def try_lives(
    stores: Callable[[], list[Store]],
    secret: str,
    rest: st.SearchStrategy[Sequence[Call | Pair]],
) -> None:
    """Lives examples, all in one event loop, each of which begins with some keys."""

    async def made() -> World:
        return World(stores(), secret)

    with asyncio.Runner() as runner:
        world = runner.run(made())

        @examples
        @given(beginnings, rest)
        def live(beginning: Sequence[Call], rest: Sequence[Call | Pair]) -> None:
            runner.run(world.live([*beginning, *rest]))

        runner.run(world.open())
        try:
            live()
        finally:
            runner.run(world.close())


def test_whatever_happens_keys_are_as_the_model_says(make_stores, secret):
    """Each call answers, or refuses, as the model does, and leaves the same to be seen."""
    try_lives(lambda: make_stores(1), secret, st.lists(steps, min_size=16, max_size=21))


def test_two_workers_at_once_are_as_one_after_the_other(make_stores, secret):
    """Whatever two workers do at the same time, some order of both explains it wholly."""
    either = st.one_of(steps, pairs(), pairs())
    try_lives(lambda: make_stores(2), secret, st.lists(either, min_size=8, max_size=12))
