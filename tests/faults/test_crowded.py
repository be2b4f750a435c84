"""No connection to be had: every call says so in time, and works once there is one."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from logins import login
from proxy import Proxy
from sqlalchemy.ext.asyncio import AsyncEngine
from subject import (
    CALLS,
    DEADLINE,
    SERVERS,
    SLACK,
    host_engine,
    nothing_written,
    somebody_else,
)

from keylatch.errors import UnavailableError

pytestmark = pytest.mark.anyio


async def test_a_pool_that_the_host_has_emptied(url, subject):
    """The host holds the only connection of its engine, and gives it back."""
    async with (
        host_engine(url, pool_size=1, max_overflow=0) as engine,
        subject(engine, url) as keys,
    ):
        with nothing_written(keys):
            async with held(engine):
                await keys.fails(*CALLS, match="connections")
            await keys.lets_go()
        await keys.works()


@asynccontextmanager
async def held(engine):
    """A connection that is in use."""
    if isinstance(engine, AsyncEngine):
        async with engine.connect():
            yield
    else:
        with engine.connect():
            yield


@pytest.mark.parametrize("engine_name", SERVERS)
async def test_a_server_that_grants_no_more_connections(url, subject):
    """All that the login may have are in use, and then one is not."""
    with login(url) as somebody:
        async with subject(somebody.url, url) as keys:
            await keys.store.close()
            somebody.limit(1)
            with nothing_written(keys), somebody_else(somebody.url).connect() as held:
                held.exec_driver_sql("SELECT 1")
                await keys.fails(*CALLS, match="connections")
                await keys.lets_go()
            with keys.patience():
                for name in CALLS:
                    await keys.call(name)


@pytest.mark.parametrize("engine_name", ["postgres-sync", "mariadb-sync"])
async def test_a_crowd_on_a_silent_server(url, subject):
    """A hundred calls have their answers in time, and leave threads for the host's other work."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            with nothing_written(keys):
                proxy.swallow()
                began = time.monotonic()
                crowd = asyncio.gather(
                    *(keys.call("verify") for _ in range(100)), return_exceptions=True
                )
                await asyncio.sleep(DEADLINE / 2)
                other = time.monotonic()
                await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(50)))
                assert time.monotonic() - other < DEADLINE
                answers = await crowd
                assert time.monotonic() - began < DEADLINE + SLACK
                assert {type(answer) for answer in answers} == {UnavailableError}
                proxy.forward()
                await keys.lets_go()
            await keys.works()
