"""Empty databases for tests, of every kind that keylatch can keep keys in.

A test that needs a server which does not answer is skipped, and the closing summary says so; in
CI it fails. Knows nothing of what keylatch stores.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from servers import KINDS, Server
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

# Names for people, and what SQLAlchemy calls the same.
ENGINES = {
    "sqlite-async": "sqlite+aiosqlite",
    "sqlite-sync": "sqlite+pysqlite",
    "postgres-async": "postgresql+asyncpg",
    "postgres-sync": "postgresql+psycopg",
    "mariadb-async": "mariadb+asyncmy",
    "mariadb-sync": "mariadb+pymysql",
}
_answering: dict[str, Server] = {}
_silent: dict[str, str] = {}


@contextmanager
def empty_database(engine_name: str, *, charset: str | None = None) -> Iterator[str]:
    """Lends the URL of a database that has no tables, and takes back what became of it.

    On MariaDB it has the server's own character set, or the one that is asked for.
    """
    kind = engine_name.partition("-")[0]
    driver = ENGINES[engine_name]
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
            yield f"{driver}:///{directory}/keys.db"
        return
    server = need(kind)
    url = server.borrow(charset).set(drivername=driver)
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        server.give_back(str(url.database))


def kill_connections(url: str) -> int:
    """Ends every connection to a lent database from the server's side; tells how many."""
    lent = make_url(url)
    kind = {"postgresql": "postgres", "mariadb": "mariadb"}[lent.get_backend_name()]
    return need(kind).kill(str(lent.database))


def need(kind: str) -> Server:
    """The server, once it has answered. Without it the test is skipped; in CI it fails."""
    if kind not in _answering and kind not in _silent:
        try:
            _answering[kind] = KINDS[kind]()
        except DBAPIError as error:
            _silent[kind] = str(error.orig).splitlines()[0]
    if kind in _silent:
        reason = f"{_without(kind)}: {_silent[kind]}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return _answering[kind]


def _without(kind: str) -> str:
    server = KINDS[kind]
    url = server.url()
    return f"{server.title} does not answer at {url.host}:{url.port} ({server.variable})"


def close_servers() -> None:
    """Drops every database that was made."""
    while _answering:
        _answering.popitem()[1].close()


def summarise(reporter: pytest.TerminalReporter) -> None:
    """Says which servers did not answer, and how many tests went without, in whatever process."""
    for kind in KINDS:
        without = _without(kind)
        counts = {
            outcome: sum(without in str(report.longrepr) for report in reporter.getreports(outcome))
            for outcome in ("skipped", "failed", "error")
        }
        tests = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        if tests:
            reporter.section("databases")
            reporter.line(f"{without}: {tests}")
