"""Databases with tables of keys in them, for measurements. Knows where the tests find servers."""

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mixture
import sqlalchemy as sa

from keylatch import APIKey, SecretRing
from keylatch.listing import Cursor, KeyFilter
from keylatch.sqlalchemy import SQLAlchemyStore, metadata

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from databases import ENGINES
from servers import KINDS

# How many keys are remembered of a table, and how many of its latest changes.
SAMPLE = 1_000
CHANGES = 100
# What a server does by itself after a while; SQLite does nothing of the kind.
MAINTENANCE = {
    "sqlite": [],
    "postgres": ["VACUUM ANALYZE api_keys", "VACUUM ANALYZE api_key_events"],
    "mariadb": ["ANALYZE TABLE api_keys", "ANALYZE TABLE api_key_events"],
}
# What a database says of itself; the size of its cache decides how much of a big table it rereads.
FACTS = {
    "sqlite": {"version": "SELECT sqlite_version()", "cache": "PRAGMA cache_size"},
    "postgres": {"version": "SHOW server_version", "cache": "SHOW shared_buffers"},
    "mariadb": {"version": "SELECT version()", "cache": "SELECT @@innodb_buffer_pool_size"},
}


@dataclass
class Table:
    """A table of keys, of which some out of all its parts are remembered.

    Attributes:
        kind: Of database.
        location: The URL, with whatever driver.
        count: How many keys there are.
        sample: Tokens and keys, shuffled.
    """

    kind: str
    location: sa.URL
    count: int
    sample: list[tuple[str, APIKey]] = field(default_factory=list)

    def url(self, engine_name: str) -> str:
        """The URL for an engine."""
        url = self.location.set(drivername=ENGINES[engine_name])
        return url.render_as_string(hide_password=False)

    async def fill(self, ring: SecretRing) -> None:
        """Makes the tables and the keys, and leaves them as they are after a while."""
        engine = sa.create_engine(self.url(f"{self.kind}-sync"), poolclass=sa.NullPool)
        metadata.create_all(engine)
        store = SQLAlchemyStore(self.url(f"{self.kind}-async"), deadline=3600)
        portion = []
        for number, (token, record, event) in enumerate(mixture.make(self.count, ring), 1):
            portion.append((record, event))
            steady = record.key.owner == mixture.STEADY_OWNER
            if steady or number % max(1, self.count // SAMPLE) == 0:
                self.sample.append((token, record.key))
            if len(portion) == 5_000 or number == self.count:
                await store.insert(portion)
                portion = []
        await store.close()
        random.Random(self.count).shuffle(self.sample)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in MAINTENANCE[self.kind]:
                connection.exec_driver_sql(statement)

    def middle(self, wanted: KeyFilter) -> str | None:
        """The cursor behind the middle one of the keys that pass a filter, None for one key."""
        order = wanted.order
        passing = sorted(
            (key for _, key in self.sample if wanted.passes(key)),
            key=lambda key: (getattr(key, order.moment), key.id),
        )
        if len(passing) < 2:
            return None
        return Cursor.behind(passing[len(passing) // 2], order).encode()

    def ask(self, fact: str) -> str:
        """A fact about the database."""
        engine = sa.create_engine(self.url(f"{self.kind}-sync"), poolclass=sa.NullPool)
        with engine.connect() as connection:
            return str(connection.exec_driver_sql(FACTS[self.kind][fact]).scalar_one())


@contextmanager
def tables(kind: str, counts: list[int]) -> Iterator[list[Table]]:
    """Lends databases, without tables so far, one for each count. They are gone at the end."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
            urls = [sa.make_url(f"sqlite:///{directory}/{count}.db") for count in counts]
            yield [Table(kind, url, count) for url, count in zip(urls, counts, strict=True)]
        return
    server = KINDS[kind]()
    try:
        yield [Table(kind, server.borrow(None), count) for count in counts]
    finally:
        server.close()
