"""The installed ``keylatch`` script, run on a real SQLite file."""

import asyncio
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from schemas import run

from keylatch import SecretRing
from keylatch.cli import main
from keylatch.tables import api_keys

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

    def json(self, *arguments, code=0, **options):
        """Runs well, or to another code, and returns the one JSON document."""
        done = self.run(*arguments, "--json", **options)
        assert (done.returncode, done.stderr) == (code, "")
        return json.loads(done.stdout)

    def fails(self, code, *arguments, **options):
        """Runs to an error, and returns the one line that says why."""
        done = self.run(*arguments, **options)
        assert done.returncode == code, done.stderr
        assert not done.stdout
        assert done.stderr.startswith("keylatch: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    def let_two_hours_pass(self):
        """Moves the ends of all keys into the past."""

        def unit(connection):
            key = api_keys.c
            for row in connection.execute(sa.select(key.id, key.revoked_at, key.expires_at)).all():
                ends = {"revoked_at": row.revoked_at, "expires_at": row.expires_at}
                moved = {name: end and end - timedelta(hours=2) for name, end in ends.items()}
                connection.execute(sa.update(api_keys).where(key.id == row.id).values(moved))

        asyncio.run(run(self.env["KEYLATCH_DATABASE"], unit))

    def sql(self, statement, *values):
        """Runs a statement on the database, beside keylatch."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()


class InProcess(CommandLine):
    """The same without a process of its own for each command, which takes half a second."""

    def run(self, *arguments, stdin="", env=()):
        """Runs to the end, in a pipe."""
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3)]
        streams[0].buffer.write(stdin.encode())
        streams[0].seek(0)
        with (
            patch.dict(os.environ, self.env | dict(env), clear=True),
            patch.multiple(
                sys,
                argv=["keylatch", *arguments],
                **dict(zip(("stdin", "stdout", "stderr"), streams, strict=True)),
            ),
        ):
            try:
                code = main()
            except SystemExit as error:
                code = error.code
        shown = []
        for stream in streams[1:]:
            stream.flush()
            shown.append(stream.buffer.getvalue().decode())
        assert "Traceback" not in "".join(shown)
        assert self.secret[3:] not in "".join(shown)
        return subprocess.CompletedProcess(arguments, int(code), *shown)


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
def outside(inside):
    """The same without server secret and database, in which git can be found."""
    inside.env |= {"KEYLATCH_DATABASE": "", "KEYLATCH_SECRET": "", "PATH": os.environ["PATH"]}
    return inside


@pytest.fixture
def within(cli):
    """The same without processes, for mistakes of which there are many."""
    return InProcess(cli.database.parent, cli.secret)


@pytest.fixture
def new(made):
    """That key and its token, as ``create --json`` told them."""
    return made[2]


@pytest.fixture
def inside(tmp_path, secret):
    """A command line without processes, on a database that is not there yet."""
    return InProcess(tmp_path, secret)
