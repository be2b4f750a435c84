"""``keylatch db``: making the tables, bringing them up to date, and checking them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat

import pytest
import schemas
from schemas import execute
from sqlalchemy import make_url

from keylatch import migrations

ENGINES = ["sqlite-async", "postgres-async", "mariadb-async"]
SERVERS = ENGINES[1:]


def run(url, unit):
    """Does something on a database, beside the command line."""
    asyncio.run(schemas.run(url, unit))


def on(command_line, database_url):
    """A command line on an empty database, without anything that ``db`` does not need."""
    for name in ("KEYLATCH_SECRET", "KEYLATCH_PREFIX"):
        del command_line.env[name]
    command_line.env["KEYLATCH_DATABASE"] = database_url
    return command_line


@pytest.fixture
def db(inside, database_url):
    """That, without a process for each command."""
    return on(inside, database_url)


@pytest.fixture
def processes(bare, database_url):
    """The same with processes, which can run at once."""
    return on(bare, database_url)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_upgrade_says_what_it_did(db, database_url):
    """It makes the tables or upgrades them, once, and check agrees."""

    def says(*command):
        done = db.run("db", *command)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    run(database_url, partial(migrations.upgrade, to="0001"))
    assert says("upgrade") == "upgraded from 0001 to 0002\n"
    assert says("upgrade") == "already at 0002\n"
    assert says("check") == "the tables are those of this version, revision 0002\n"
    assert db.json("db", "upgrade") == {"before": "0002", "after": "0002"}
    assert db.json("db", "check") == {"revision": "0002"}
    run(database_url, execute("DROP TABLE api_keys", "DROP TABLE api_key_events"))
    run(database_url, execute("DELETE FROM keylatch_version"))
    assert says("upgrade") == "made the tables, at revision 0002\n"


@pytest.mark.parametrize("engine_name", SERVERS)
def test_a_database_without_tables_is_said_so(db):
    """The first command on a server says what to run, and goes well after it was run."""
    told = db.fails(4, "db", "check")
    assert "no tables of keylatch: run `keylatch db upgrade`" in told
    assert told == db.fails(4, "list")
    assert db.json("db", "upgrade") == {"before": None, "after": "0002"}
    assert db.json("list")["items"] == []


def test_a_sqlite_file_is_made_by_upgrade_alone(bare):
    """A check of a mistyped path makes no file; an upgrade is told to make one."""
    assert "no such database file" in bare.fails(5, "db", "check")
    assert not bare.database.exists()
    assert bare.json("db", "upgrade") == {"before": None, "after": "0002"}
    assert bare.json("db", "check") == {"revision": "0002"}
    bare.fails(5, "db", "upgrade", "--database", f"sqlite:///{bare.database}/keys.db")


@pytest.mark.parametrize("engine_name", ENGINES)
def test_tables_of_another_version_exit_with_4(db, database_url):
    """Check names what to run on older tables, and no command touches newer ones."""
    run(database_url, partial(migrations.upgrade, to="0001"))
    told = db.fails(4, "db", "check", "--json")
    assert "revision 0001, not 0002" in told
    assert "run `keylatch db upgrade`" in told
    run(database_url, execute("UPDATE keylatch_version SET version_num = '9999'"))
    for command in ("check", "upgrade"):
        assert "install the version of keylatch that made them" in db.fails(4, "db", command)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_two_deploys_at_once_both_go_well(processes):
    """Of processes that upgrade at once, one makes the tables and the others wait for it."""
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(processes.json, repeat("db", 3), repeat("upgrade")))
    assert sorted(one["before"] or "" for one in done) == ["", "0002", "0002"]


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-async"])
@pytest.mark.parametrize("command", ["upgrade", "check"])
def test_a_server_that_is_not_there_exits_with_5(db, database_url, command, free_port):
    """It is told without the password."""
    url = make_url(database_url).set(port=free_port, password="hunter2")
    told = db.fails(5, "db", command, "--database", url.render_as_string(hide_password=False))
    assert "hunter2" not in told


@pytest.mark.parametrize("command", ["upgrade", "check"])
@pytest.mark.parametrize(
    "url",
    [
        "hunter2.db",
        "nothing://u:hunter2@host/keys",
        "mssql+pyodbc://u:hunter2@host/keys",
        "sqlite:///:memory:",
    ],
)
def test_a_wrong_url_exits_with_4(inside, command, url):
    """What cannot hold keys is refused before anything is done, and not repeated."""
    assert "hunter2" not in inside.fails(4, "db", command, "--database", url)


def test_alembic_is_asked_for_by_upgrade_only(bare, tmp_path):
    """Without it the command line names the extra; whoever does not upgrade does not need it."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['alembic'] = None")
    without = {"PYTHONPATH": str(tmp_path)}
    told = bare.fails(4, "db", "upgrade", env=without)
    assert told == 'keylatch: alembic is not installed: pip install "keylatch[cli]"\n'
    bare.json("create", "--name", "ci", env=without)
    assert bare.json("db", "check", env=without) == {"revision": "0002"}


def test_db_alone_is_wrong_usage(bare):
    """Without a command it says so, and its help names both."""
    bare.fails(2, "db")
    shown = bare.run("db", "--help").stdout
    assert "upgrade" in shown
    assert "check" in shown
