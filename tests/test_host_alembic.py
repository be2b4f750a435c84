"""A host with migrations of its own, which lets its own Alembic look after keylatch's tables."""

import os
import subprocess
import sys
from functools import partial

import pytest
import sqlalchemy as sa
from schemas import execute, key_of_0001, run

from keylatch import APIKeys, migrations, schema

CONFIG = """
[alembic]
script_location = %(here)s/migrations
"""
ENV = """
import os
import sqlalchemy as sa
from alembic import context
from keylatch.sqlalchemy import metadata

host = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "host_%(column_0_label)s"})
sa.Table("users", host, sa.Column("id", sa.Integer, primary_key=True))

with sa.create_engine(os.environ["DATABASE"]).connect() as connection:
    context.configure(
        connection=connection, target_metadata=[host, metadata], compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()
"""
# The template that `alembic init` writes, with the import that keylatch's types need.
TEMPLATE = """
from alembic import op
import sqlalchemy as sa
import keylatch.tables
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("engine_name", ["sqlite-sync", "postgres-sync", "mariadb-sync"]),
]


@pytest.fixture
def alembic(tmp_path, database_url):
    """Runs the host's ``alembic`` on the database."""
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text(CONFIG)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    (tmp_path / "migrations" / "script.py.mako").write_text(TEMPLATE)

    def alembic(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=tmp_path,
            env=os.environ | {"DATABASE": database_url},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return alembic


def fine(done):
    """Whether Alembic did it; its words, if not."""
    code, said = done
    assert code == 0, said
    return True


async def test_a_hosts_migrations_make_the_tables(alembic, database_url, secret):
    """What its Alembic generates makes them whole, and then it finds nothing to change."""
    assert fine(alembic("revision", "--autogenerate", "-m", "keys"))
    assert fine(alembic("upgrade", "head"))
    assert fine(alembic("check"))
    async with APIKeys(database_url, prefix="acme_live", secret=secret) as keys:
        new = await keys.create(name="ci", owner="u1")
        assert (await keys.verify(new.token)).owner == "u1"
    # Whoever runs keylatch's migrations as well does no harm.
    assert await run(database_url, migrations.upgrade) == ("0002", "0002")
    assert fine(alembic("check"))
    assert fine(alembic("downgrade", "base"))
    assert set(await run(database_url, table_names)) <= {"alembic_version"}


async def test_a_hosts_migrations_bring_older_tables_up_to_date(alembic, database_url, secret):
    """The tables of an earlier version are refused until the host has migrated them."""
    await run(database_url, partial(migrations.upgrade, to="0001"))
    token, add = key_of_0001(secret)
    await run(database_url, add)
    # As the host's migrations leave them, which do not write a revision of keylatch's.
    await run(database_url, execute("DELETE FROM keylatch_version"))
    assert alembic("check")[0] != 0
    keys = APIKeys(database_url, prefix="acme_live", secret=secret)
    with pytest.raises(schema.SchemaError, match="make another one"):
        await keys.__aenter__()
    assert fine(alembic("revision", "--autogenerate", "-m", "indexes"))
    assert fine(alembic("upgrade", "head"))
    assert fine(alembic("check"))
    async with keys:
        assert (await keys.verify(token)).name == "ci"


def table_names(connection):
    """The names of all tables."""
    return sa.inspect(connection).get_table_names()
