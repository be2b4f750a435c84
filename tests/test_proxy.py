"""The proxy that cuts, holds up and swallows what passes between a driver and its server."""

import asyncio
import time
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from databases import empty_database
from proxy import Proxy
from sqlalchemy import make_url

pytestmark = pytest.mark.anyio
A_MOMENT = 0.2  # seconds that a driver waits for what does not come


@pytest.fixture
def postgres() -> Iterator[str]:
    """A database as the drivers themselves name it."""
    with empty_database("postgres-sync") as url:
        yield make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def test_everything_passes_both_ways(postgres: str) -> None:
    """A question of many chunks is answered in full, by a synchronous driver too."""
    text = "\N{KEY}" * 200_000
    with Proxy(postgres) as proxy:
        connection = await asyncpg.connect(proxy.url(postgres))
        assert await connection.fetchval("SELECT $1::text", text) == text
        await connection.close()
        with psycopg.connect(proxy.url(postgres)) as synchronous:
            assert synchronous.execute("SELECT %s::text", [text]).fetchone() == (text,)


async def test_a_closed_port_refuses_and_opens_again(postgres: str) -> None:
    """Whoever is connected stays so, nobody else gets in until the port is open again."""
    with Proxy(postgres) as proxy:
        first = await asyncpg.connect(proxy.url(postgres))
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(proxy.url(postgres))
        assert await first.fetchval("SELECT 1") == 1
        await first.close()
        proxy.forward()
        second = await asyncpg.connect(proxy.url(postgres))
        await second.close()


async def test_cut_connections_end_at_once_and_new_ones_work(postgres: str) -> None:
    """A statement in flight fails without delay."""
    with Proxy(postgres) as proxy:
        connection = await asyncpg.connect(proxy.url(postgres))
        asking = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(A_MOMENT)
        assert proxy.cut() == 1
        with pytest.raises((ConnectionError, asyncpg.ConnectionDoesNotExistError)):
            await asyncio.wait_for(asking, 5)
        assert connection.is_closed()
        second = await asyncpg.connect(proxy.url(postgres))
        assert await second.fetchval("SELECT 1") == 1
        await second.close()


async def test_a_black_hole_neither_answers_nor_closes(postgres: str) -> None:
    """Both who is connected and who wants to be waits, until the proxy forwards again."""
    with Proxy(postgres) as proxy:
        connection = await asyncpg.connect(proxy.url(postgres))
        proxy.swallow()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncpg.connect(proxy.url(postgres)), A_MOMENT)
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1", timeout=A_MOMENT)
        connection.terminate()
        proxy.forward()
        second = await asyncpg.connect(proxy.url(postgres))
        assert await second.fetchval("SELECT 1") == 1
        await second.close()


async def test_a_mute_server_acts_but_its_answer_is_lost(postgres: str) -> None:
    """The statement has worked, although the driver cannot know."""
    with Proxy(postgres) as proxy:
        connection = await asyncpg.connect(proxy.url(postgres))
        proxy.mute()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_MOMENT):
                await connection.execute("CREATE TABLE done ()")
        connection.terminate()
    with psycopg.connect(postgres) as direct:
        assert direct.execute("SELECT count(*) FROM done").fetchone() == (0,)


async def test_a_slow_line_takes_its_time_each_way(postgres: str) -> None:
    """A question and its answer are held up once each."""
    with Proxy(postgres) as proxy:
        connection = await asyncpg.connect(proxy.url(postgres))
        proxy.slow(A_MOMENT)
        start = time.monotonic()
        await connection.execute("SELECT 1")
        assert time.monotonic() - start >= 2 * A_MOMENT
        proxy.forward()
        await connection.close()
