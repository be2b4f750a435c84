"""A database that does not answer: every call says so in time, and lets go of its connection."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from proxy import Proxy
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from subject import (
    CALLS,
    CHANGES,
    DEADLINE,
    EDITS,
    GAP,
    READS,
    SERVERS,
    holding,
    host_engine,
    nothing_written,
)

pytestmark = pytest.mark.anyio

on_servers = pytest.mark.parametrize("engine_name", SERVERS)


async def test_locked_tables(url, subject):
    """Somebody holds the tables for longer than the deadline: nothing is written, then or later."""
    async with subject(url) as keys:
        with nothing_written(keys):
            with holding(url, "tables"):
                await keys.fails(*CALLS, match="lock")
            await keys.lets_go()
        await keys.works()


async def test_locked_tables_and_an_engine_without_limits(url, subject):
    """A thread that gets the lock after all finds that nobody waits, and writes nothing."""
    async with host_engine(url) as engine, subject(engine, url) as keys:
        with nothing_written(keys):
            with holding(url, "tables"):
                await keys.fails(*CALLS, match="locks")
            await keys.lets_go()
        await keys.works()


@on_servers
async def test_locked_rows(url, subject):
    """Somebody holds the keys: they are read and verified, and new ones are made, meanwhile."""
    async with subject(url) as keys:
        with holding(url, "rows"):
            with nothing_written(keys):
                await keys.fails(*EDITS, match="lock")
                await keys.works(*READS)
                await keys.lets_go()
            with keys.patience():
                assert await keys.call("create")
        await keys.works()


@on_servers
async def test_a_server_that_falls_silent(url, subject):
    """Statements are swallowed, or heard and never answered: nothing is written either way."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            with nothing_written(keys):
                proxy.mute()
                await keys.fails(*CHANGES, match="did not answer|timed out")
                proxy.swallow()
                await keys.fails(*READS, match="did not answer|timed out")
                proxy.forward()
                await keys.lets_go()
            await keys.works()


@on_servers
async def test_a_silent_server_and_an_engine_without_limits(url, subject):
    """A thread that would wait for ever comes back, and its connection is not used again."""
    with Proxy(url) as proxy:
        async with host_engine(proxy.url(url)) as engine, subject(engine, url) as keys:
            with nothing_written(keys):
                proxy.swallow()
                await keys.fails("verify", "update", match="did not answer")
                await keys.lets_go()
                proxy.forward()
            await keys.works()


@on_servers
async def test_a_server_that_is_silent_when_it_is_connected_to(url, subject):
    """The same collection works once the server answers."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            await keys.store.close()
            with nothing_written(keys):
                proxy.swallow()
                await keys.fails(*CALLS, match="did not answer")
                proxy.forward()
                await keys.lets_go()
            await keys.works()


@on_servers
async def test_a_silent_server_and_the_end_of_the_application(url, subject):
    """Closing does not wait for answers for ever, and leaves nothing open."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            proxy.swallow()
            began = time.monotonic()
            await keys.store.close()
            assert time.monotonic() - began < DEADLINE + 1


LEAVES = """
import asyncio, logging, sys
from keylatch import APIKeys
from keylatch.errors import UnavailableError
from keylatch.sqlalchemy import SQLAlchemyStore

async def main():
    keys = APIKeys(SQLAlchemyStore(sys.argv[1], deadline=0.2), prefix="acme")
    try:
        await keys.list()
    except UnavailableError:
        asyncio.ensure_future(keys.list())
        await asyncio.sleep(0.1)

logging.disable()
asyncio.run(main())
"""


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async", "mariadb-sync"])
async def test_a_silent_server_and_a_program_that_just_ends(url, secret):
    """Neither what was given up nor what still waits keeps it from ending, or has it complain."""
    with Proxy(url) as proxy:
        proxy.swallow()
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", LEAVES, proxy.url(url)],
            env=os.environ | {"KEYLATCH_SECRET": secret},
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_servers
async def test_a_slow_server(url, subject):
    """What takes long, and less than the deadline, works."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url, deadline=5.0) as keys:
            proxy.slow(0.004)
            await keys.works()


@pytest.mark.parametrize("whose", ["ours", "the host's"])
async def test_a_cancelled_call(url, subject, whose):
    """The caller is free at once; nothing is written, and the connection comes back."""
    async with (
        host_engine(url) as engine,
        subject(url if whose == "ours" else engine, url, deadline=5.0) as keys,
    ):
        with nothing_written(keys):
            with holding(url, "tables"):
                calls = [asyncio.ensure_future(keys.call(name)) for name in CALLS]
                await asyncio.sleep(DEADLINE / 4)
                for call in calls:
                    call.cancel()
                began = time.monotonic()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - began < GAP
                assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
            await keys.lets_go()
        await keys.works()


@on_servers
async def test_a_transaction_of_the_host_that_waits(url, subject):
    """It fails in time, and the host rolls it back and goes on."""
    async with host_engine(url) as engine, subject(url) as keys:
        key_id = keys.made["update"].key.id
        with nothing_written(keys), holding(url, "rows"):
            async with session_of(engine) as session:
                await keys.refuses(
                    keys.keys.update(key_id, name="b", connection=session), "did not answer"
                )
                if isinstance(session, AsyncSession):
                    await session.rollback()
                else:
                    session.rollback()
        await keys.works()


@asynccontextmanager
async def session_of(engine):
    """A session of the engine's kind."""
    if isinstance(engine, AsyncEngine):
        async with AsyncSession(engine) as session:
            yield session
    else:
        with Session(engine) as synchronous:
            yield synchronous
