"""The databases that tests run on: empty, apart from each other, and missed when not there."""

from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy
from databases import empty_database
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.ext.asyncio import create_async_engine

SCRATCH = sqlalchemy.Table(
    "scratch",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("id", sqlalchemy.String(40), primary_key=True),
    sqlalchemy.Column(
        "at", sqlalchemy.DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")
    ),
)
ROW = ("\N{KEY} é", datetime.fromisoformat("2026-01-02T03:04:05.123456"))


async def run(url: str, work: Any) -> Any:
    """Calls ``work`` with a synchronous connection in a transaction, whatever the driver is."""
    if not sqlalchemy.make_url(url).get_dialect().is_async:
        engine = sqlalchemy.create_engine(url)
        try:
            with engine.begin() as connection:
                return work(connection)
        finally:
            engine.dispose()
    async_engine = create_async_engine(url)
    try:
        async with async_engine.begin() as async_connection:
            return await async_connection.run_sync(work)
    finally:
        await async_engine.dispose()


def fill(connection: sqlalchemy.Connection) -> None:
    """Makes the table, which must not be there, and a row."""
    assert sqlalchemy.inspect(connection).get_table_names() == []
    SCRATCH.create(connection, checkfirst=False)
    connection.execute(SCRATCH.insert().values(ROW))


def read(connection: sqlalchemy.Connection) -> list[Any]:
    """The rows as they stand."""
    return [tuple(row) for row in connection.execute(SCRATCH.select())]


@pytest.mark.anyio
async def test_a_database_keeps_any_character_and_every_microsecond(database_url: str) -> None:
    """What goes in through an engine's own driver comes out the same."""
    await run(database_url, fill)
    assert await run(database_url, read) == [ROW]


@pytest.mark.anyio
async def test_databases_do_not_see_each_other(engine_name: str) -> None:
    """Two databases have a table each, and the next one to be lent has none."""
    with ExitStack() as stack:
        for _ in range(2):
            url = stack.enter_context(empty_database(engine_name))
            await run(url, fill)
    with empty_database(engine_name) as url:
        await run(url, fill)
