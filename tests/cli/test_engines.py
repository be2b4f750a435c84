"""The whole command line on every engine: the life of keys, and what stands in its way."""

import asyncio
from dataclasses import fields
from functools import partial

import pytest
from schemas import execute, run
from sqlalchemy import make_url

from keylatch import APIKey, migrations
from keylatch.records import KeyEvent

# One driver for each database, where a test of every driver would show no more.
each_database = pytest.mark.parametrize(
    "database", ["sqlite-sync", "postgres-async", "mariadb-sync"], indirect=True
)
KEY = "0123456789abcdef"
# Every command that works on the keys of a database, without those that make the first one.
COMMANDS = [
    ("list",),
    ("list", "--all"),
    ("show", KEY),
    ("events", KEY),
    ("expiring", "--within", "14d"),
    ("unused", "--for", "90d"),
    ("update", KEY, "--name", "other"),
    ("rotate", KEY, "--grace", "24h"),
    ("revoke", KEY, "--yes"),
    ("revoke", "--owner", "u1", "--yes"),
    ("purge", "--dead-for", "30d", "--dry-run"),
    ("purge", "--dead-for", "30d", "--yes"),
]


@pytest.fixture
def cli(inside, database):
    """A command line on a database with empty tables, of an operator who has its URL alone."""
    inside.env |= {"KEYLATCH_DATABASE": database, "LOGNAME": "ada"}
    del inside.env["KEYLATCH_SECRET"], inside.env["KEYLATCH_PREFIX"]
    return inside


@pytest.fixture
def sealing(secret):
    """What making and verifying tokens needs beside."""
    return {"KEYLATCH_SECRET": secret, "KEYLATCH_PREFIX": "acme_live"}


@pytest.fixture
def made(cli, sealing):
    """Makes a key, or rotates one."""
    return partial(cli.json, env=sealing)


def ids(document):
    """Of the keys that a command listed."""
    return [key["id"] for key in document["items"]]


def test_a_key_is_made_read_changed_and_followed(cli, made):
    """What ``update`` changes, ``show`` shows and ``events`` tells, by whom."""
    key = made("create", "--name", "ci", "--owner", "u1", "--scope", "a")["key"]
    assert set(key) == {field.name for field in fields(APIKey)} | {"status"}
    assert cli.json("show", key["id"]) == key
    changes = ("--name", "cd", "--scope", "b", "--scope", "c", "--metadata", '{"team": "data"}')
    changed = cli.json("update", key["id"], *changes, "--expires-at", "2100-01-01T01:00+01:00")
    assert changed == key | {
        "name": "cd",
        "scopes": ["b", "c"],
        "metadata": {"team": "data"},
        "expires_at": "2100-01-01T00:00:00+00:00",
    }
    # What is not given stays as it is.
    lasting = cli.json("update", key["id"], "--never-expires", "--actor", "grace")
    assert lasting == changed | {"expires_at": None}
    assert cli.json("update", key["id"], "--no-scopes")["scopes"] == []
    assert cli.json("update", key["id"], "--expires-in", "2w")["expires_at"] is not None
    assert cli.json("update", key["id"], "--metadata", "{}")["metadata"] == {}
    trail = cli.json("events", key["id"])["items"]
    assert set(trail[0]) == {field.name for field in fields(KeyEvent)}
    assert [event["action"] for event in trail] == ["created"] + ["updated"] * 5
    assert [event["actor"] for event in trail[:3]] == ["cli:ada", "cli:ada", "grace"]
    shown = cli.run("events", key["id"]).stdout.splitlines()
    assert len(shown) == 7
    assert "name from ci to cd" in shown[2]
    assert "scopes from b c to none" in shown[4]


@each_database
def test_list_takes_every_filter(cli, made):
    """Each filter finds the one key that passes it, and all of them together do, too."""
    options = ("--owner", "u1", "--scope", "a", "--expires-in", "3d", "--prefix", "acme_test")
    wanted = made("create", "--name", "ci", *options)["key"]["id"]
    made("create", "--name", "other", "--owner", "u2", "--scope", "b")
    filters = [
        ("--owner", "u1"),
        ("--prefix", "acme_test"),
        ("--scope", "a"),
        ("--name", "ci"),
        ("--expiring-within", "4d"),
    ]
    for one in filters:
        assert ids(cli.json("list", *one)) == [wanted]
    together = [text for one in filters for text in one]
    for more in ((), ("--all",), ("--status", "active", "--unused-for", "0d")):
        assert ids(cli.json("list", *together, *more)) == [wanted]
    assert ids(cli.json("list", *together, "--unused-for", "1d")) == []
    assert len(ids(cli.json("list", "--unused-for", "0d"))) == 2
    # Pages of a filtered list go on where they ended.
    page = cli.json("list", "--limit", "1", "--unused-for", "0d")
    rest = cli.json("list", "--all", "--unused-for", "0d", "--cursor", page["next_cursor"])
    assert len({*ids(page), *ids(rest)}) == 2
    cli.json("revoke", wanted, "--yes")
    assert ids(cli.json("list", *together)) == []
    assert ids(cli.json("list", *together, "--status", "revoked")) == [wanted]


