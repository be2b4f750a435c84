"""The audit trail in SQL: what is written to it, and who reads it. Knows no key."""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from keylatch import rows
from keylatch.records import KeyEvent, Mark
from keylatch.tables import api_key_events

# What PostgreSQL's notifications of changed keys are sent on.
CHANNEL: Final = "keylatch"
_NOTIFY: Final = sa.text(
    "SELECT pg_notify(:channel, key_id) "
    "FROM json_array_elements_text(CAST(:key_ids AS json)) AS key_id"
)
_MARK: Final = sa.select(api_key_events.c.id, api_key_events.c.key_id, api_key_events.c.at)
_EVENT: Final = sa.select(
    api_key_events.c.key_id,
    api_key_events.c.at,
    api_key_events.c.action,
    api_key_events.c.actor,
    api_key_events.c.details,
)
# Keys that one statement asks about: their ids fit into one packet of any database.
_PORTION: Final = 500
# Missing entries of the audit trail that are asked for one by one, not as a stretch of numbers.
_FEW: Final = 16


def changes(
    connection: sa.Connection, after: int | None, missing: Sequence[range], limit: int
) -> list[Mark]:
    """Reads entries of the audit trail: those from a number on, and missing ones.

    With None instead of a number, the latest ones. Of a great many not all are read at once.
    """
    number = api_key_events.c.id
    if after is None:
        latest = _MARK.order_by(number.desc()).limit(limit)
        return sorted(map(_mark, connection.execute(latest)), key=attrgetter("number"))
    queries = [_MARK.where(number >= after).order_by(number).limit(limit)]
    # Not along with these: no index serves both. Nor many stretches at once, which PostgreSQL
    # takes for half of the table.
    single = [each for numbers in missing if len(numbers) <= _FEW for each in numbers]
    if single:
        # As many as a power of two, so that few statements have to be prepared.
        padding = (1 << (len(single) - 1).bit_length()) - len(single)
        queries.append(_MARK.where(number.in_(single + single[:1] * padding)))
    queries += [
        _MARK.where(number.between(numbers[0], numbers[-1])).order_by(number).limit(limit)
        for numbers in missing
        if len(numbers) > _FEW
    ]
    marks: list[Mark] = []
    for query in queries:
        if len(marks) < limit:
            marks += map(_mark, connection.execute(query))
    return sorted(marks, key=attrgetter("number"))


def events(
    connection: sa.Connection, key_id: str, *, action: str | None, latest: int | None
) -> list[KeyEvent]:
    """Reads the audit trail of a key, or some of it, the oldest entry first."""
    event = api_key_events.c
    query = _EVENT.where(event.key_id == key_id).order_by(event.id.desc()).limit(latest)
    if action is not None:
        query = query.where(event.action == action)
    with rows.decoding():
        return [KeyEvent(**row) for row in connection.execute(query).mappings()][::-1]


def latest_events(
    connection: sa.Connection, key_ids: Sequence[str], action: str
) -> dict[str, KeyEvent]:
    """Reads the latest entry of an action of each of some keys."""
    event, found = api_key_events.c, dict[str, KeyEvent]()
    for start in range(0, len(key_ids), _PORTION):
        portion = event.key_id.in_(key_ids[start : start + _PORTION])
        query = _EVENT.where(portion, event.action == action).order_by(event.id)
        with rows.decoding():
            found |= {
                row["key_id"]: KeyEvent(**row) for row in connection.execute(query).mappings()
            }
    return found


def write_events(connection: sa.Connection, new: Sequence[KeyEvent]) -> None:
    """Adds entries, and tells the collections that listen to PostgreSQL."""
    names = ("key_id", "at", "action", "actor", "details")
    if new:
        rows = [{name: getattr(event, name) for name in names} for event in new]
        connection.execute(sa.insert(api_key_events), rows)
    # With the commit, whoever makes it. A new key is known to nobody yet.
    changed = [event.key_id for event in new if event.action != "created"]
    if changed and connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY, {"channel": CHANNEL, "key_ids": json.dumps(changed)})


def _mark(row: Any) -> Mark:
    return Mark(row.id, row.key_id, row.at)
