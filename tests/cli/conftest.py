"""The installed ``keylatch`` script, run on a real SQLite file."""

import json
import os
import shutil
import sqlite3
import subprocess
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest

from keylatch import SecretRing

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keylatch"))


class CommandLine:
    """Runs ``keylatch``; whatever it does, it shows no server secret and no traceback."""

    def __init__(self, home, secret):
        self.script = SCRIPT
        self.secret = secret
        self.database = home / "keys.db"
        self.env = {
            "PATH": os.defpath,
            "HOME": str(home),
            "KEYLATCH_SECRET": secret,
            "KEYLATCH_PREFIX": "acme_live",
            "KEYLATCH_DATABASE": f"sqlite+aiosqlite:///{self.database}",
        }

    def run(self, *arguments, stdin="", env=(), **options):
        """Runs to the end."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        done = subprocess.run(
            [self.script, *arguments],
            input=stdin,
            env=self.env | dict(env),
            text=True,
            check=False,
            timeout=60,
            **options,
        )
        shown = f"{done.stdout}{done.stderr}"
        assert "Traceback" not in shown
        assert self.secret[3:] not in shown
        return done

    def json(self, *arguments, **options):
        """Runs well, and returns the one JSON document."""
        done = self.run(*arguments, "--json", **options)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def fails(self, code, *arguments, **options):
        """Runs to an error, and returns the one line that says why."""
        done = self.run(*arguments, **options)
        assert done.returncode == code, done.stderr
        assert not done.stdout
        assert done.stderr.startswith("keylatch: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    def sql(self, statement, *values):
        """Runs a statement on the database, beside keylatch."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A server secret, a database, and the one key in it."""
    home = tmp_path_factory.mktemp("made")
    cli = CommandLine(home, SecretRing.generate("k1"))
    new = cli.json("create", "--name", "ci", "--owner", "u1", "--scope", "items:read")
    return cli.secret, cli.database, new


@pytest.fixture
def bare(tmp_path, made):
    """A command line whose database is not there yet."""
    return CommandLine(tmp_path, made[0])


@pytest.fixture
def cli(bare, made):
    """A command line on a database with one key."""
    shutil.copy(made[1], bare.database)
    return bare


@pytest.fixture
def new(made):
    """That key and its token, as ``create --json`` told them."""
    return made[2]
