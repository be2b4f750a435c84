"""The command line when something is wrong: exit codes, one line of text, and no secret in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keylatch
from keylatch import parse

FULL = Path("/dev/full")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["create"],
        ["create", "--name", "ci", "--expires-in", "90"],
        ["create", "--name", "ci", "--expires-in", "999999w"],
        ["create", "--name", "ci", "--expires-at", "2100-01-01T00:00:00"],
        ["create", "--name", "ci", "--expires-at", "soon"],
        ["create", "--name", "ci", "--expires-at", "2001-01-01T00:00:00Z"],
        ["create", "--name", "ci", "--expires-in", "1d", "--expires-at", "2100-01-01T00:00Z"],
        ["create", "--name", "ci", "--metadata", "[1]"],
        ["create", "--name", "ci", "--metadata", "[" * 100_000],
        ["create", "--name", "ci", "--scope", "a b"],
        ["create", "--name", "a\nb"],
        ["create", "--name", "\udcff"],
        ["create", "--name", "ci", "--prefix", "a__b"],
        ["create", "--name", "ci", "--secret", "k1:anything"],
        ["list", "--database", ""],
        ["list", "--limit", "0"],
        ["list", "--status", "lost"],
        ["list", "--cursor", "x"],
        ["secret", "--kid", "K!"],
        ["revoke", "0123456789abcdef"],
        ["verify"],
    ],
)
def test_wrong_usage_exits_with_2_and_changes_nothing(within, arguments):
    """Each mistake is one line on standard error, and leaves the keys as they were."""
    within.fails(2, *arguments, stdin=" \n")
    assert within.sql("SELECT name, revoked_at FROM api_keys") == [("ci", None)]


@pytest.mark.parametrize("key_id", ["0123456789abcdef", "no id"])
def test_an_unknown_key_exits_with_3(within, key_id):
    """To revoke what is not there is an error of its own, whatever the id looks like."""
    assert "no key has this id" in within.fails(3, "revoke", key_id, "--yes")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYLATCH_SECRET", ""),
        ("KEYLATCH_SECRET", "k1:hunter2"),
        ("KEYLATCH_DATABASE", "hunter2.db"),
        ("KEYLATCH_DATABASE", "postgresql+pg8000://u:hunter2@host/keys"),
        ("KEYLATCH_DATABASE", "sqlite+aiosqlite:///:memory:"),
        ("KEYLATCH_DATABASE", "nothing://u:hunter2@host/keys"),
    ],
)
def test_a_wrong_configuration_exits_with_4(inside, name, value):
    """A missing or malformed server secret or URL is told without its value."""
    assert "hunter2" not in inside.fails(4, "create", "--name", "ci", env={name: value})
    assert not inside.database.exists()


@pytest.mark.parametrize("missing", ["typer", "rich", "sqlalchemy"])
def test_a_missing_package_exits_with_4_and_says_how_to_install_it(tmp_path, missing):
    """Without what the extra brings, the command line names the extra."""
    site = Path(keylatch.__file__).parents[1]
    for package in {"typer", "rich", "sqlalchemy", "keylatch"} - {missing}:
        (tmp_path / package).symlink_to(site / package)
    start = f"import sys; sys.path.append({str(tmp_path)!r}); from keylatch.cli import main"
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"{start}; sys.exit(main())"],
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f'keylatch: {missing} is not installed: pip install "keylatch[cli]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (4, "", expected)


@pytest.mark.parametrize(
    "arguments", [["list"], ["revoke", "0123456789abcdef", "--yes"], ["verify"]]
)
def test_a_database_file_that_is_not_there_is_not_made_by_reading(bare, new, arguments):
    """A mistyped path exits with 5, instead of making an empty database that knows no key."""
    told = bare.fails(5, *arguments, stdin=new["token"])
    assert "no such database file" in told
    assert not bare.database.exists()


def test_a_database_that_fails_exits_with_5(bare):
    """A file that is no database, and a path that cannot be one, are told in one line."""
    nowhere = f"sqlite+aiosqlite:///{bare.database}/keys.db"
    bare.fails(5, "create", "--name", "ci", "--database", nowhere)
    bare.database.write_text("no database, but long enough for SQLite to look at it" * 20)
    bare.fails(5, "list")


def test_a_defect_exits_with_70_and_shows_no_value(cli, new, tmp_path):
    """What nobody expected is named by its type alone: its text may be a secret."""
    # No input is known to cause one, so the process is started with a broken library.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, keylatch.keys\n"
        "async def bug(*_, **__): raise RuntimeError(os.environ['CANARY'])\n"
        "keylatch.keys.APIKeys.list = bug\n"
    )
    environment = {
        "BETTER_EXCEPTIONS": "1",
        "TYPER_STANDARD_TRACEBACK": "1",
        "PYTHONPATH": str(tmp_path),
        "CANARY": new["token"],
    }
    told = cli.fails(70, "list", env=environment)
    assert "RuntimeError" in told
    assert new["token"] not in told


# Whoever runs the tests in the background may have the signal ignored.
INTERRUPTED = """
import asyncio, signal
from keylatch.{module} import {kind}
signal.signal(signal.SIGINT, signal.default_int_handler)
undisturbed = {kind}.{name}
async def disturbed(*arguments, **options):
    signal.raise_signal(signal.SIGINT)
    await asyncio.sleep(0)
    return await undisturbed(*arguments, **options)
{kind}.{name} = disturbed
"""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_takes_no_token_back_that_was_made(bare, tmp_path, options):
    """While the collection closes the keys are there already, and so their tokens come."""
    disturbance = INTERRUPTED.format(module="keys", kind="APIKeys", name="_end")
    (tmp_path / "sitecustomize.py").write_text(disturbance)
    (tmp_path / "keys.csv").write_text("name\nci\nci\n")
    interrupted = {"PYTHONPATH": str(tmp_path)}
    tokens = []
    for arguments in (["create", "--name", "ci"], ["create", "--from", str(tmp_path / "keys.csv")]):
        done = bare.run(*arguments, *options, env=interrupted)
        assert done.returncode == 0
        tokens += re.findall(r"acme_live_\w+", done.stdout)
    old = parse(tokens[0]).key_id
    done = bare.run("rotate", old, "--grace", "0h", *options, env=interrupted)
    tokens += re.findall(r"acme_live_\w+", done.stdout)
    assert [bare.run("verify", stdin=token).returncode for token in tokens] == [1, 0, 0, 0]


LEFT_BEHIND = """
import asyncio, sqlite3, time
import aiosqlite
from keylatch import cli_database
def slow(*arguments, **options):
    time.sleep(0.3)
    return sqlite3.Connection(*arguments, **options)
