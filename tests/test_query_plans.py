"""How databases go about what is asked of them: by an index, and reading little more than asked.

The statements are those that the calls send, caught on their way to ten thousand keys.
"""

import asyncio
import json
import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from databases import ENGINES
from stores import key_database
from subject import SILENT

from keylatch import APIKeys, SecretRing
from keylatch.records import Use
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
mixture = SimpleNamespace(**runpy.run_path(str(ROOT / "benches/mixture.py")))

COUNT = 10_000
PAGE = 20
# A page that passes over as many keys as it finds, and a cursor in the middle of a moment.
AT_MOST = 4 * (PAGE + 1)
IN_A_MONTH = mixture.NOW + timedelta(days=30)
LISTS = {
    "no filter": ({}, "ix_api_keys_created_at"),
    "owner": ({"owner": mixture.STEADY_OWNER}, "ix_api_keys_owner"),
    "big owner": ({"owner": mixture.BIG_OWNER}, "ix_api_keys_owner"),
    "prefix": ({"prefix": "acme_live"}, "ix_api_keys_prefix"),
    "old prefix": ({"prefix": mixture.OLD_PREFIX}, "ix_api_keys_prefix"),
    "active": ({"status": "active"}, "ix_api_keys_created_at"),
    "expired": ({"status": "expired"}, "ix_api_keys_expires_at"),
    "revoked": ({"status": "revoked"}, "ix_api_keys_revoked_at"),
    "expiring": ({"expiring_before": IN_A_MONTH}, "ix_api_keys_expires_at"),
    "active, expiring": (
        {"status": "active", "expiring_before": IN_A_MONTH},
        "ix_api_keys_expires_at",
    ),
    "unused": ({"unused_since": mixture.NOW - timedelta(days=365)}, "ix_api_keys_created_at"),
    "owner, active": ({"owner": mixture.BIG_OWNER, "status": "active"}, "ix_api_keys_owner"),
    "owner, prefix": ({"owner": mixture.BIG_OWNER, "prefix": "acme_live"}, "ix_api_keys_owner"),
    "prefix, active": ({"prefix": "acme_live", "status": "active"}, "ix_api_keys_prefix"),
}


@dataclass
class Plan:
    """What a database says about a statement.

    Attributes:
        index: What it goes along; None if it scans the table.
        sorts: Whether it sorts what it finds.
        rows: How many rows it read, where it tells.
        text: All it said.
    """

    index: str | None
    sorts: bool
    rows: int
    text: str


def sqlite_plans(connection: sa.Connection, statement: str, parameters: Any) -> Iterator[Plan]:
    """SQLite's one plan. How far it reads is told by the bounds of the index alone."""
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    text = "\n".join(row[3] for row in rows)
    index = re.search(r"USING (?:COVERING )?(?:INDEX (\w+)|INTEGER (PRIMARY) KEY)", text)
    yield Plan(index and (index[1] or index[2]), "TEMP B-TREE" in text, 0, text)


def postgres_plans(connection: sa.Connection, statement: str, parameters: Any) -> Iterator[Plan]:
    """Those for the values at hand, and for any values, which a connection comes to prefer."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda each: f"${names.index(each[1]) + 1}", statement)
    values = [parameters[name] for name in names]
    execute = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked({', '.join(['%s'] * len(values))})"
    with psycopg.ClientCursor(connection.connection.driver_connection) as cursor:
        cursor.execute(f"PREPARE asked AS {numbered}")
        for mode in ("force_custom_plan", "force_generic_plan"):
            cursor.execute(f"SET plan_cache_mode = {mode}")
            (told,) = cursor.execute(execute, values).fetchone()
            nodes = list(walk(told[0]["Plan"]))
            (index, *_) = [node["Index Name"] for node in nodes if "Index Name" in node] or [None]
            scans = [node for node in nodes if node["Node Type"] == "Seq Scan"]
            rows = sum(
                node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                for node in nodes
                if "Relation Name" in node
            )
            sorts = any(node["Node Type"] == "Sort" for node in nodes)
            yield Plan(None if scans else index, sorts, rows, json.dumps(told, indent=1))
        cursor.execute("DEALLOCATE asked")


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan of PostgreSQL, and those below it."""
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)


