"""Brings the tables in a database up to date, in revisions that Alembic runs one by one.

Needs Alembic, which nothing else here does. Knows no engine and no event loop: what is here runs
on a connection. It uses none of Alembic's globals, so that two databases can be upgraded at once.
"""

from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from keylatch import schema
from keylatch.engines import refuse_autocommit
from keylatch.errors import ConfigurationError
from keylatch.migrations.locks import alone
from keylatch.tables import REVISIONS, keylatch_version

try:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationStep
    from alembic.script import ScriptDirectory
except ModuleNotFoundError:
    raise ConfigurationError('alembic is not installed: pip install "keylatch[cli]"') from None


def upgrade(connection: sa.Connection, to: str = REVISIONS[-1]) -> tuple[str | None, str]:
    """Makes the tables, or brings those of an older version up to date; there is no way back.

    Whoever else upgrades the same database meanwhile is waited for. An upgrade that was
    interrupted can be run again.

    Args:
        connection: To the database. On MariaDB its transaction is committed.
        to: The revision to stop at.

    Returns:
        The revision that the tables were of, None if there were none, and the one they are of.

    Raises:
        SchemaError: The tables are newer than this version, or not keylatch's.
        ConfigurationError: The server or the connection cannot be used.
        UnavailableError: Another upgrade takes too long.
    """
    refuse_autocommit(connection)
    schema.refuse_mysql(connection)
    with alone(connection):
        scripts = ScriptDirectory(str(Path(__file__).parent))

        def steps(current: tuple[str, ...], _: MigrationContext) -> Iterable[MigrationStep]:
            missing = list(scripts.iterate_revisions(to, current or "base"))
            return [
                MigrationStep.upgrade_from_script(scripts.revision_map, script)
                for script in reversed(missing)
            ]

        # Alembic would name its primary key, of which MariaDB warns that it ignores it.
        keylatch_version.create(connection, checkfirst=True)
        options = {"version_table": keylatch_version.name, "script": scripts, "fn": steps}
        context = MigrationContext.configure(connection, opts=options)
        before = schema.stored_revision(connection)
        if before is None and schema.has_tables(connection):
            if schema.lacking(connection):
                # What is there, be it whole or half of it, the first steps pass over.
                before = REVISIONS[0]
            else:
                before = REVISIONS[-1]
                context.stamp(scripts, before)
        schema.refuse_newer(before)
        context.run_migrations(operations=Operations(context))
        return before, to
