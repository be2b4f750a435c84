"""Hears what PostgreSQL is told on a channel, on a connection that does nothing else.

Knows the drivers that can; no statement of ours and no table.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

# Seconds of silence after which the connection is asked whether it is still there.
SILENCE: Final = 0.5

Heard = Callable[[str], None]


def can_listen(engine: sa.Engine | AsyncEngine) -> bool:
    """Whether this is PostgreSQL, with a driver that is known here."""
    return engine.dialect.name == "postgresql" and engine.dialect.driver in ("asyncpg", "psycopg")


async def listen(engine: AsyncEngine, channel: str, heard: Heard, *, patience: float) -> None:
    """Listens until it is cancelled.

    Raises:
        ConnectionError: The connection was lost.
    """
    async with engine.connect() as connection:
        pooled = await connection.get_raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()  # the pool has room for another one
        by_driver = _asyncpg if engine.dialect.driver == "asyncpg" else _psycopg
        try:
            try:
                await by_driver(driver, channel, heard, patience)
            finally:
                if by_driver is _psycopg:  # SQLAlchemy would forget it when this is cancelled
                    await connection.invalidate()  # a rollback would fail, and be logged
                    await driver.close()
        except Exception as error:  # noqa: BLE001 - whatever the driver calls it
            reason = f"the connection that listens was lost: {type(error).__name__}"
        raise ConnectionError(reason)


async def _asyncpg(driver: Any, channel: str, heard: Heard, patience: float) -> None:
    lost = asyncio.Event()
    driver.add_termination_listener(lambda _: lost.set())
    await driver.add_listener(channel, lambda *told: heard(told[3]))
    while not lost.is_set():
        try:
            async with asyncio.timeout(SILENCE):
                await lost.wait()
        except TimeoutError:
            async with asyncio.timeout(patience):
                await driver.execute("SELECT 1")


async def _psycopg(driver: Any, channel: str, heard: Heard, patience: float) -> None:
    await driver.set_autocommit(True)
    await driver.execute(f"LISTEN {channel}")
    while True:
        async for told in driver.notifies(timeout=SILENCE):
            heard(told.payload)
        async with asyncio.timeout(patience):
            await driver.execute("SELECT 1")


def listen_in_thread(connection: sa.Connection, channel: str) -> Iterator[str | None]:
    """Yields what is heard, and None where nothing was for a while.

    Raises:
        ConnectionError: The connection was lost.
    """
    driver: Any = connection.connection.driver_connection
    connection.detach()
    try:
        driver.autocommit = True
        driver.execute(f"LISTEN {channel}")
        while True:
            for told in driver.notifies(timeout=SILENCE):
                yield told.payload
            driver.execute("SELECT 1")
            yield None
    except Exception as error:  # noqa: BLE001 - whatever the driver calls it
        reason = f"the connection that listens was lost: {type(error).__name__}"
        connection.invalidate()  # a rollback would fail, and be logged
        driver.close()
    raise ConnectionError(reason)
