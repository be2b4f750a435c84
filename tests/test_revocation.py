"""Once a change has returned, or its transaction was committed, its own process holds to it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import pytest
from holding import changes_held, loads_held
from hosts import KINDS

from keylatch import APIKeys, Hasher, SecretRing
from keylatch.errors import (
    AuthenticationError,
    ExpiredKeyError,
    InsufficientScopeError,
    RevokedKeyError,
)
from keylatch.records import NewKey

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Ending:
    """A change after which a key opens no more what it opened, and what is said of it then."""

    error: type[AuthenticationError]
    make: Callable[..., Awaitable[Any]]


ENDINGS = {
    "revoke": Ending(RevokedKeyError, lambda keys, key, **own: keys.revoke(key.id, **own)),
    "revoke_all": Ending(
        RevokedKeyError, lambda keys, key, **own: keys.revoke_all(owner=key.owner, **own)
    ),
    "rotate": Ending(
        ExpiredKeyError, lambda keys, key, **own: keys.rotate(key.id, grace=0 * MINUTE, **own)
    ),
    "narrow": Ending(
        InsufficientScopeError, lambda keys, key, **own: keys.update(key.id, scopes=["a"], **own)
    ),
}


@pytest.fixture(params=ENDINGS)
def ending(request: pytest.FixtureRequest) -> Ending:
    """Each change that takes something from a key."""
    return ENDINGS[request.param]


async def create(keys: APIKeys) -> NewKey:
    """A key that opens."""
    return await keys.create(name="ci", owner="u1", scopes=["a", "b"])


async def opens(keys: APIKeys, new: NewKey) -> None:
    """The key passes."""
    assert (await keys.verify(new.token, scopes=["b"])).id == new.key.id


async def is_refused(keys: APIKeys, new: NewKey, error: type[AuthenticationError]) -> None:
    """The key does not pass, again and again."""
    for _ in range(3):
        with pytest.raises(error):
            await opens(keys, new)


def attempts(keys: APIKeys, new: NewKey, count: int = 3) -> list[asyncio.Task[None]]:
    """Requests under way."""
    return [asyncio.create_task(opens(keys, new)) for _ in range(count)]


async def refusals(tasks: list[asyncio.Task[None]]) -> set[type[BaseException] | None]:
    """What became of them; None for those that passed."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return {None if outcome is None else type(outcome) for outcome in outcomes}


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_load_in_flight_revives_no_key(keys, clock, ending, where):
    """Whatever it read, those who wait for it and those who join them are refused."""
    new = await create(keys)
    with loads_held(keys, where) as load:
        tasks = attempts(keys, new)
        await load.arrived.wait()
        clock.advance(seconds=1)
        await ending.make(keys, new.key)
        tasks += attempts(keys, new)
        await asyncio.sleep(0)
        load.go.set()
        assert await refusals(tasks) == {ending.error}
    await is_refused(keys, new, ending.error)


async def test_a_slow_hash_in_flight_revives_no_key(keys, clock, ending, secret):
    """The row was read, and the token is still being verified against it."""
    keys._hasher = Hasher(SecretRing(secret), scheme="argon2id", memory_kib=7168, iterations=1)
    new = await create(keys)
    stretching, arrived, go = keys._loader._stretching, asyncio.Event(), asyncio.Event()
    run = stretching.run

    async def held(work: Callable[[], None]) -> None:
        await run(work)
        arrived.set()
        await go.wait()

    stretching.run = held
    tasks = attempts(keys, new, 1)
    await arrived.wait()
    clock.advance(seconds=1)
    await ending.make(keys, new.key)
    tasks += attempts(keys, new)
    await asyncio.sleep(0)
    go.set()
    assert await refusals(tasks) == {ending.error}
    await is_refused(keys, new, ending.error)


