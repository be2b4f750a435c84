"""A database that may not be written to, or has no room: nothing is half-written, keys verify."""

from contextlib import contextmanager, suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from subject import CHANGES, READS, SERVERS, core, host_engine, nothing_written, tell

from keylatch.errors import UnavailableError

pytestmark = pytest.mark.anyio

READ_ONLY = {
    "postgresql": "SET default_transaction_read_only = on",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}


@pytest.mark.parametrize("engine_name", SERVERS)
async def test_sessions_that_are_read_only(url, subject):
    """What would change a key fails, what reads one works."""
    async with host_engine(url) as engine:

        @sa.event.listens_for(core(engine), "connect")
        def read_only(connection, _):
            connection.cursor().execute(READ_ONLY[engine.dialect.name])
            connection.commit()

        async with subject(url) as keys:
            with nothing_written(keys):
                async with keys.elsewhere(engine):
                    await keys.fails(*CHANGES, match=r"(?i)read.only")
                    await keys.works(*READS)
            await keys.works()


@pytest.mark.parametrize("engine_name", ["postgres-async", "postgres-sync"])
async def test_a_database_that_becomes_read_only(url, subject):
    """As one does that is no longer the primary, and then is again."""
    name = sa.make_url(url).database
    setting = f"ALTER DATABASE {name} SET default_transaction_read_only"
    async with subject(url) as keys:
        with nothing_written(keys):
            tell(url, f"{setting} = on")
            async with keys.elsewhere(url):
                await keys.fails(*CHANGES, match="read-only")
                await keys.works(*READS)
        tell(url, "SET TRANSACTION READ WRITE", f"{setting} = off")
        async with keys.elsewhere(url):
            await keys.works()


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
async def test_a_full_sqlite_file(url, subject):
    """A key that finds no room for its page is not there, and is once there is room."""
    pages = 1_000_000
    async with host_engine(url) as engine:

        @sa.event.listens_for(core(engine), "checkout")
        def limit(connection, *_):
            connection.cursor().execute(f"PRAGMA max_page_count = {pages}")

        async with subject(engine, url) as keys:
            pages = 1  # SQLite takes it for as many as there are
            with suppress(UnavailableError):
                while True:
                    await keys.call("create")
            with nothing_written(keys):
                await keys.fails("create", match="full")
                await keys.works(*READS)
                await keys.lets_go()
            pages = 1_000_000
            await keys.works()


@pytest.mark.parametrize("engine_name", SERVERS)
async def test_no_room_for_events(url, subject):
    """Nothing happens that could not be recorded."""
    async with subject(url) as keys:
        with full(url), nothing_written(keys):
            await keys.fails(*(set(CHANGES) - {"purge"}), match="full|No space left")
            await keys.works(*READS)
            await keys.lets_go()
        await keys.works()


@contextmanager
def full(url):
    """The table of events takes no more rows.

    MariaDB itself says so of a MyISAM table of 64 KiB. On PostgreSQL nothing fills up but the
    disk, so that a trigger has to say it.
    """
    mariadb = sa.make_url(url).get_backend_name() == "mariadb"
    if mariadb:
        tell(url, "ALTER TABLE api_key_events ENGINE = MyISAM, MAX_ROWS = 1, AVG_ROW_LENGTH = 1")
        with pytest.raises(OperationalError, match="is full"):
            tell(
                url,
                "INSERT INTO api_key_events (key_id, at, action, details)"
                " SELECT '', NOW(6), '', '{}' FROM seq_1_to_5000",
            )
    else:
        tell(
            url,
            "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
            " END $$",
            "CREATE TRIGGER fill BEFORE INSERT ON api_key_events EXECUTE FUNCTION fill()",
        )
    yield
    if mariadb:
        tell(
            url,
            "DELETE FROM api_key_events WHERE key_id = ''",
            "ALTER TABLE api_key_events ENGINE = InnoDB, MAX_ROWS = 0, AVG_ROW_LENGTH = 0",
        )
    else:
        tell(url, "DROP TRIGGER fill ON api_key_events", "DROP FUNCTION fill")
