"""Logins to a lent database that a test may misuse: with a password, and with limits.

Knows nothing of keylatch.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from databases import need
from sqlalchemy.exc import DBAPIError

KINDS = {"postgresql": "postgres", "mariadb": "mariadb"}


class Login:
    """Somebody who may read and write what is in a lent database, and no more."""

    def __init__(self, url: str) -> None:
        self._lent = sa.make_url(url)
        self._server = need(KINDS[self._lent.get_backend_name()])
        self._postgres = self._lent.get_backend_name() == "postgresql"
        self.name = f"keylatch_test_{secrets.token_hex(4)}"
        self.password = os.urandom(20).hex()

    @property
    def url(self) -> str:
        """The database by way of this login."""
        url = self._lent.set(username=self.name, password=self.password)
        return url.render_as_string(hide_password=False)

    def make(self) -> None:
        """Makes the login and grants it what is there."""
        name, database = self.name, self._lent.database
        if self._postgres:
            self._server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.password}'")
            self._inside(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            self._inside(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        else:
            self._server.execute(f"CREATE USER {name} IDENTIFIED BY '{self.password}'")
            self._server.execute(f"GRANT ALL ON {database}.* TO {name}")

    def limit(self, connections: int) -> None:
        """How many connections it may have at once."""
        self._alter(f"CONNECTION LIMIT {connections}", f"WITH MAX_USER_CONNECTIONS {connections}")

    def lock(self) -> None:
        """Lets it in no more, whatever its password."""
        self._alter("NOLOGIN", "ACCOUNT LOCK")

    def unlock(self) -> None:
        """Lets it in again."""
        self._alter("LOGIN", "ACCOUNT UNLOCK")

    def needs_password(self) -> bool:
        """Whether the server asks for it: one that trusts this machine lets everybody in."""
        try:
            self._server.connect(self._lent.set(username=self.name, password="wrong")).close()
        except DBAPIError:
            return True
        return False

    def drop(self) -> None:
        """Leaves nothing of it."""
        if self._postgres:
            self._inside(f"DROP OWNED BY {self.name}")
            self._server.execute(f"DROP ROLE {self.name}")
        else:
            self._server.execute(f"DROP USER {self.name}")

    def _alter(self, role: str, user: str) -> None:
        statement = f"ROLE {self.name} {role}" if self._postgres else f"USER {self.name} {user}"
        self._server.execute(f"ALTER {statement}")

    def _inside(self, statement: str) -> None:
        url = self._server.url().set(database=self._lent.database)
        with self._server.connect(url) as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def login(url: str) -> Iterator[Login]:
    """Lends a login to a lent database."""
    lent = Login(url)
    lent.make()
    try:
        yield lent
    finally:
        lent.drop()