@pytest.mark.parametrize("name", ["revoke", "rotate", "narrow"])
async def test_in_whatever_order_they_go_on_none_passes_after_a_change(keys, name):
    """A load and a change that are both through with the database, some turns of the loop apart.

    Whoever comes right after the change, in the same turn, is refused as well.
    """
    ending = ENDINGS[name]
    for turns, load_first in itertools.product(range(5), (True, False)):
        new = await create(keys)
        told: list[str] = []

        async def request(new: NewKey = new, told: list[str] = told) -> None:
            try:
                await opens(keys, new)
                told.append("passed")
            except ending.error:
                told.append("refused")

        async def change(new: NewKey = new, told: list[str] = told) -> None:
            await ending.make(keys, new.key)
            told.append("changed")
            await is_refused(keys, new, ending.error)

        with loads_held(keys, "after") as load, changes_held(keys, "after") as changed:
            tasks = [asyncio.create_task(request())]
            await load.arrived.wait()
            tasks.append(asyncio.create_task(change()))
            await changed.arrived.wait()
            first, second = (load, changed) if load_first else (changed, load)
            first.go.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            second.go.set()
            await asyncio.gather(*tasks)
        assert told in (["passed", "changed"], ["refused", "changed"], ["changed", "refused"])


class Crowd:
    """Requests that never stop, cached and not, while the block makes a change.

    It begins once many have passed, and ends once many were refused.
    """

    def __init__(self, keys: APIKeys, new: NewKey, error: type[AuthenticationError]) -> None:
        self._keys = keys
        self._new = new
        self._error = error
        self._told: list[str] = []
        self._passed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask(evicts=not number)) for number in range(4)]
        await self._passed.wait()
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*self._tasks)
        assert "passed" not in self._told[self._told.index("changed") :]

    def changed(self) -> None:
        """The change has returned."""
        self._told.append("changed")

    async def _ask(self, *, evicts: bool) -> None:
        while self._told.count("refused") < 40:
            if evicts:
                self._keys._engine.flush()
            try:
                await opens(self._keys, self._new)
                self._told.append("passed")
            except self._error:
                self._told.append("refused")
            if self._told.count("passed") >= 40:
                self._passed.set()
            await asyncio.sleep(0)


async def test_a_crowd_passes_until_the_change_returns_and_no_longer(keys, ending):
    """Whoever was let in was let in before."""
    new = await create(keys)
    async with Crowd(keys, new, ending.error) as crowd:
        await ending.make(keys, new.key)
        crowd.changed()


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_key_that_ends_while_it_is_read_does_not_pass(keys, clock, where):
    """What counts is the moment at which it is judged, not that of the request."""
    new = await keys.create(name="ci", scopes=["b"], expires_in=MINUTE)
    with loads_held(keys, where) as load:
        tasks = attempts(keys, new)
        await load.arrived.wait()
        clock.advance(minutes=1)
        load.go.set()
        assert await refusals(tasks) == {ExpiredKeyError}
    await is_refused(keys, new, ExpiredKeyError)


async def is_cached(keys: APIKeys, new: NewKey) -> bool:
    """Whether the key passes without the database, the second time at least."""
    await opens(keys, new)
    hits = keys.health().hits
    await opens(keys, new)
    return keys.health().hits > hits


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hosts_change_counts_from_its_commit(host, host_keys, kind):
    """Before it nothing is seen of it, after a rollback nothing was, and then nothing passes."""
    for ending in ENDINGS.values():
        new = await create(host_keys)
        for commits in (False, True):
            assert await is_cached(host_keys, new)
            async with host.transaction(kind) as transaction:
                await ending.make(host_keys, new.key, connection=transaction.connection)
                assert await refusals(attempts(host_keys, new, 20)) == {None}
                await opens(host_keys, new)
                await (transaction.commit if commits else transaction.rollback)()
                if commits:
                    await is_refused(host_keys, new, ending.error)
        await is_refused(host_keys, new, ending.error)


