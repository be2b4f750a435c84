"""Workers that change one key at the same moment: someone comes first, and nothing is lost.

``KEYLATCH_SOAK=1`` tries twenty times as often.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest
from conftest import Clock
from hosts import Host

from keylatch import APIKeys, SecretRing, Token, making, management
from keylatch.errors import (
    ExpiredKeyError,
    InvalidKeyError,
    KeyStateError,
    RevokedKeyError,
    UnknownKeyError,
)
from keylatch.records import NewKey

pytestmark = pytest.mark.anyio

ROUNDS = 12 * (20 if os.environ.get("KEYLATCH_SOAK") else 1)
# What would come to an end by now, if it did not have to wait for somebody: seconds.
PATIENCE = 0.1
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
async def workers(database: str, secret: str, clock: Clock) -> AsyncIterator[tuple[APIKeys, ...]]:
    """Two workers with a pool of connections each, on one database."""
    async with AsyncExitStack() as stack:
        yield tuple(
            [
                await stack.enter_async_context(
                    APIKeys(database, prefix="acme", secret=SecretRing(secret), clock=clock)
                )
                for _ in range(2)
            ]
        )


async def at_once(*calls: Coroutine[Any, Any, Any], turns: int = 0) -> list[Any]:
    """What came of calls made at once, the last of them some turns of the event loop later.

    Answers, and those errors that say what has become of a key.
    """

    async def late(call: Coroutine[Any, Any, Any]) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await call

    *first, last = calls
    outcomes = await asyncio.gather(*first, late(last), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(
            outcome, KeyStateError | UnknownKeyError
        ):
            raise outcome
    return outcomes


def state(outcome: Any) -> str | None:
    """Why a call was refused; None if it was not."""
    return outcome.state if isinstance(outcome, KeyStateError) else None


def purge_now(keys: APIKeys) -> Coroutine[Any, Any, int]:
    """Deletes what died just now, as only a store does it: where there is most to run into."""
    return keys._store.purge(keys._now())


async def actions(keys: APIKeys, key_id: str) -> list[str]:
    """What happened to a key."""
    return [event.action for event in await keys.events(key_id)]


async def living(keys: APIKeys, owner: str) -> list[str]:
    """The ids of the keys that are not revoked."""
    found = (await keys.list(owner=owner, limit=500)).items
    return [key.id for key in found if key.revoked_at is None]


async def waiting(call: Awaitable[Any]) -> asyncio.Task[Any]:
    """A call under way that has come to where it waits for somebody."""
    task = asyncio.ensure_future(call)
    await asyncio.wait([task], timeout=PATIENCE)
    return task


def rounds() -> Any:
    """Numbers of rounds, in each of which others come first."""
    return [(number, number // 2 * 7 % 40, bool(number % 2)) for number in range(ROUNDS)]


async def test_of_two_rotations_one_wins(workers, clock):
    """There is one successor, and the other one is told that the key was rotated."""
    one, two = workers
    for number, turns, _ in rounds():
        owner = f"u{number}"
        old = await one.create(name="ci", owner=owner)
        outcomes = await at_once(
            one.rotate(old.key.id, grace=HOUR), two.rotate(old.key.id, grace=HOUR), turns=turns
        )
        (new,) = (outcome for outcome in outcomes if state(outcome) is None)
        (lost,) = (outcome for outcome in outcomes if state(outcome) is not None)
        assert state(lost) == "rotated"
        assert await one.verify(new.token) == new.key
        assert (await two.verify(old.token)).successor == new.key.id
        assert set(await living(two, owner)) == {old.key.id, new.key.id}
        assert await actions(one, old.key.id) == ["created", "rotated"]
        assert await actions(one, new.key.id) == ["created"]


async def test_a_rotation_and_a_revocation_come_one_after_the_other(workers):
    """What was revoked first has no successor; a successor that came first goes on."""
    one, two = workers
    for number, turns, swapped in rounds():
        owner = f"u{number}"
        old = await one.create(name="ci", owner=owner)
        calls = [one.rotate(old.key.id, grace=HOUR), two.revoke(old.key.id)]
        outcomes = await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        new, revoked = outcomes[:: -1 if swapped else 1]
        assert revoked.revoked_at is not None
        with pytest.raises(RevokedKeyError):
            await one.verify(old.token)
        if state(new) is None:
            assert (await two.verify(new.token)).id == revoked.successor
            assert await living(one, owner) == [revoked.successor]
            assert await actions(one, old.key.id) == ["created", "rotated", "revoked"]
        else:
            assert state(new) == "revoked"
            assert revoked.successor is None
            assert [key.id for key in (await one.list(owner=owner)).items] == [old.key.id]
            assert await actions(one, old.key.id) == ["created", "revoked"]


async def test_no_rotation_escapes_a_revocation_of_all(workers):
    """Once it returns, no key of the owner lives; each is named by whoever revoked it."""
    one, two = workers
    for number, turns, swapped in rounds():
        owner = f"u{number}"
        news = [await one.create(name="ci", owner=owner) for _ in range(3)]
        stranger = await one.create(name="ci", owner=f"U{number}")

        async def revoke_all(owner: str = owner) -> tuple[set[str], list[str]]:
            revoked = await two.revoke_all(owner=owner)
            assert len(revoked) == len(set(revoked))
            return set(revoked), await living(two, owner)

        rotations = [one.rotate(new.key.id, grace=HOUR) for new in news]
        calls = [*rotations, revoke_all()]
        outcomes = await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        *rotated, (revoked, left) = outcomes[:: -1 if swapped else 1]
        assert left == await living(one, owner) == []
        assert {state(outcome) for outcome in rotated} <= {None, "revoked"}
        news += [outcome for outcome in rotated if state(outcome) is None]
        assert revoked == {new.key.id for new in news}
        for new in news:
            with pytest.raises(RevokedKeyError):
                await one.verify(new.token)
        assert await one.verify(stranger.token)


async def test_chains_of_rotations_end_with_a_revocation_of_all(workers):
    """However fast each successor is rotated again, none is left once one of two returns."""
    one, two = workers
    for number, turns, _ in rounds()[: ROUNDS // 3]:
        owner = f"u{number}"
        news = [await one.create(name="ci", owner=owner) for _ in range(4)]

        async def chain(keys: APIKeys, key_id: str) -> str:
            for _ in range(50):  # SQLite lets those wait who have waited
                try:
                    key_id = (await keys.rotate(key_id, grace=DAY)).key.id
                except KeyStateError as error:
                    return error.state
            return "revoked"

        async def revoke_all(keys: APIKeys, owner: str = owner) -> list[str]:
            await keys.revoke_all(owner=owner)
            return await living(keys, owner)

        chains = [chain(workers[n % 2], new.key.id) for n, new in enumerate(news)]
        outcomes = await at_once(*chains, revoke_all(one), revoke_all(two), turns=turns * 5)
        assert outcomes == ["revoked"] * 4 + [[], []]
        for key in (await one.list(owner=owner, limit=500)).items:
            assert (await actions(two, key.id)).count("revoked") == 1


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_a_revocation_of_all_sees_what_came_while_it_waited(workers, database, all_of_them):
    """A key that was rotated and then revoked by others leaves it a successor to revoke."""
    one, two = workers
    old = await one.create(name="ci", owner="u1")
    async with Host.at(database) as host, host.transaction() as transaction:
        await one.rotate(old.key.id, grace=HOUR, connection=transaction.connection)
        revoked = one.revoke_all(owner="u1") if all_of_them else one.revoke(old.key.id)
        first = await waiting(revoked)
        second = await waiting(two.revoke_all(owner="u1"))
        await transaction.commit()
        await second
        assert await living(two, "u1") == []
        await first


async def test_updates_of_different_fields_both_stay(workers):
    """Nobody writes back what another one has changed since."""
    one, two = workers
    for _, turns, swapped in rounds():
        key = (await one.create(name="a", scopes=["a"])).key
        calls = [one.update(key.id, name="b"), two.update(key.id, scopes=["b"])]
        await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        after = await one.get(key.id)
        assert (after.name, after.scopes) == ("b", {"b"})
        _, *updated = await one.events(key.id)
        assert {name for event in updated for name in event.details} == {"name", "scopes"}
        assert len(updated) == 2


async def test_updates_of_one_field_have_an_order(workers):
    """The audit trail tells it, and the last one stays."""
    one, two = workers
    for _, turns, _ in rounds():
        key = (await one.create(name="a")).key
        first, second = await at_once(
            one.update(key.id, name="b"), two.update(key.id, name="c"), turns=turns
        )
        assert (first.name, second.name) == ("b", "c")
        _, former, latter = await two.events(key.id)
        assert former.details["name"]["from"] == "a"
        assert former.details["name"]["to"] == latter.details["name"]["from"]
        assert latter.details["name"]["to"] == (await one.get(key.id)).name


async def test_an_update_and_a_rotation_come_one_after_the_other(workers, clock):
    """The successor has all of the update or nothing, and the grace is not drawn out."""
    one, two = workers
    for _, turns, swapped in rounds():
        key = (await one.create(name="a", metadata={"n": 1}, expires_in=DAY)).key
        calls = [
            one.update(key.id, name="b", metadata={"n": 2}, expires_at=clock.now + 2 * DAY),
            two.rotate(key.id, grace=HOUR),
        ]
        outcomes = await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        updated, new = outcomes[:: -1 if swapped else 1]
        old = await one.get(key.id)
        seen = (new.key.name, new.key.metadata["n"], new.key.expires_at - clock.now)
        assert (old.name, old.metadata["n"]) == seen[:2]
        assert old.expires_at == clock.now + HOUR
        if state(updated) is None:
            assert seen == ("b", 2, 2 * DAY)
            assert await actions(one, key.id) == ["created", "updated", "rotated"]
        else:
            assert state(updated) == "rotated"
            assert seen == ("a", 1, DAY)
            assert await actions(one, key.id) == ["created", "rotated"]


async def test_of_many_revocations_one_is_told(workers):
    """All answer that the key is revoked; the audit trail keeps the first reason only."""
    for _, turns, _ in rounds()[: ROUNDS // 2]:
        key = (await workers[0].create(name="ci")).key
        outcomes = await at_once(
            *(workers[n % 2].revoke(key.id, reason=f"reason {n}") for n in range(8)), turns=turns
        )
        assert {revoked.revoked_at for revoked in outcomes} == {key.created_at}
        _, revoked = await workers[1].events(key.id)
        assert revoked.details["reason"] in {f"reason {n}" for n in range(8)}


async def test_a_purge_takes_the_dead_only(workers, clock):
    """Meanwhile the living verify, and the dead are expired or gone; each is purged once.

    That it is gone, a worker may not know that has it cached as expired.
    """
    one, two = workers
    lives = await one.create(name="ci")
    for _, turns, swapped in rounds()[: ROUNDS // 2]:
        dead = [await one.create(name="ci", expires_in=HOUR) for _ in range(5)]
        clock.advance(hours=1)

        async def verify(token: str) -> str:
            try:
                await two.verify(token)
            except (ExpiredKeyError, InvalidKeyError) as error:
                return error.code
            return "opened"

        purges = [purge_now(keys) for keys in workers]
        calls = [*purges, *(verify(new.token) for new in dead), two.verify(lives.token)]
        outcomes = await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        first, second, *verified, key = outcomes[:: -1 if swapped else 1]
        assert first + second == 5
        assert set(verified) <= {"expired_key", "invalid_key"}
        assert key == lives.key
        assert {await verify(new.token) for new in dead} <= {"expired_key", "invalid_key"}
        two._engine.flush()
        assert {await verify(new.token) for new in dead} == {"invalid_key"}


async def test_a_purge_and_a_revocation_explain_each_other(workers):
    """A key that is purged as soon as it is revoked was revoked all the same."""
    one, two = workers
    for _, turns, _ in rounds():
        new = await one.create(name="ci")
        count, revoked, trail = await at_once(
            purge_now(two),
            one.revoke(new.key.id),
            one.events(new.key.id),
            turns=turns,
        )
        assert revoked.revoked_at is not None
        assert isinstance(trail, UnknownKeyError) or trail[0].action == "created"
        assert count + await purge_now(two) == 1


@pytest.fixture
def collide(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has as many keys as one says mint one and the same id, before chance goes on."""
    twins: list[Token] = []

    def mint(prefix: str, ring: SecretRing) -> Token:
        return twins.pop() if twins else Token.mint(prefix, ring)

    def collide(count: int) -> None:
        twins[:] = [Token.mint("acme", ring)] * count

    ring = SecretRing(SecretRing.generate())
    for module in (making, management):
        monkeypatch.setattr(module, "Token", type("Colliding", (), {"mint": staticmethod(mint)}))
    return collide


