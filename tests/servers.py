"""The database servers that tests borrow databases from. Knows nothing of keylatch or of pytest.

A server is spoken to through one connection that stays open for as long as the tests run. What
it makes bears a name that begins with ``keylatch_test_``, and is dropped at the end; what a
killed run left behind is dropped by the next one.

As a program (``servers.py postgres``) it says whether a server is there as the tests need it.
"""

import os
import secrets
import sys
from typing import Any, ClassVar

import sqlalchemy
from sqlalchemy import URL, Connection, NullPool
from sqlalchemy.exc import DBAPIError, OperationalError

PREFIX = "keylatch_test_"
CONNECT_TIMEOUT = 5  # seconds
# Leaves a PostgreSQL database as it was made, with one schema that everybody may look into.
EMPTY = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT quote_ident(nspname) FROM pg_namespace
        WHERE NOT starts_with(nspname, 'pg_') AND nspname <> 'information_schema'
    LOOP EXECUTE 'DROP SCHEMA ' || name || ' CASCADE'; END LOOP;
END $$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""


class Server:
    """A server that answers: one that does not raises SQLAlchemy's ``DBAPIError``.

    Its databases have a time zone that is neither UTC nor whole hours away from it, so that no
    mistake about time goes unseen.
    """

    title: str
    variable: str
    default: str
    driver: str
    query: ClassVar[dict[str, str]]
    # Shows other runs that this one is alive, for as long as its connection lasts.
    claim: str
    # Databases of runs that are alive no more; connections to a database; the end of one.
    leftovers: str
    connections: str
    end: str
    create: str
    drop: str

    def __init__(self) -> None:
        self.run = f"{PREFIX}{secrets.token_hex(6)}"
        self.made = 0
        self.lent: set[str] = set()
        self.admin = self.connect(self.url())
        self.execute(self.claim.format(run=self.run))
        for name in self.execute(self.leftovers.format(prefix=PREFIX, width=len(self.run))):
            self.execute(self.drop.format(name=name))

    @classmethod
    def url(cls) -> URL:
        """Where the server is, as the environment says."""
        return sqlalchemy.make_url(os.environ.get(cls.variable) or cls.default)

    def connect(self, url: URL) -> Connection:
        """A connection of the tests' own, on which every statement stands for itself."""
        return sqlalchemy.create_engine(
            url.set(drivername=self.driver),
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            connect_args={"connect_timeout": CONNECT_TIMEOUT},
        ).connect()

    def execute(self, statement: str) -> list[Any]:
        """The first column of the answer, if there is one."""
        result = self.admin.exec_driver_sql(statement)
        return list(result.scalars()) if result.returns_rows else []

    def borrow(self, charset: str | None) -> URL:
        """A database without any table."""
        name = self.take(charset)
        self.lent.add(name)
        return self.url().set(database=name).update_query_dict(self.query)

    def give_back(self, name: str) -> None:
        """Takes the database back, together with what it holds and whoever is still in it."""
        self.kill(name)
        self.clear(name)
        self.lent.remove(name)

    def kill(self, name: str) -> int:
        """Ends every connection to a database from the server's side; tells how many."""
        numbers = self.execute(self.connections.format(name=name))
        for number in numbers:
            self.execute(self.end.format(number=number))
        return len(numbers)

    def take(self, charset: str | None) -> str:
        """Makes a database; tells its name."""
        self.made += 1
        name = f"{self.run}_{self.made}"
        options = f"CHARACTER SET {charset}" if charset else ""
        self.execute(self.create.format(name=name, options=options))
        return name

    def clear(self, name: str) -> None:
        """Empties or drops a database that nobody is in any more."""
        self.execute(self.drop.format(name=name))

    def close(self) -> None:
        """Drops what is still lent."""
        for name in self.lent:
            self.kill(name)
            self.execute(self.drop.format(name=name))
        self.admin.close()


class MariaDB(Server):
    """Makes a database for each loan, which is cheap, with the server's own character set."""

    title = "MariaDB"
    variable = "KEYLATCH_TEST_MARIADB"
    default = "mysql://root@127.0.0.1:3306/"
    driver = "mariadb+pymysql"
    query: ClassVar[dict[str, str]] = {"init_command": "SET time_zone = '+05:30'"}
    claim = "SELECT GET_LOCK('{run}', 0)"
    leftovers = (
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '{prefix}%%'"
        " AND IS_USED_LOCK(LEFT(schema_name, {width})) IS NULL"
    )
    connections = "SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    end = "KILL {number}"
    create = "CREATE DATABASE {name} {options}"
    drop = "DROP DATABASE IF EXISTS {name}"

    def execute(self, statement: str) -> list[Any]:
        """Forgives a connection that is to be ended for having ended."""
        try:
            return super().execute(statement)
        except OperationalError as error:
            if error.orig is None or error.orig.args[0] != 1094:  # ER_NO_SUCH_THREAD
                raise
            return []


class Postgres(Server):
    """Lends its databases again and again, since making one takes longer than emptying it.

    They sort as people do, not by code points as in the C locale.
    """

    title = "PostgreSQL"
    variable = "KEYLATCH_TEST_POSTGRES"
    default = "postgresql://postgres@127.0.0.1:5432/postgres"
    driver = "postgresql+psycopg"
    query: ClassVar[dict[str, str]] = {}
    claim = "SET application_name = '{run}'"
    leftovers = (
        "SELECT datname FROM pg_database WHERE datname LIKE '{prefix}%%' AND left(datname, {width})"
        " NOT IN (SELECT application_name FROM pg_stat_activity WHERE application_name <> '')"
    )
    connections = "SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"
    end = "SELECT pg_terminate_backend({number}, 5000)"
    create = (
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
        " LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
    )
    drop = "DROP DATABASE IF EXISTS {name} WITH (FORCE)"

    def __init__(self) -> None:
        self.idle: list[str] = []
        super().__init__()

    def take(self, charset: str | None) -> str:
        """Prefers a database that lies ready."""
        if self.idle:
            return self.idle.pop()
        name = super().take(charset)
        self.execute(f"ALTER DATABASE {name} SET timezone TO 'Asia/Kolkata'")
        return name

    def clear(self, name: str) -> None:
        """Empties the database and keeps it for the next loan."""
        with self.connect(self.url().set(database=name)) as inside:
            inside.exec_driver_sql(EMPTY)
        self.idle.append(name)

    def close(self) -> None:
        """Drops what lies ready, too."""
        self.lent.update(self.idle)
        super().close()


KINDS: dict[str, type[Server]] = {"postgres": Postgres, "mariadb": MariaDB}


def main() -> None:
    """Borrows a database from the server that is named."""
    kind = KINDS[sys.argv[1]]
    try:
        server = kind()
        server.give_back(str(server.borrow(None).database))
        server.close()
    except DBAPIError as error:
        sys.exit(f"{kind.title}: {str(error.orig).strip()}")


if __name__ == "__main__":
    main()