def mariadb_plans(connection: sa.Connection, statement: str, parameters: Any) -> Iterator[Plan]:
    """MariaDB's one plan."""
    told = connection.exec_driver_sql(f"ANALYZE FORMAT=JSON {statement}", parameters).scalar_one()
    text = told[told.find('"table_name": "api_key') :]  # not what a batch of uses is read from
    access, key = re.search(r'"access_type": "(\w+)"', text), re.search(r'"key": "(\w+)"', text)
    (rows,) = re.findall(r'"r_rows": ([\d.]+)', text) or [1]
    index = key[1] if key and access[1] != "ALL" else None
    yield Plan(index, "filesort" in text or "temporary" in text, int(float(rows)), text)


PLANS = {"sqlite": sqlite_plans, "postgres": postgres_plans, "mariadb": mariadb_plans}
MAINTENANCE = {
    "sqlite": [],
    "sqlite, analyzed": ["ANALYZE"],
    # What the servers do by themselves after a while.
    "postgres": ["VACUUM ANALYZE api_keys"],
    "mariadb": ["ANALYZE TABLE api_keys"],
}


class Subject:
    """Keys in a database, and what it makes of the statements."""

    def __init__(self, kind: str, engine: sa.Engine, ring: SecretRing, token: str) -> None:
        self.kind = kind
        self.engine = engine
        self.token = token
        self.store = SQLAlchemyStore(engine, deadline=60)
        self.keys = APIKeys(
            self.store,
            prefix=[*mixture.PREFIXES, mixture.OLD_PREFIX],
            secret=ring,
            clock=lambda: mixture.NOW,
            **SILENT,
        )

    async def statements(self, call: Callable[[], Any]) -> list[tuple[str, Any]]:
        """Those that a call sends."""
        sent = []

        def look(_connection, _cursor, statement, parameters, *_):
            sent.append((statement, parameters))

        sa.event.listen(self.engine, "before_cursor_execute", look)
        try:
            await call()
        finally:
            sa.event.remove(self.engine, "before_cursor_execute", look)
        return sent

    async def plans(self, call: Callable[[], Any]) -> list[Plan]:
        """Those of the one statement that a call sends."""
        (sent,) = await self.statements(call)
        return self.explain(*sent)

    def explain(self, statement: str, parameters: Any) -> list[Plan]:
        """The database's plans for a statement, which it carries out and takes back."""
        with self.engine.connect() as connection:
            return list(PLANS[self.kind](connection, statement, parameters))


@pytest.fixture(scope="module")
def ring() -> SecretRing:
    """The server secret of all of them."""
    return SecretRing(SecretRing.generate())


@pytest.fixture(scope="module")
def made(ring: SecretRing) -> list[Any]:
    """Keys, for each database the same."""
    return list(mixture.make(COUNT, ring))


@pytest.fixture(scope="module", params=MAINTENANCE)
def filled(
    request: pytest.FixtureRequest, ring: SecretRing, made: list[Any]
) -> Iterator[tuple[str, sa.Engine, SecretRing, str]]:
    """A database with keys in it, as it is some time after they came."""
    kind = request.param.partition(",")[0]

    async def fill(url: str) -> None:
        store = SQLAlchemyStore(url, deadline=60)
        await store.open()
        records = ((record, event) for _, record, event in made)
        while portion := list(islice(records, 2_000)):
            await store.insert(portion)
        await store.close()

    with key_database(f"{kind}-async") as url:
        asyncio.run(fill(url))
        engine = sa.create_engine(sa.make_url(url).set(drivername=ENGINES[f"{kind}-sync"]))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in MAINTENANCE[request.param]:
                connection.exec_driver_sql(statement)
        token = next(
            token for token, record, _ in made if record.key.status(mixture.NOW) == "active"
        )
        yield kind, engine, ring, token
        engine.dispose()


@pytest.fixture
async def subject(filled: tuple[str, sa.Engine, SecretRing, str]) -> Any:
    """The same keys for each test."""
    subject = Subject(*filled)
    async with subject.keys:
        subject.keys._engine.distrust()
        yield subject


