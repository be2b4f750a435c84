"""Has one upgrade of a database at a time, on every machine that deploys.

Knows the databases' locks, and nothing of what is done under them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from keylatch.errors import UnavailableError
from keylatch.schema import begin_immediate

# The bytes of "keylatch" as a number: PostgreSQL's advisory locks have no names.
_POSTGRES_KEY: Final = int.from_bytes(b"keylatch")
# In seconds. MariaDB has no lock that is waited for without end.
_PATIENCE: Final = 3600
# Names of locks count for a whole server there, and have 64 characters at most.
_MARIADB_NAME: Final = "CONCAT('keylatch upgrade ', MD5(COALESCE(DATABASE(), '')))"


@contextmanager
def alone(connection: sa.Connection) -> Iterator[None]:
    """Waits for other upgrades of the database, and keeps them out until what is done is seen.

    Raises:
        UnavailableError: Another one holds the lock for an hour.
    """
    match connection.dialect.name:
        case "sqlite":
            begin_immediate(connection)
            yield
        case "postgresql":
            # A snapshot from before the wait would hide what the other one did meanwhile.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_KEY)))
            yield
        case _:
            with _mariadb(connection):
                yield


@contextmanager
def _mariadb(connection: sa.Connection) -> Iterator[None]:
    taken = connection.exec_driver_sql(f"SELECT GET_LOCK({_MARIADB_NAME}, {_PATIENCE})").scalar()
    if taken != 1:
        raise UnavailableError("another upgrade of this database takes too long: end it first")
    try:
        yield
        # Only what is committed is seen by the next one.
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        # The lock belongs to a connection that a pool keeps; if that is dead, so is the lock.
        with suppress(SQLAlchemyError):
            _release(connection)
        raise
    _release(connection)


def _release(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"DO RELEASE_LOCK({_MARIADB_NAME})")
