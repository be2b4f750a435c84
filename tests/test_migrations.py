"""The way of the tables from nothing, and from each revision, to what this version has."""

import asyncio
import re
import sqlite3
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from databases import empty_database, kill_connections
from schemas import differences, execute, key_of_0001, run, structure
from sqlalchemy.ext.asyncio import create_async_engine

from keylatch import APIKeys, migrations, schema
from keylatch.engines import Database
from keylatch.errors import SchemaError
from keylatch.sqlalchemy import SQLAlchemyStore, metadata
from keylatch.tables import REVISIONS

HEAD = REVISIONS[-1]
SYNC = ["sqlite-sync", "postgres-sync", "mariadb-sync"]
# As the first version made them in SQLite, without any version table.
FIRST_SQLITE = (Path(__file__).parent / "vectors" / "sqlite-0001.sql").read_text()

pytestmark = pytest.mark.anyio


@pytest.fixture
def finished(engine_name):
    """How a database looks whose tables were made from the metadata, in one go."""

    async def made():
        with empty_database(engine_name) as url:
            await run(url, metadata.create_all)
            return await run(url, structure)

    return asyncio.run(made())


def test_the_revisions_are_those_of_the_files():
    """One chain, in the order of the files' numbers, that ends at what the code expects."""
    directory = Path(migrations.__file__).parent
    files = sorted(path.name.partition("_")[0] for path in directory.glob("versions/[0-9]*.py"))
    scripts = ScriptDirectory(directory)
    chain = [script.revision for script in scripts.walk_revisions()]
    assert tuple(files) == tuple(reversed(chain)) == REVISIONS
    assert scripts.get_heads() == [HEAD]


async def test_tables_from_nothing_are_those_of_the_metadata(database_url, finished):
    """Autogeneration finds nothing to change, and neither does a closer look."""
    store = SQLAlchemyStore(database_url)
    assert await store.upgrade() == (None, HEAD)
    assert await store.check() == HEAD
    assert await run(database_url, differences) == []
    assert await run(database_url, structure) == finished
    # Another machine need not wait for this one to close its connections.
    other = SQLAlchemyStore(database_url)
    assert await other.upgrade() == (HEAD, HEAD)
    await store.close()
    await other.close()


async def test_autogeneration_has_nothing_to_add_to_the_metadata(database_url):
    """What ``create_all`` of a host makes is neither changed nor dropped by its migrations."""
    await run(database_url, metadata.create_all)
    assert await run(database_url, differences) == []


@pytest.mark.parametrize("revision", REVISIONS[:-1])
@pytest.mark.parametrize("stamped", [True, False])
async def test_keys_of_an_earlier_revision_live_on(
    database_url, finished, secret, revision, stamped
):
    """Tables of each earlier revision, with or without a version row, are brought up to date."""
    upgrade = partial(migrations.upgrade, to=revision)
    assert await run(database_url, upgrade) == (None, revision)
    assert await run(database_url, differences) != []
    token, add = key_of_0001(secret)
    await run(database_url, add)
    if not stamped:
        await run(database_url, execute("DROP TABLE keylatch_version"))
    store = SQLAlchemyStore(database_url)
    assert await store.upgrade() == (revision if stamped else REVISIONS[0], HEAD)
    assert await run(database_url, structure) == finished
    async with APIKeys(store, prefix="acme_live", secret=secret) as keys:
        key = await keys.verify(token, scopes=["items:read"])
        assert (key.owner, key.metadata, key.use_count) == ("u1", {"team": "data"}, 7)
        assert key.created_at == datetime.fromisoformat("2026-01-01T00:00:00.123456Z")
        assert [event.action for event in await keys.events(key.id)] == ["created"]


async def test_sqlite_files_of_the_first_version_are_upgraded(tmp_path, secret):
    """Tables that were made automatically, before there was a version table, are recognised."""
    path = tmp_path / "keys.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_SQLITE)
    url = f"sqlite+aiosqlite:///{path}"
    token, add = key_of_0001(secret)
    await run(url, add)
    store = SQLAlchemyStore(url)
    assert await store.upgrade() == ("0001", HEAD)
    assert await run(url, differences) == []
    async with APIKeys(store, prefix="acme_live", secret=secret) as keys:
        assert (await keys.verify(token)).name == "ci"


