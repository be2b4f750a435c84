"""``keylatch create --from``: many keys of a CSV file, all or none, and their tokens once."""

import csv
import io
import json
import os
import stat
import sys
from datetime import datetime
from pathlib import Path

import pytest

from keylatch import cli_bulk

FILE = """\
name,owner,scopes,expires_in,expires_at,metadata,prefix
ci,u1,items:read items:write,90d,,"{""team"": ""data""}",
"a, ""quoted"" name",,,,2100-01-01T01:00+01:00,,

ops,,,,,,acme_ops
"""


@pytest.fixture
def many(tmp_path):
    """Writes a file of keys, and returns its path."""

    def many(content):
        path = tmp_path / "keys.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return many


def read(text):
    """The rows of what was written."""
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_line_becomes_a_key(bare, many, encoding):
    """What stands in a column reaches the key; the tokens come in the order of the lines."""
    done = bare.run("create", "--actor", "ops", "--from", many(FILE.encode(encoding)))
    assert (done.returncode, done.stderr) == (0, "keylatch: 3 keys were made\n")
    ci, quoted, ops = read(done.stdout)
    assert [ci["name"], quoted["name"], ops["name"]] == ["ci", 'a, "quoted" name', "ops"]
    key = bare.json("verify", "--scope", "items:write", stdin=ci["token"])["key"]
    assert (key["id"], key["owner"], key["metadata"]) == (ci["id"], "u1", {"team": "data"})
    days = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert days.days == 90
    key = bare.json("verify", stdin=quoted["token"])["key"]
    assert (key["owner"], key["scopes"], key["metadata"]) == (None, [], {})
    assert key["expires_at"] == "2100-01-01T00:00:00+00:00"
    assert bare.json("verify", "--prefix", "acme_ops", stdin=ops["token"])["valid"]
    assert bare.sql("SELECT DISTINCT action, actor FROM api_key_events") == [("created", "ops")]


def test_json_is_one_document_on_each_line(bare):
    """As create --json writes it for one key; the file may be standard input."""
    done = bare.run("create", "--json", "--from", "-", stdin="name,owner\nci,u1\nops,\n")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["key"]["owner"], second["key"]["owner"]) == ("u1", None)
    assert bare.json("verify", stdin=second["token"]) == {"valid": True, "key": second["key"]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no column name"),
        ("name\n", "no line behind its header"),
        ("owner\nu1\n", "no column name"),
        ("name,hunter2\nci,x\n", "column 2 of the header is none of name, owner"),
        ("name;owner\nci;u1\n", "column 1 of the header"),
        ("name,name\nci,ci\n", "the column name twice"),
        ("name\nci\nci,hunter2\n", "line 3 has 2 fields, the header 1"),
        ('name\nci\n\n"two\nlines\n', "line 4 is not CSV: unexpected end"),
        ('name\nci\n"a"b\n', "line 3 is not CSV"),
        (b"name\nci\nhunter2\xff\n", "line 3 is not UTF-8"),
        ("name,expires_in\nci,1d\nci,hunter2\n", "line 3, expires_in: write a duration like"),
        ("name,expires_at\nci,2100-01-01\n", "line 2, expires_at: add a time zone"),
        ("name,metadata\nci,[1]\n", "line 2, metadata: write a JSON object"),
        ("name,prefix\nci,hunter2!\n", "line 2, prefix: a prefix is 1 to 24"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(many, content, told):
    """Whatever is wrong with the file is found before a database is asked."""
    with pytest.raises(ValueError, match=told) as failed:
        cli_bulk.read(many(content))
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('name\n"a\nb"\n', "line 2: name must not hold control characters"),
        ("name,scopes\nci,a b\n\nci,hunter2!\n", "line 4: a scope is"),
        ("name,owner\nci\n", "line 2 has 1 fields, the header 2"),
    ],
)
def test_a_wrong_line_has_nothing_written(cli, many, tmp_path, content, told):
    """No key is made, not even of the lines before, and no output file is left."""
    path = tmp_path / "tokens.csv"
    text = cli.fails(2, "create", "--from", many(content), "--output", str(path))
    assert told in text
    assert "hunter2" not in text
    assert not path.exists()
    assert cli.sql("SELECT count(*) FROM api_keys") == [(1,)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "FILE", "--name", "ci"],
        ["--from", "FILE.gone"],
        ["--name", "ci", "--output", "FILE.tokens"],
    ],
)
def test_options_that_contradict_are_refused(cli, many, arguments):
    """What belongs into the file is not an option, and a file that is not there is told."""
    path = many("name\nci\n")
    cli.fails(2, "create", *(argument.replace("FILE", path) for argument in arguments))
    assert cli.sql("SELECT count(*) FROM api_keys") == [(1,)]


def test_tokens_go_to_a_new_file_for_its_owner_alone(cli, many, tmp_path):
    """A file that is there already is never overwritten, and then no key is made."""
    path = tmp_path / "tokens.csv"
    arguments = ["create", "--from", many("name\nci\nops\n"), "--output", str(path)]
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_text()
    assert [row["name"] for row in read(content)] == ["ci", "ops"]
    assert cli.json("verify", stdin=read(content)[1]["token"])["valid"]
    assert "there already" in cli.fails(2, *arguments)
    assert path.read_text() == content
    assert cli.sql("SELECT count(*) FROM api_keys") == [(3,)]


def test_an_output_file_that_cannot_be_made_exits_with_74(cli, many):
    """It is found out before any key is made."""
    told = cli.fails(74, "create", "--from", many("name\nci\n"), "--output", "/nowhere/tokens.csv")
    assert "cannot be made: No such file" in told
    assert cli.sql("SELECT count(*) FROM api_keys") == [(1,)]


def test_a_database_that_fails_leaves_no_output_file(bare, many, tmp_path):
    """There were no tokens to keep, and the same command works the next time."""
    path = tmp_path / "tokens.csv"
    bare.database.write_text("no database, but long enough for SQLite to look at it" * 20)
    bare.fails(5, "create", "--from", many("name\nci\n"), "--output", str(path))
    assert not path.exists()


def test_keys_whose_tokens_were_lost_are_named_for_revocation(bare, many):
    """Where the reader goes away, or the disk is full, the ids of the lost ones are told."""
    names = "name\n" + "ci\n" * 1_200
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        os.close(reading)
        done = bare.run("create", "--from", many(names), stdout=pipe)
    assert done.returncode == 74
    *ids, told = done.stderr.splitlines()
    assert "reader has ended; 1200 keys were made, and the tokens of 1200 are lost" in told
    assert set(ids) == {key_id for (key_id,) in bare.sql("SELECT id FROM api_keys")}


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="limits the size of files as Linux does"
)
def test_tokens_that_were_written_are_kept_where_the_rest_is_lost(bare, many, tmp_path):
    """Those in the output file open, and only the others are named."""
    path = tmp_path / "tokens.csv"
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from keylatch import cli_bulk; made = cli_bulk.run; "
        "cli_bulk.run = lambda *action: (made(*action), "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))[0]; "
        "from keylatch.cli import main; sys.exit(main())"
    )
    names = "name\n" + "ci\n" * 1_200
    bare.script = "/usr/bin/env"
    done = bare.run(
        sys.executable, "-c", script, "create", "--from", many(names), "--output", str(path)
    )
    assert done.returncode == 74
    *ids, told = done.stderr.splitlines()
    assert "the tokens of 700 are lost" in told
    kept = read(path.read_text())[:500]
    assert not {row["id"] for row in kept} & set(ids)
    assert len(set(ids)) == 700