async def test_a_host_that_just_leaves_has_changed_nothing(host, host_keys):
    """A session that is closed, or a block that raises, is over: the key is cached again."""
    for ending in ENDINGS.values():
        new = await create(host_keys)
        async with host.transaction() as transaction:
            await ending.make(host_keys, new.key, connection=transaction.connection)
            assert not await is_cached(host_keys, new)
        assert await is_cached(host_keys, new)
        with suppress(KeyError):
            async with host.transaction("connection") as transaction, transaction.begin():
                await ending.make(host_keys, new.key, connection=transaction.connection)
                assert not await is_cached(host_keys, new)
                {}["of the host"]
        assert await is_cached(host_keys, new)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_load_in_flight_while_the_host_ends_its_transaction(
    host, host_keys, clock, ending, where
):
    """It may have begun before the change or after it, and others may join it after the end."""
    for early, commits in itertools.product((True, False), (True, False)):
        new = await create(host_keys)
        with loads_held(host_keys, where) as load:
            tasks = attempts(host_keys, new) if early else []
            async with host.transaction() as transaction:
                if early:
                    await load.arrived.wait()
                clock.advance(seconds=1)
                await ending.make(host_keys, new.key, connection=transaction.connection)
                tasks += attempts(host_keys, new)
                await load.arrived.wait()
                await (transaction.commit if commits else transaction.rollback)()
                tasks += attempts(host_keys, new)
                await asyncio.sleep(0)
                load.go.set()
                assert await refusals(tasks) == {ending.error if commits else None}
        if commits:
            await is_refused(host_keys, new, ending.error)
        else:
            assert await is_cached(host_keys, new)


async def test_a_commit_that_others_wait_for(host, host_keys):
    """Requests that never stop pass until the commit returns, and no longer."""
    for ending in ENDINGS.values():
        new = await create(host_keys)
        crowd = Crowd(host_keys, new, ending.error)
        async with host.transaction() as transaction:
            await ending.make(host_keys, new.key, connection=transaction.connection)
            async with crowd:
                if host.asynchronous:
                    await transaction.commit()
                else:
                    await asyncio.to_thread(transaction.connection.commit)
                crowd.changed()


@pytest.mark.parametrize("kind", KINDS)
async def test_savepoints(host, host_keys, kind):
    """What a savepoint takes back did not happen; what it keeps happens with the transaction."""
    outcomes = ((False, True), (True, False), (True, True))
    for ending, (keeps, commits) in itertools.product(ENDINGS.values(), outcomes):
        new = await create(host_keys)
        async with host.transaction(kind) as transaction:
            await transaction.add(new.key.id)
            with suppress(KeyError):
                async with transaction.savepoint():
                    await ending.make(host_keys, new.key, connection=transaction.connection)
                    await opens(host_keys, new)
                    if not keeps:
                        {}["of the host"]
            await opens(host_keys, new)
            await (transaction.commit if commits else transaction.rollback)()
        if keeps and commits:
            await is_refused(host_keys, new, ending.error)
        else:
            assert await is_cached(host_keys, new)


@pytest.mark.parametrize("engine_name", ["sqlite-async", "postgres-async", "mariadb-async"])
async def test_one_of_two_transactions_ends(host, host_keys, engine_name):
    """A key that each of them changes in turn is not cached until both are over."""
    news = [await create(host_keys) for _ in range(2)]
    async with host.transaction() as one, host.transaction() as two:
        await host_keys.revoke(news[0].key.id, connection=one.connection)
        await one.rollback()
        await host_keys.revoke(news[0].key.id, connection=two.connection)
        await opens(host_keys, news[0])
        await opens(host_keys, news[1])
        await two.commit()
        await is_refused(host_keys, news[0], RevokedKeyError)
    assert await is_cached(host_keys, news[1])


async def test_a_transaction_that_outlives_a_restart(host, host_keys):
    """The collection was closed and opened again while the host had it open."""
    for ending in ENDINGS.values():
        new = await create(host_keys)
        async with host.transaction() as transaction:
            await ending.make(host_keys, new.key, connection=transaction.connection)
            await host_keys.__aexit__(None, None, None)
            await host_keys.__aenter__()
            assert not await is_cached(host_keys, new)
            await transaction.commit()
        await is_refused(host_keys, new, ending.error)
        await host_keys.flush()  # to close writes what is left, for which SQLite would wait
