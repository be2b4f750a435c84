"""What an engine that is made here tells its driver, beside what its URL says."""

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from subject import somebody_else

from keylatch import APIKeys, SecretRing
from keylatch.drivers import Line, engine_of
from keylatch.errors import ConfigurationError

pytestmark = pytest.mark.anyio


async def told(source: str, question: str, *, deadline: float = 2.0):
    """What a session of an engine answers."""
    engine = engine_of(source, deadline)
    if isinstance(engine, AsyncEngine):
        async with engine.connect() as connection:
            answer = (await connection.exec_driver_sql(question)).scalar()
        await engine.dispose()
        return answer
    with engine.connect() as connection:
        answer = connection.exec_driver_sql(question).scalar()
    engine.dispose()
    return answer


def with_query(url: str, **query: str) -> str:
    """A URL that says more."""
    return sa.make_url(url).update_query_dict(query).render_as_string(hide_password=False)


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
async def test_sqlite_waits_for_a_lock_as_long_as_the_deadline_lets_it(database_url):
    """It gives up by itself a little before, unless the URL says how long."""
    assert await told(database_url, "PRAGMA busy_timeout") == 1800
    assert await told(with_query(database_url, timeout="1"), "PRAGMA busy_timeout") == 1000


@pytest.mark.parametrize("engine_name", ["mariadb-async", "mariadb-sync"])
async def test_mariadb_stops_at_statements_that_nobody_waits_for(database_url):
    """The session's own limit is set, and what the URL has it begin with holds as well."""
    assert float(await told(database_url, "SELECT @@max_statement_time")) == 1.8
    assert await told(database_url, "SELECT @@time_zone") == "+05:30"


@pytest.mark.parametrize("engine_name", ["mariadb-sync"])
async def test_the_timeouts_of_a_url_hold(database_url):
    """Those that it does not name are the deadline."""
    engine = engine_of(with_query(database_url, read_timeout="7"), 2.5)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert (driver._read_timeout, driver._write_timeout) == (7, 2.5)
    engine.dispose()


@pytest.mark.parametrize("engine_name", ["postgres-sync"])
async def test_the_options_of_a_url_hold(database_url):
    """A search path stays beside the limit of statements, and another limit takes its place."""
    url = with_query(database_url, options="-c search_path=keys")
    assert await told(url, "SHOW search_path") == "keys"
    assert await told(url, "SHOW statement_timeout") == "1800ms"
    url = with_query(database_url, options="-c statement_timeout=7s")
    assert await told(url, "SHOW statement_timeout") == "7s"


@pytest.mark.parametrize("engine_name", ["postgres-sync", "mariadb-sync"])
async def test_a_line_is_cut_once_and_for_its_own_connection_only(database_url):
    """Cutting it kills the connection; after it was left it has nothing to cut."""
    with somebody_else(database_url).connect() as first:
        with Line(first) as line:
            assert first.exec_driver_sql("SELECT 1").scalar() == 1
        line.cut()
        assert first.exec_driver_sql("SELECT 2").scalar() == 2
        with Line(first) as line:
            line.cut()
            line.cut()
            with pytest.raises(sa.exc.OperationalError) as dead:
                first.exec_driver_sql("SELECT 3")
        assert dead.value.connection_invalidated


@pytest.mark.parametrize("engine_name", ["sqlite-sync"])
async def test_a_file_has_no_line(database_url):
    """There is nothing to cut, and no harm in trying."""
    with somebody_else(database_url).connect() as connection, Line(connection) as line:
        line.cut()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async", "mariadb-sync"])
async def test_an_option_that_the_driver_does_not_know_is_named_at_the_start(database_url):
    """It is a mistake in the configuration, not a database that is down."""
    url = with_query(database_url, sslmode="require")
    keys = APIKeys(url, prefix="acme", secret=SecretRing.generate())
    with pytest.raises(ConfigurationError, match="'sslmode'"):
        async with keys:
            pass


@pytest.mark.parametrize("engine_name", ["postgres-async"])
async def test_an_option_of_a_wrong_type_is_a_mistake_of_the_url_too(database_url):
    """The driver would compare the text with a number."""
    url = with_query(database_url, timeout="soon")
    keys = APIKeys(url, prefix="acme", secret=SecretRing.generate())
    with pytest.raises(ConfigurationError, match="refused what stands behind") as refused:
        async with keys:
            pass
    assert "soon" not in str(refused.value)