@each_database
def test_reminders_exit_with_1_if_there_are_any_and_are_silent_if_not(cli, made):
    """So cron mails nothing on most days; the soonest key comes first, and dead ones never."""
    late, soon, dead = (
        made("create", "--name", "ci", "--owner", owner, "--expires-in", duration)["key"]["id"]
        for owner, duration in (("u1", "10d"), ("u2", "2d"), ("u2", "1d"))
    )
    lasting = made("create", "--name", "lasting", "--owner", "u1")["key"]["id"]
    cli.json("revoke", dead, "--yes")
    for arguments, expected in [
        (("expiring", "--within", "2w"), [soon, late]),
        (("expiring", "--within", "2w", "--owner", "u1"), [late]),
        (("expiring", "--within", "2w", "--prefix", "other"), []),
        (("expiring", "--within", "90m"), []),
        (("unused", "--for", "0d"), [lasting, soon, late]),
        (("unused", "--for", "0d", "--owner", "u2"), [soon]),
        (("unused", "--for", "90d"), []),
    ]:
        done = cli.run(*arguments)
        assert (done.returncode, done.stderr) == (int(bool(expected)), "")
        assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == expected
        assert ids(cli.json(*arguments, code=done.returncode)) == expected


@each_database
def test_a_rotated_token_goes_on_for_the_grace(cli, made, sealing):
    """Without grace the old one ends at once, and a key that has ended exits with 6."""
    old = made("create", "--name", "ci", "--owner", "u1", "--scope", "a")
    new = made("rotate", old["key"]["id"], "--grace", "24h", "--expires-in", "30d")
    for token in (old["token"], new["token"]):
        assert cli.json("verify", "--scope", "a", stdin=token, env=sealing)["valid"]
    assert cli.json("show", old["key"]["id"])["successor"] == new["key"]["id"]
    assert "rotated" in cli.fails(6, "rotate", old["key"]["id"], "--grace", "0h", env=sealing)
    assert "rotated" in cli.fails(6, "update", old["key"]["id"], "--never-expires")
    last = cli.run("rotate", new["key"]["id"], "--grace", "0h", env=sealing)
    assert last.stdout.count("\n") == 1
    assert last.stdout.strip() not in last.stderr
    assert cli.json("verify", stdin=last.stdout, env=sealing)["valid"]
    assert "expired" in cli.fails(1, "verify", stdin=new["token"], env=sealing)
    assert "expired" in cli.fails(6, "update", new["key"]["id"], "--name", "cd")


@each_database
def test_an_incident_ends_every_key_of_an_owner_and_a_purge_deletes_them(cli, made):
    """``revoke --owner`` and ``purge`` say how many; a dry run counts and deletes nothing."""
    first, second, other = (
        made("create", "--name", "ci", "--owner", owner, "--expires-in", "1d")["key"]["id"]
        for owner in ("u1", "u1", "u2")
    )
    assert cli.json("revoke", first, "--yes")["status"] == "revoked"
    assert cli.json("revoke", "--owner", "u1", "--reason", "stolen", "--yes")["revoked"] == [second]
    assert cli.json("events", second)["items"][-1]["details"] == {"reason": "stolen"}
    assert cli.run("revoke", "--owner", "u1", "--yes").stdout == "revoked 0 keys of u1\n"
    made("rotate", other, "--grace", "0h")  # so that this one has expired
    assert "at least an hour" in cli.fails(2, "purge", "--dead-for", "59m", "--dry-run")
    assert cli.json("purge", "--dead-for", "1h", "--yes") == {"deleted": 0}
    cli.let_two_hours_pass()
    for arguments, said in [
        (("--dead-for", "1d", "--dry-run"), "would delete 0 keys\n"),
        (("--dead-for", "1h", "--dry-run"), "would delete 3 keys\n"),
        (("--dead-for", "1d", "--yes"), "deleted 0 keys\n"),
        (("--dead-for", "1h", "--yes"), "deleted 3 keys\n"),
    ]:
        done = cli.run("purge", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert cli.json("purge", "--dead-for", "1h", "--dry-run") == {"would_delete": 0}
    assert cli.json("purge", "--dead-for", "1h", "--yes") == {"deleted": 0}
    assert len(cli.json("list")["items"]) == 1


@each_database
def test_an_unknown_key_exits_with_3(cli, made, sealing):
    """Each command that names one says so; lists and purges of nothing go well."""
    made("create", "--name", "ci")
    for command in COMMANDS:
        if KEY in command:
            told = cli.fails(3, *command, env=sealing)
            assert "no key has this id" in told
        else:
            assert cli.run(*command).returncode == 0


@pytest.mark.parametrize(
    ("engine_name", "revision"),
    [
        ("sqlite-async", "0001"),
        ("postgres-sync", "0001"),
        ("mariadb-async", "0001"),
        ("sqlite-sync", "9999"),
    ],
)
def test_tables_of_another_version_exit_with_4(inside, database_url, revision):
    """Every command says in one line whether to upgrade the tables or the program."""
    asyncio.run(run(database_url, partial(migrations.upgrade, to="0001")))
    newer = execute(f"UPDATE keylatch_version SET version_num = '{revision}'")
    asyncio.run(run(database_url, newer))
    says = "run `keylatch db upgrade`" if revision == "0001" else "install the version of keylatch"
    for command in (*COMMANDS, ("create", "--name", "ci")):
        assert says in inside.fails(4, *command, env={"KEYLATCH_DATABASE": database_url})


@pytest.mark.parametrize(
    "engine_name", ["postgres-async", "postgres-sync", "mariadb-async", "mariadb-sync"]
)
def test_a_server_that_is_not_there_exits_with_5(inside, database_url, free_port):
    """A command that reads, changes or deletes says so in one line, without the password."""
    down = make_url(database_url).set(port=free_port, password="hunter2")
    env = {"KEYLATCH_DATABASE": down.render_as_string(hide_password=False)}
    for command in COMMANDS[3::4]:
        assert "hunter2" not in inside.fails(5, *command, env=env)