async def test_workers_that_mint_one_id_both_get_a_key(workers, collide):
    """One of them mints again, and both tokens open their own key."""
    one, two = workers
    for _, turns, swapped in rounds():
        old = await one.create(name="old")
        collide(2)
        calls = [one.create(name="new"), two.rotate(old.key.id, grace=HOUR)]
        outcomes = await at_once(*calls[:: -1 if swapped else 1], turns=turns)
        new, successor = outcomes[:: -1 if swapped else 1]
        assert new.key.id != successor.key.id
        assert (await two.verify(new.token)).name == "new"
        assert (await one.verify(successor.token)).name == "old"
        assert (await one.verify(old.token)).successor == successor.key.id
        for key_id in (new.key.id, successor.key.id):
            assert await actions(one, key_id) == ["created"]


def create(keys: APIKeys, key_id: str, connection: Any) -> Awaitable[NewKey]:
    """Makes a key in a host's transaction."""
    return keys.create(name="ci", connection=connection)


def rotate(keys: APIKeys, key_id: str, connection: Any) -> Awaitable[NewKey]:
    """Replaces a key in a host's transaction."""
    return keys.rotate(key_id, grace=HOUR, connection=connection)


@pytest.mark.parametrize("commits", [True, False])
async def test_hosts_that_mint_one_id_both_get_a_key(workers, database, collide, commits):
    """A transaction that met a taken id, or one that was given free, can be used and committed."""
    one, two = workers
    async with Host.at(database) as host:
        for call in (create, rotate):
            olds = [await one.create(name="ci") for _ in workers]
            collide(2)
            async with host.transaction() as former, host.transaction() as latter:
                first = await call(one, olds[0].key.id, former.connection)
                task = await waiting(call(two, olds[1].key.id, latter.connection))
                await (former.commit() if commits else former.rollback())
                second = await task
                await latter.add(second.key.id)
                await latter.commit()
            assert (first.key.id == second.key.id) is not commits
            assert (await one.verify(second.token)).id == second.key.id
            if commits:
                assert (await two.verify(first.token)).id == first.key.id
            assert (second.key.id,) in (await host.rows())["users"]
            assert await actions(one, second.key.id) == ["created"]