async def interrupted():
    async def poll():
        while True:
            async with aiosqlite.connect(":memory:", factory=slow):
                pass
    polling = asyncio.create_task(poll())
    await asyncio.sleep(0.1)
    raise KeyboardInterrupt
try:
    cli_database.run(interrupted)
except KeyboardInterrupt:
    print("stopped")
"""


def test_connections_of_the_background_print_nothing_after_ctrl_c():
    """Their threads end before the event loop that they report to."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_ctrl_c_in_the_middle_of_a_change_is_told(bare, tmp_path):
    """Whether the database did it nobody knows by then, so that somebody has to look."""
    disturbance = INTERRUPTED.format(module="sqlalchemy", kind="SQLAlchemyStore", name="insert")
    (tmp_path / "sitecustomize.py").write_text(disturbance)
    told = bare.fails(130, "create", "--name", "ci", env={"PYTHONPATH": str(tmp_path)})
    assert "may be changed" in told


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_token_that_was_lost_is_named_for_revocation(bare, options):
    """If create cannot write the token, it tells the key id and exits with 74."""
    with FULL.open("w") as full:
        told = bare.fails(74, "create", "--name", "ci", *options, stdout=full)
    ((key_id,),) = bare.sql("SELECT id FROM api_keys")
    assert f"revoke {key_id}" in told


def test_create_makes_no_key_that_it_could_not_tell(bare):
    """With standard output closed, create exits with 74 before it does anything."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" create --name ci >&-', bare.script],
        env=bare.env,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (74, 1)
    assert not bare.database.exists()


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_has_gone_ends_the_command_quietly(bare, options):
    """``keylatch list | head -0`` prints no traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        done = bare.run("list", *options, stdout=pipe)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["{}"],
        ["--{}"],
        ["verify", "{}"],
        ["verify", "--token={}"],
        ["inspect", "{}"],
        ["revoke", "{}", "--yes"],
        ["create", "--name", "{}"],
        ["create", "--name", "ci", "--metadata", '{{"token": "{}"}}'],
        ["create", "--name", "ci", "--expires-in", "{}"],
        ["list", "--database", "sqlite+aiosqlite:///{}"],
    ],
)
def test_a_token_on_the_command_line_is_refused_and_not_shown(cli, new, arguments):
    """Wherever it stands, whole, cut or mistyped, no part of its secret comes back."""
    token = new["token"]
    for text in (token, token[:-20], token.upper()):
        told = cli.fails(2, *(argument.format(text) for argument in arguments))
        assert "looks like a token" in told
        assert token[-50:-40].lower() not in told.lower()
    assert cli.sql("SELECT name FROM api_keys") == [("ci",)]


@pytest.mark.parametrize("arguments", [["{}"], ["--{}"], ["verify", "{}"], ["list", "--limit={}"]])
def test_a_secret_of_another_format_is_not_repeated(cli, new, arguments):
    """What Typer says of an argument leaves out anything as long as a secret."""
    foreign = "sk-live-" + new["token"][-55:]
    told = cli.fails(2, *(argument.format(foreign) for argument in arguments))
    assert foreign[-10:] not in told


@pytest.mark.parametrize("name", ["KEYLATCH_DATABASE", "KEYLATCH_PREFIX", "KEYLATCH_SECRET"])
def test_a_token_in_the_wrong_variable_is_not_shown(bare, new, name):
    """A token in the environment is refused without being repeated."""
    done = bare.run("create", "--name", "ci", env={name: new["token"]})
    assert done.returncode in {2, 4}
    assert new["token"][-50:-40] not in done.stdout + done.stderr
