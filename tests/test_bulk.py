"""Many keys at once: all of them or none, in one transaction, on every store."""

import asyncio
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from hosts import KINDS
from integrity import violations
from sqlalchemy.util import await_only
from subject import SILENT, as_elsewhere

from keylatch import APIKeys, KeyRequest, feed, mint
from keylatch.engines import Database
from keylatch.errors import KeyRequestError, UnavailableError
from keylatch.threads import Attempt

pytestmark = pytest.mark.anyio

in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
# More than one call of a driver writes.
MANY = 450


def wanted(count=MANY):
    """Requests for keys that differ."""
    return [KeyRequest(name=f"key {number}", owner=f"u{number % 7}") for number in range(count)]


async def test_many_keys_are_made_in_the_order_of_their_requests(keys, clock):
    """Each opens as it was requested, and has its own entry in the audit trail."""
    last = KeyRequest(
        name="last",
        owner="ada",
        scopes=["items:read", "items:write"],
        expires_in=timedelta(days=1),
        metadata={"team": ["data"]},
    )
    told = []
    requests = [*wanted(), last]
    made = await keys.create_many(iter(requests), actor="ops", progress=told.append)
    assert [new.key.name for new in made] == [request.name for request in requests]
    assert len({new.key.id for new in made}) == len(requests)
    assert told == sorted(told)
    assert told[-1] == len(requests)
    for new in (made[0], made[MANY // 2], made[-1]):
        assert await keys.verify(new.token) == new.key == await keys.get(new.key.id)
        (event,) = await keys.events(new.key.id)
        assert (event.action, event.actor) == ("created", "ops")
    key = made[-1].key
    assert (key.owner, key.scopes, key.metadata) == ("ada", set(last.scopes), last.metadata)
    assert key.expires_at == clock.now + timedelta(days=1)


async def test_none_is_no_mistake(keys):
    """An empty list makes no key."""
    assert list(await keys.create_many([])) == []
    assert not (await keys.list()).items


@in_memory
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (KeyRequest(name=""), "name must be 1 to 255"),
        (KeyRequest(name=7), "name must be a str"),
        (KeyRequest(name="ci", prefix="other"), "prefix must be one of"),
        (KeyRequest(name="ci", scopes="items:read"), "scopes must be a list"),
        (KeyRequest(name="ci", metadata={"a": float("nan")}), "metadata must be a JSON object"),
        (KeyRequest(name="ci", expires_at=datetime(2030, 1, 1)), "aware"),  # noqa: DTZ001
        (KeyRequest(name="ci", expires_in=timedelta(0)), "in the future"),
        ({"name": "ci"}, "must be a KeyRequest, not dict"),
    ],
)
async def test_a_wrong_request_is_named_and_nothing_is_written(keys, wrong, why):
    """The error says which one it is and why, as create would."""
    with pytest.raises(KeyRequestError, match=why) as failed:
        await keys.create_many([*wanted(5), wrong, KeyRequest(name="")])
    assert failed.value.index == 5
    assert str(failed.value).startswith("request 5, counted from 0: ")
    assert not (await keys.list()).items


@in_memory
async def test_a_wrong_actor_is_refused(keys):
    """As by every other call."""
    with pytest.raises(ValueError, match="actor"):
        await keys.create_many(wanted(2), actor="")


async def test_where_an_id_is_taken_all_are_minted_again(keys, secret, mint_first):
    """Be it taken by an older key or by another one of them: nothing stays of the first try."""
    taken = await keys.create(name="taken")
    fresh = [mint("acme_live", keys._ring) for _ in range(300)]
    for tokens, count in (([*fresh, taken.token], MANY), ([fresh[0], fresh[0]], 2)):
        still_to_mint = mint_first(*tokens)
        made = await keys.create_many(wanted(count))
        assert not still_to_mint
        assert not {new.token for new in made} & set(tokens)
        assert await keys.verify(made[-1].token)
    assert len(await keys.events(taken.key.id)) == 1
    found, cursor = [], None
    while page := await keys.list(limit=500, cursor=cursor):
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(found) == 1 + MANY + 2


@pytest.mark.parametrize("kind", KINDS)
async def test_many_keys_share_the_fate_of_the_hosts_transaction(host, host_keys, kind):
    """They are there with the host's rows, or nothing of all is."""
    before = await host.rows()
    for commits in (False, True):
        async with host.transaction(kind) as transaction:
            await transaction.add("before")
            made = await host_keys.create_many(wanted(3), connection=transaction.connection)
            await transaction.add("after")
            if commits:
                await transaction.commit()
        if not commits:
            assert await host.rows() == before
    assert len((await host.rows())["users"]) == 2
    assert await host.run(violations) == []
    assert [key.id for key in (await host_keys.list()).items] == sorted(
        (new.key.id for new in made), reverse=True
    )


