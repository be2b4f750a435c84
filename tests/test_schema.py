"""What is started on: tables of this version, whoever made them, and no others."""

import pytest
import sqlalchemy as sa
from databases import empty_database
from schemas import execute, run, structure

from keylatch import APIKeys, migrations, schema
from keylatch.errors import ConfigurationError, SchemaError
from keylatch.sqlalchemy import SQLAlchemyStore, metadata

pytestmark = pytest.mark.anyio


def of_0001(connection):
    """Makes the tables of the first revision."""
    migrations.upgrade(connection, to="0001")


def newer(connection):
    """Makes the tables of a revision that only a later version knows."""
    migrations.upgrade(connection)
    execute("UPDATE keylatch_version SET version_num = '9999'")(connection)


def without_a_column(connection):
    """Makes the tables as a host's migrations did, which missed a column."""
    metadata.create_all(connection)
    execute("ALTER TABLE api_keys DROP COLUMN revoked_reason")(connection)


def without_an_index(connection):
    """Makes the tables as a host's migrations did, which missed an index."""
    metadata.create_all(connection)
    (index,) = (
        index for index in metadata.tables["api_keys"].indexes if index.name == "ix_api_keys_prefix"
    )
    index.drop(connection)


def without_a_table(connection):
    """Makes the tables as a host's migrations did, which missed one."""
    metadata.tables["api_keys"].create(connection)


def foreign(connection):
    """Makes a table of somebody else, which has the name of ours."""
    execute("CREATE TABLE api_keys (id INTEGER, token INTEGER)")(connection)


async def refused(url, secret):
    """What the text says that a start is refused with."""
    texts = set()
    store = SQLAlchemyStore(url)
    for start in (store.open, store.check, APIKeys(url, prefix="acme", secret=secret).__aenter__):
        with pytest.raises(SchemaError) as error:
            await start()
        texts.add(str(error.value))
    await store.close()
    (text,) = texts
    return text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (of_0001, ["older", "revision 0001, not 0002", "run `keylatch db upgrade`"]),
        (without_an_index, ["index ix_api_keys_prefix is missing", "run `keylatch db upgrade`"]),
        (without_a_table, ["table api_key_events is missing", "run `keylatch db upgrade`"]),
    ],
)
async def test_older_tables_are_refused_until_they_are_upgraded(database_url, secret, make, said):
    """A start on older tables, or on half of them, says what to run, and then goes well."""
    await run(database_url, make)
    text = await refused(database_url, secret)
    assert all(part in text for part in said), text
    await run(database_url, migrations.upgrade)
    async with APIKeys(database_url, prefix="acme", secret=secret) as keys:
        assert (await keys.create(name="ci")).key.name == "ci"


async def test_newer_tables_are_refused_and_left_alone(database_url, secret):
    """Neither a start nor an upgrade touches what a later version made."""
    await run(database_url, newer)
    text = await refused(database_url, secret)
    assert "newer than this version (revision 9999, known up to 0002)" in text
    assert "install the version" in text
    with pytest.raises(SchemaError, match="newer than this version"):
        await run(database_url, migrations.upgrade)
    assert await run(database_url, schema.stored_revision) == "9999"


@pytest.mark.parametrize(
    ("make", "missing", "column"),
    [
        (without_a_column, "column api_keys.revoked_reason", "api_keys.revoked_reason"),
        (foreign, "table api_key_events", "api_keys.prefix"),
    ],
)
async def test_tables_that_keylatch_did_not_make_are_not_mended(
    database_url, secret, make, missing, column
):
    """Where a column is missing, an upgrade does not guess whose table it is."""
    await run(database_url, make)
    assert f"{missing} is missing" in await refused(database_url, secret)
    before = await run(database_url, structure)
    with pytest.raises(SchemaError, match=f"column {column} is missing: if your own migrations"):
        await run(database_url, migrations.upgrade)
    after = await run(database_url, structure)
    # Of what it did until then, MariaDB keeps this.
    assert after | {"keylatch_version": ...} == before | {"keylatch_version": ...}


async def test_tables_that_a_host_made_are_accepted(database_url, secret):
    """Whoever made them, and whether or not keylatch's migrations know of them."""
    await run(database_url, metadata.create_all)
    async with APIKeys(database_url, prefix="acme", secret=secret) as keys:
        new = await keys.create(name="ci")
    assert await run(database_url, schema.stored_revision) is None
    assert await run(database_url, migrations.upgrade) == ("0002", "0002")
    assert await run(database_url, schema.stored_revision) == "0002"
    async with APIKeys(database_url, prefix="acme", secret=secret) as keys:
        assert (await keys.verify(new.token)).name == "ci"


async def test_tables_are_made_automatically_in_sqlite_only(engine_name, secret):
    """Elsewhere a start on an empty database says what to run, and makes nothing."""
    with empty_database(engine_name) as url:
        if engine_name.startswith("sqlite"):
            async with APIKeys(url, prefix="acme", secret=secret):
                assert await run(url, schema.stored_revision) == "0002"
        else:
            text = await refused(url, secret)
            assert "no tables of keylatch: run `keylatch db upgrade`" in text
            assert "keylatch.sqlalchemy.metadata" in text
            assert await run(url, structure) == {}


@pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"])
async def test_a_check_makes_no_tables(database_url):
    """Only a start makes them, in SQLite."""
    store = SQLAlchemyStore(database_url)
    with pytest.raises(SchemaError, match="no tables"):
        await store.check()
    await store.close()
    assert await run(database_url, structure) == {}


@pytest.mark.parametrize("engine_name", ["mariadb-async", "mariadb-sync"])
@pytest.mark.parametrize("scheme", ["mariadb", "mysql"])
async def test_mysql_is_refused(database_url, scheme, monkeypatch):
    """A server that speaks like MariaDB but lacks its collations is named, with what to use."""
    url = database_url.replace("mariadb+", f"{scheme}+", 1)
    dialect = sa.make_url(url).get_dialect()
    # The server's answer to SQLAlchemy when it connects; the one at hand is no MySQL.
    monkeypatch.setattr(
        dialect,
        "_get_server_version_info",
        lambda self, _: self._parse_server_version("8.4.0"),
    )
    monkeypatch.setattr(dialect, "get_default_isolation_level", lambda *_: "REPEATABLE READ")
    store = SQLAlchemyStore(url)
    for use in (store.open, store.check, store.upgrade):
        with pytest.raises(ConfigurationError, match=r"is MySQL, .*: use MariaDB") as error:
            await use()
        assert not isinstance(error.value, SchemaError)
    await store.close()
    monkeypatch.undo()
    assert await run(database_url, structure) == {}
