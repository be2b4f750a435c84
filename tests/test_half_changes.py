"""What the database refuses half way, or does otherwise than it was told: nothing comes of it."""

import asyncio
import contextlib
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from databases import empty_database
from integrity import violations
from sqlalchemy.exc import SQLAlchemyError

from keylatch import KeyRequest
from keylatch.errors import ConfigurationError, SchemaError, UnavailableError
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

# A host's own trigger, which refuses the event of every change.
REFUSING = {
    "sqlite": (
        [
            (
                "CREATE TRIGGER refuse BEFORE INSERT ON api_key_events "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        ],
        ["DROP TRIGGER refuse"],
    ),
    "postgresql": (
        [
            (
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'no'; END $$"
            ),
            (
                "CREATE TRIGGER refuse BEFORE INSERT ON api_key_events "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            ),
        ],
        ["DROP TRIGGER refuse ON api_key_events", "DROP FUNCTION refuse"],
    ),
    "mariadb": (
        [
            (
                "CREATE TRIGGER refuse BEFORE INSERT ON api_key_events FOR EACH ROW "
                "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"
            )
        ],
        ["DROP TRIGGER refuse"],
    ),
}


async def statements(host, lines):
    """Runs what the host has to say, each line by itself."""
    for line in lines:
        await host.run(lambda connection, line=line: connection.exec_driver_sql(line))


async def test_a_host_cannot_commit_half_of_a_change(host, host_keys, clock):
    """A change whose event was refused goes with the host's transaction, whatever the host does."""
    key = (await host_keys.create(name="ci", owner="u1", scopes=["a"])).key
    clock.advance(seconds=1)
    made, dropped = REFUSING[host.core.dialect.name]
    await statements(host, made)
    try:
        for change in (
            lambda **options: host_keys.create(name="new", **options),
            lambda **options: host_keys.create_many([KeyRequest(name="new")] * 2, **options),
            lambda **options: host_keys.update(key.id, scopes=["admin"], **options),
            lambda **options: host_keys.rotate(key.id, grace=timedelta(hours=1), **options),
            lambda **options: host_keys.revoke(key.id, **options),
            lambda **options: host_keys.revoke_all(owner="u1", **options),
        ):
            async with host.transaction() as transaction:
                with pytest.raises(UnavailableError):
                    await change(connection=transaction.connection)
                with contextlib.suppress(SQLAlchemyError):
                    await transaction.commit()
            assert await host.run(violations) == []
            assert (await host_keys.list()).items == [key]
    finally:
        await statements(host, dropped)


async def test_what_the_host_handles_meanwhile_keeps_its_locals(host, host_keys):
    """A failure of ours clears no frames but its own."""

    def failing(in_hand):
        raise LookupError(in_hand)

    async def handling():
        try:
            failing("what the host reports")
        except LookupError:
            async with host.transaction() as transaction:
                with pytest.raises(UnavailableError):
                    await host_keys.create(name="new", connection=transaction.connection)
            with pytest.raises(UnavailableError):
                await host_keys.create(name="new")
            raise

    made, dropped = REFUSING[host.core.dialect.name]
    await statements(host, made)
    try:
        with pytest.raises(LookupError) as handled:
            await handling()
    finally:
        await statements(host, dropped)
    assert "in_hand" in handled.traceback[-1].locals


@pytest.mark.parametrize("engine_name", ["sqlite-async"])
async def test_nor_where_a_connection_has_died_meanwhile(host, host_keys):
    """A driver that fails at once has the host's error within its own: that one is left alone."""
    first, second = LookupError("what the host reports"), LookupError("and what came of it")
    first.__context__ = second
    second.__context__ = first  # nothing keeps a host from that

    def failing(in_hand):
        raise in_hand

    async def handling():
        try:
            failing(first)
        except LookupError:
            async with host.engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await raw.driver_connection.close()
                with pytest.raises(UnavailableError):
                    await host_keys.create(name="new", connection=connection)
            raise

    await host_keys.list()
    with pytest.raises(LookupError) as handled:
        await handling()
    assert "in_hand" in handled.traceback[-1].locals


@contextmanager
def held(url):
    """Somebody else has the table of keys."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


@pytest.mark.parametrize("engine_name", ["postgres-sync"])
async def test_a_cancelled_call_that_fails_later_is_logged_by_nobody(host, host_keys, caplog):
    """The error of a thread that nobody waits for would be in the log, with the stored hash."""
    await host_keys.list()
    async with host.transaction() as transaction:
        await transaction.execute(sa.text("SET lock_timeout = '300ms'"))
        with held(host.core.url):
            call = asyncio.ensure_future(
                host_keys.create(name="new", connection=transaction.connection)
            )
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await transaction.rollback()
    del call
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("engine_name", ["mariadb-async", "mariadb-sync"])
async def test_a_pooled_connection_that_commits_by_itself_is_refused(host, host_keys):
    """A host that turned it on left it in the pool: nobody may change a key in two halves there."""
    new = await host_keys.create(name="ci")
    async with host.transaction("connection") as transaction:
        await transaction.execute(sa.text("SET autocommit = 1"))
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        await host_keys.rotate(new.key.id, grace=timedelta(hours=1))


async def test_tables_without_transactions_are_refused():
    """MariaDB's default may be an engine that keeps what was rolled back; ours names its own."""
    with empty_database("mariadb-sync") as url:
        wrong = sa.make_url(url).update_query_dict(
            {"init_command": "SET default_storage_engine = 'Aria'"}
        )
        store = SQLAlchemyStore(wrong.render_as_string(hide_password=False))
        await store.upgrade()
        await store.open()
        for table in ("api_keys", "api_key_events"):
            await store._database.run(
                lambda connection, table=table: connection.exec_driver_sql(
                    f"ALTER TABLE {table} ENGINE=Aria"
                )
            )
            with pytest.raises(SchemaError, match=f"ALTER TABLE {table} ENGINE=InnoDB"):
                await store.open()
            await store._database.run(
                lambda connection, table=table: connection.exec_driver_sql(
                    f"ALTER TABLE {table} ENGINE=InnoDB"
                )
            )
        await store.close()


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
@pytest.mark.parametrize("kept", ["DELETE", "UPDATE"])
async def test_a_database_that_does_not_obey_is_unavailable(host, host_keys, clock, kept):
    """A trigger that ignores a change makes neither half of it, nor an endless purge."""
    key = (await host_keys.create(name="ci", owner="u1", expires_in=timedelta(hours=1))).key
    clock.advance(hours=2)
    await statements(
        host, [f"CREATE TRIGGER keep BEFORE {kept} ON api_keys BEGIN SELECT RAISE(IGNORE); END"]
    )
    calls = {
        "DELETE": [lambda: host_keys.purge(dead_for=timedelta(hours=1))],
        "UPDATE": [lambda: host_keys.revoke(key.id), lambda: host_keys.revoke_all(owner="u1")],
    }
    for call in calls[kept]:
        with pytest.raises(UnavailableError, match="triggers and policies"):
            await call()
    assert len(await host_keys.events(key.id)) == 1
    assert await host.run(violations) == []


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["DROP INDEX ix_api_keys_owner"], "damaged, index ix_api_keys_owner is missing"),
        (["DROP TABLE api_key_events"], "damaged, table api_key_events is missing"),
        (["DROP TABLE api_keys"], "are gone"),
    ],
)
@pytest.mark.parametrize("engine_name", ["postgres-sync"])
async def test_a_revision_alone_makes_no_tables(engine_name, lines, text):
    """A worker does not start on what is damaged, and is not sent round in a circle."""
    with empty_database(engine_name) as url:
        store = SQLAlchemyStore(url)
        await store.upgrade()
        for line in lines:
            await store._database.run(
                lambda connection, line=line: connection.exec_driver_sql(line)
            )
        with pytest.raises(SchemaError, match=text):
            await store.open()
        await store.close()