async def test_a_crowd_gets_on(workers, caplog):
    """Eight at a time change a few keys, and none of them hears of locks, or of the crowd."""
    dice = random.Random(0)
    ids = [(await workers[0].create(name="ci", owner=f"u{n % 2}")).key.id for n in range(6)]

    async def create(keys: APIKeys, owner: str) -> None:
        ids.append((await keys.create(name="ci", owner=owner)).key.id)

    async def rotate(keys: APIKeys, key_id: str) -> None:
        ids.append((await keys.rotate(key_id, grace=HOUR)).key.id)

    def call(keys: APIKeys) -> Awaitable[Any]:
        key_id, owner = dice.choice(ids[-8:]), dice.choice(["u0", "u1"])
        calls: list[Callable[[], Awaitable[Any]]] = [
            *[lambda: create(keys, owner)] * 3,
            *[lambda: rotate(keys, key_id)] * 3,
            *[lambda: keys.update(key_id, name=f"{dice.random()}")] * 2,
            lambda: keys.revoke(key_id),
            lambda: keys.revoke_all(owner=owner),
            lambda: purge_now(keys),
            lambda: keys.list(owner=owner),
        ]
        return dice.choice(calls)()

    async def customer(keys: APIKeys) -> None:
        for _ in range(ROUNDS):
            with suppress(KeyStateError, UnknownKeyError):
                await call(keys)

    async with asyncio.TaskGroup() as crowd:
        for number in range(8):
            crowd.create_task(customer(workers[number % 2]))
    assert not caplog.records
    for key in (await workers[0].list(limit=500)).items:
        told = await actions(workers[1], key.id)
        assert told.count("created") == 1
        assert told.count("rotated") == (key.successor is not None)
        assert told.count("revoked") == (key.revoked_at is not None)