async def test_a_taken_id_among_many_spoils_no_transaction(host, host_keys, mint_first):
    """The host goes on, and commits all of them or, if ids stay taken, none."""
    taken = await host_keys.create(name="taken")
    before = await host.rows()
    fresh = [mint("acme_live", host_keys._ring) for _ in range(249)]
    mint_first(*[*fresh, taken.token] * 3)
    async with host.transaction() as transaction:
        await transaction.add("ada")
        with pytest.raises(UnavailableError, match="colliding"):
            await host_keys.create_many(wanted(250), connection=transaction.connection)
        assert await transaction.rows() == before | {"users": [("ada",)]}
        mint_first(*fresh, taken.token)
        made = await host_keys.create_many(wanted(250), connection=transaction.connection)
        await transaction.commit()
    rows = await host.rows()
    assert {row[0] for row in rows["keys"]} == {taken.key.id, *(each.key.id for each in made)}
    assert await host.run(violations) == []


async def test_a_cancelled_bulk_writes_nothing(host, host_keys):
    """Neither then nor later, although some of the keys were written when it was cancelled."""
    before = await host.rows()
    for own in (True, False):
        async with host.transaction() as transaction:
            options = {} if own else {"connection": transaction.connection}
            begun = asyncio.Event()
            task = asyncio.ensure_future(
                host_keys.create_many(wanted(3_000), progress=lambda _: begun.set(), **options)  # noqa: B023
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await host.rows() == before


def test_a_commit_has_longer_after_many_steps():
    """It may have to write what all of them left to it."""
    attempt = Attempt()
    for _ in range(1_000):
        attempt.come_on()
    assert attempt.left(5) <= 5
    attempt.committing = True
    assert 14 < attempt.left(5) <= 15


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
async def test_sqlite_can_be_read_while_many_keys_are_made(host, host_keys):
    """Also where they do not fit into its cache, and it would write some into the file."""
    async with host.transaction("connection") as transaction:
        await transaction.execute(sa.text("PRAGMA cache_size = 10"))
        spill = (await transaction.execute(sa.text("PRAGMA cache_spill"))).scalar_one()
        await host_keys.create_many(wanted(), connection=transaction.connection)
        with closing(sqlite3.connect(host.core.url.database, timeout=0)) as other:
            assert other.execute("SELECT count(*) FROM api_keys").fetchone() == (0,)
        left = (await transaction.execute(sa.text("PRAGMA cache_spill"))).scalar_one()
        assert left == spill > 0


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async"])
async def test_other_workers_hear_of_many_keys_in_portions(
    host, host_keys, secret, clock, monkeypatch
):
    """Those that were missing for long are read a portion at a time, and are missing no more."""
    monkeypatch.setattr(feed, "_PORTION", 100)
    await host_keys.create(name="earlier")
    async with APIKeys(
        host.engine, prefix="acme_live", secret=secret, clock=clock, **SILENT
    ) as other:
        read = []
        changes = as_elsewhere(other)._store.changes

        async def counted(**wanted):
            read.append(await changes(**wanted))
            return read[-1]

        monkeypatch.setattr(other._store, "changes", counted)
        async with host.transaction() as transaction:
            made = await host_keys.create_many(wanted(), connection=transaction.connection)
            with pytest.raises(Exception, match="invalid"):
                await other.verify(made[0].token)
            await host_keys.create(name="sooner")
            await other._feed.once()
            assert other._feed._gaps.ranges()
            await transaction.commit()
        read.clear()
        await other._feed.once()
        assert not other._feed._gaps.ranges()
        assert max(map(len, read)) <= 2 * 100
        assert len({mark.number for marks in read for mark in marks}) >= MANY
        assert await other.verify(made[0].token)  # it was cached as one that is not there


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "host's"])
async def test_each_step_has_the_deadline(host, own):
    """Work that comes on may take longer than the deadline, and a step of it may not."""
    database = Database(host.engine, deadline=0.3)

    def steps(last, connection, come_on):
        for duration in (0.15, 0.15, 0.15, last):
            # As a statement does: of the event loop only on a synchronous engine.
            if host.asynchronous:
                await_only(asyncio.sleep(duration))
            else:
                time.sleep(duration)
            come_on()
        return "done"

    async with host.transaction() as transaction:
        joined = None if own else transaction.connection
        assert await database.run_steps(partial(steps, 0.1), joined) == "done"
        with pytest.raises(UnavailableError, match="did not answer"):
            await database.run_steps(partial(steps, 0.6), joined)
    await database.close()
