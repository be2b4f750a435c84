"""Databases with the tables of keys in them, made as a host's own migrations would make them."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy as sa
from databases import ENGINES, empty_database
from sqlalchemy.exc import DBAPIError

from keylatch.sqlalchemy import metadata

_lent = ExitStack()
# Those that nobody uses now. To empty the tables takes a tenth of the time to make them.
_ready: dict[str, list[str]] = defaultdict(list)


@contextmanager
def key_database(engine_name: str) -> Iterator[str]:
    """Lends the URL of a database whose tables are empty; SQLite makes them at the first use."""
    kind = engine_name.partition("-")[0]
    if kind == "sqlite":
        with empty_database(engine_name) as url:
            yield url
        return
    text = _ready[kind].pop() if _ready[kind] else _made(kind)
    url = sa.make_url(text).set(drivername=ENGINES[engine_name])
    yield url.render_as_string(hide_password=False)
    try:
        with sa.create_engine(text, poolclass=sa.NullPool).begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(sa.delete(table))
    except DBAPIError:
        return  # the test broke the tables
    _ready[kind].append(text)


def close() -> None:
    """Gives all of them back."""
    _ready.clear()
    _lent.close()


def _made(kind: str) -> str:
    text = _lent.enter_context(empty_database(f"{kind}-sync"))
    metadata.create_all(sa.create_engine(text, poolclass=sa.NullPool))
    return text