async def test_upgrades_at_once_wait_for_each_other(database_url):
    """Of many that start together one makes the tables, and the others find them."""

    async def one():
        store = SQLAlchemyStore(database_url, deadline=30)
        try:
            return await store.upgrade()
        finally:
            await store.close()

    done = await asyncio.gather(*(one() for _ in range(5)))
    assert sorted(done, key=str) == [(HEAD, HEAD)] * 4 + [(None, HEAD)]
    assert await run(database_url, differences) == []


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async"])
async def test_upgrades_at_once_see_each_other_from_any_isolation(database_url):
    """Who waited sees what the other one did, also where transactions see only the past."""
    engine = create_async_engine(database_url, isolation_level="SERIALIZABLE")
    done = await asyncio.gather(*(run(engine, migrations.upgrade) for _ in range(4)))
    await engine.dispose()
    assert sorted(done, key=str) == [(HEAD, HEAD)] * 3 + [(None, HEAD)]


@pytest.mark.parametrize("engine_name", ["mariadb-sync"])
async def test_the_next_one_comes_when_all_is_committed(database_url):
    """Where a lock outlives a transaction, it does so: nobody gets in between."""
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    seen = []

    def unit(connection):
        @sa.event.listens_for(connection, "before_cursor_execute")
        def look(_connection, _cursor, statement, *_):
            if "RELEASE_LOCK" in statement:
                with engine.connect() as other:
                    seen.append(schema.stored_revision(other))

        return migrations.upgrade(connection)

    assert await run(database_url, unit) == (None, HEAD)
    assert seen == [HEAD]


class Interruption(Exception):  # noqa: N818 - it ends no name of the package's
    """The upgrade ends here."""


def stumble(connection: sa.Connection, at: int) -> list[str]:
    """Upgrades until the statement of that number which changes something."""
    numbers = count()

    @sa.event.listens_for(connection, "before_cursor_execute")
    def look(_connection, _cursor, statement, *_):
        changes = re.match(r"\s*(CREATE|DROP|INSERT|UPDATE|COMMIT)\b", statement)
        if changes and next(numbers) == at:
            raise Interruption

    return migrations.upgrade(connection)


@pytest.mark.parametrize("engine_name", SYNC)
async def test_an_interrupted_upgrade_can_be_run_again(engine_name, finished):
    """Wherever it ends, nobody starts on the half of it, and the next one makes it whole."""
    left = []
    # Where all is undone, it matters little where it ended.
    for at in count(step=1 if engine_name == "mariadb-sync" else 6):
        with empty_database(engine_name) as url:
            # Its connection stays in the pool, and must not hold the lock.
            interrupted = Database(url, deadline=30)
            try:
                await interrupted.run(partial(stumble, at=at))
                break
            except Interruption:
                with pytest.raises(SchemaError, match="run `keylatch db upgrade`"):
                    await run(url, schema.check)
                left.append(await run(url, schema.stored_revision))
                await run(url, migrations.upgrade)
                assert await run(url, structure) == finished
                assert await run(url, schema.stored_revision) == HEAD
            finally:
                await interrupted.close()
    assert at > 12
    assert set(left) == ({None, "0001"} if engine_name == "mariadb-sync" else {None})


@pytest.mark.parametrize("engine_name", ["postgres-sync", "mariadb-sync"])
async def test_an_upgrade_outlives_its_connection(database_url, finished):
    """If the server ends the connection in the middle, the upgrade begins anew on another."""
    killed = count()

    def unit(connection):
        @sa.event.listens_for(connection, "before_cursor_execute")
        def look(_connection, _cursor, statement, *_):
            if "ix_api_keys_prefix" in statement and next(killed) == 0:
                kill_connections(database_url)

        return migrations.upgrade(connection)

    before, after = await run(database_url, unit)
    assert next(killed) == 2
    assert (before, after) == ("0001" if "mariadb" in database_url else None, HEAD)
    assert await run(database_url, structure) == finished