async def test_a_key_is_found_by_the_primary_key(subject):
    """To verify a token or to get a key takes one row."""
    key = await subject.keys.verify(subject.token)
    for call in (
        lambda: subject.keys.verify(subject.token),
        lambda: subject.keys.get(key.id),
    ):
        for plan in await subject.plans(call):
            assert plan.index in PRIMARY, plan.text
            assert plan.rows <= 1, plan.text


PRIMARY = ("sqlite_autoindex_api_keys_1", "api_keys_pkey", "api_key_events_pkey", "PRIMARY")


@pytest.mark.parametrize("after", [None, 0, 500, 9_990])
async def test_the_poll_of_changes_goes_along_an_index(subject, after):
    """It reads the entries from a number on, however many there are, and no more than asked."""
    for plan in await subject.plans(
        lambda: subject.store.changes(after=after, missing=(), limit=PAGE)
    ):
        # SQLite goes backwards through the table itself, which is in this order.
        assert plan.index in PRIMARY or (subject.kind, after) == ("sqlite", None), plan.text
        assert not plan.sorts, plan.text
        assert plan.rows <= PAGE, plan.text


@pytest.mark.parametrize("gaps", [1, 3])  # for many more a table of this size is read whole
@pytest.mark.parametrize("width", [1, 4, 20])
async def test_missing_entries_are_asked_for_along_an_index(subject, gaps, width):
    """However many stretches of them there are, and however long the audit trail is."""
    latest = (await subject.store.changes(after=None, missing=(), limit=1))[0].number
    first = latest - COUNT + 1
    missing = [range(first + 40 * number, first + 40 * number + width) for number in range(gaps)]

    async def poll():
        marks = await subject.store.changes(after=latest - 10, missing=missing, limit=4 * PAGE)
        assert len(marks) == gaps * width + 11

    for asked in await subject.statements(poll):
        for plan in subject.explain(*asked):
            assert plan.index in PRIMARY, plan.text
            assert plan.rows <= max(PAGE, 2 * gaps * width), plan.text


async def test_uses_are_added_along_an_index(subject):
    """What a batch costs depends on the batch, not on the table."""
    ids = [key.id for key in (await subject.keys.list(limit=PAGE)).items]
    uses = [Use(key_id, 1, mixture.NOW) for key_id in ids]
    locking, adding = (await subject.statements(lambda: subject.store.record_usage(uses)))[-2:]
    plans = subject.explain(*locking)
    if subject.kind != "postgres":  # which reads a table of this size whole: it expects 100 uses
        plans += subject.explain(*adding)
    for plan in plans:
        assert plan.index in PRIMARY, plan.text
        assert plan.rows <= 3 * PAGE, plan.text


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("deep", [False, True], ids=["first", "deep"])
async def test_a_page_of_keys_goes_along_an_index(subject, name, deep):
    """The index serves the filter, the order and the cursor: nothing is sorted or read in vain."""
    filters, index = LISTS[name]
    cursor = None
    if deep:
        behind = {"owner": 60, "active, expiring": 100}.get(name, 500)
        cursor = (await subject.keys.list(**filters, limit=behind)).next_cursor
        assert cursor
    for plan in await subject.plans(
        lambda: subject.keys.list(**filters, limit=PAGE, cursor=cursor)
    ):
        assert plan.index == index, plan.text
        if name == "owner":
            # So few that it may be as well to read all of them.
            assert plan.rows <= mixture.STEADY_KEYS, plan.text
            continue
        assert not plan.sorts, plan.text
        assert plan.rows <= AT_MOST, plan.text
        if deep and subject.kind == "sqlite":
            assert re.search(r"id\)[<>]\(", plan.text), plan.text


async def test_a_name_is_found_along_its_index(subject):
    """Nobody else's keys are read for it, of which there may be a million."""
    for plan in await subject.plans(lambda: subject.keys.list(name="key 500", limit=PAGE)):
        assert plan.index == "ix_api_keys_name", plan.text
        assert plan.rows <= AT_MOST, plan.text
