"""The databases that tests run on: empty, apart from each other, and missed when not there."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy
from databases import empty_database, kill_connections, need
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.ext.asyncio import create_async_engine

SCRATCH = sqlalchemy.Table(
    "scratch",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("id", sqlalchemy.String(40), primary_key=True),
    sqlalchemy.Column(
        "at", sqlalchemy.DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")
    ),
    mariadb_charset="utf8mb4",
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


@pytest.mark.anyio
@pytest.mark.parametrize("engine_name", ["mariadb-async", "mariadb-sync"])
async def test_mariadb_lends_a_database_of_another_character_set(engine_name: str) -> None:
    """A server whose default is latin1 can be had without setting one up."""
    with empty_database(engine_name, charset="latin1") as url:
        ask = sqlalchemy.text("SELECT @@character_set_database")
        assert await run(url, lambda connection: connection.scalar(ask)) == "latin1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("engine_name", "question"),
    [
        ("postgres-async", "SELECT extract(timezone FROM now())::int"),
        ("postgres-sync", "SELECT extract(timezone FROM now())::int"),
        ("mariadb-async", "SELECT timestampdiff(SECOND, utc_timestamp(), now())"),
        ("mariadb-sync", "SELECT timestampdiff(SECOND, utc_timestamp(), now())"),
    ],
)
async def test_sessions_are_not_in_utc(database_url: str, question: str) -> None:
    """The clocks of servers are five and a half hours ahead."""
    ask = sqlalchemy.text(question)
    assert await run(database_url, lambda connection: connection.scalar(ask)) == 19800


@pytest.mark.parametrize("engine_name", ["postgres-sync", "mariadb-sync"])
def test_a_connection_can_be_ended_from_the_servers_side(database_url: str) -> None:
    """The next statement fails, and the database can be lent again."""
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        assert kill_connections(database_url) == 1
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
            connection.exec_driver_sql("SELECT 1")
    assert raised.value.connection_invalidated
    engine.dispose()


@pytest.mark.parametrize(
    ("kind", "ci", "status", "outcome"),
    [("postgres", "", 0, "skipped"), ("mariadb", "true", 1, "failed")],
)
def test_a_server_that_does_not_answer_is_named_at_the_end(
    kind: str, ci: str, status: int, outcome: str, free_port: int
) -> None:
    """Its tests are skipped, but in CI they fail; either way the summary counts them."""
    variable = f"KEYLATCH_TEST_{kind.upper()}"
    environment = os.environ | {"CI": ci, variable: f"mysql://127.0.0.1:{free_port}/x"}
    tests = f"{__file__}::test_databases_do_not_see_each_other"
    names = [f"{tests}[{kind}-async]", f"{tests}[{kind}-sync]", f"{tests}[sqlite-sync]"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", *names],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == status
    assert f"at 127.0.0.1:{free_port} ({variable}): 2 {outcome}\n" in result.stdout
    assert "1 passed" in result.stdout


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_run_drops_what_a_killed_one_left_and_nothing_of_one_that_lives(kind: str) -> None:
    """Whose connection has ended is dead; two runs at once leave each other alone."""
    server = type(need(kind))
    living, killed = server(), server()
    kept, left = (str(run.borrow(None).database) for run in (living, killed))
    killed.admin.close()
    for _ in range(50):  # the server takes a moment to notice
        time.sleep(0.1)
        server().close()
        names = sqlalchemy.inspect(living.admin).get_schema_names()
        if kind == "postgres":
            names = living.execute("SELECT datname FROM pg_database")
        if left not in names:
            break
    assert kept in names
    assert left not in names
    living.close()
