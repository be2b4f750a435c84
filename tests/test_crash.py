"""Processes that are killed in the middle of their work leave whole keys, or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from keylatch import APIKeys
from keylatch.errors import RevokedKeyError
from keylatch.sqlalchemy import SQLAlchemyStore
from keylatch.tables import api_key_events, api_keys

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

KILLS = 400 if os.environ.get("KEYLATCH_SOAK") else 25

key, event = api_keys.c, api_key_events.c
successor = api_keys.alias("successor")


def events(action: str) -> sa.ScalarSelect[int]:
    """How many events of that kind a key has."""
    return (
        sa.select(sa.func.count())
        .where(event.key_id == key.id, event.action == action)
        .scalar_subquery()
    )


# What no database may hold, whenever its clients died.
TORN = {
    "keys that lack the event of their making": sa.select(key.id).where(events("created") != 1),
    "events without a key": sa.select(event.id).where(
        ~sa.exists().where(key.id == event.key_id).correlate(api_key_events)
    ),
    "revocations without their event": sa.select(key.id).where(
        events("revoked") != sa.case((key.revoked_at.is_(None), 0), else_=1)
    ),
    "rotations without their event": sa.select(key.id).where(
        events("rotated") != sa.case((key.successor.is_(None), 0), else_=1)
    ),
    "successors that are not there": sa.select(key.id).where(
        key.successor.is_not(None), ~sa.exists().where(successor.c.id == key.successor)
    ),
}


async def test_a_killed_process_leaves_whole_keys_or_none(database, secret):
    """Every token that was returned opens, every change has its event, every event its key."""
    program = Path(__file__).with_name("crashing.py")
    output = subprocess.run(
        [sys.executable, program, database, str(KILLS)],
        env=os.environ | {"KEYLATCH_SECRET": secret},
        capture_output=True,
        text=True,
        check=True,
        timeout=KILLS,
    ).stdout
    lines = output.splitlines()
    assert lines.count("killed") == KILLS
    made = [line.split()[1] for line in lines if line.startswith("created ")]
    revoked = {line.split()[1] for line in lines if line.startswith("revoked ")}
    assert len(set(made)) == len(made) >= KILLS // 2
    store = SQLAlchemyStore(database)
    async with APIKeys(store, prefix="acme", secret=secret) as keys:
        for token in made:
            if token in revoked:
                with pytest.raises(RevokedKeyError):
                    await keys.verify(token)
                continue
            try:
                await keys.verify(token)
            except RevokedKeyError:
                # Killed between the revocation and its line: the last thing it did.
                revoked.add(token)
        torn = {
            what: await store._database.run(lambda connection, query=query: rows(connection, query))
            for what, query in TORN.items()
        }
        assert torn == {what: [] for what in TORN}
        count = await store._database.run(
            lambda connection: connection.scalar(sa.select(sa.func.count()).select_from(api_keys))
        )
    print(f"{len(made)} tokens were returned, {count - len(made)} more keys had been written")
    assert 0 <= count - len(made) <= KILLS, "a child is killed in one call at a time"


def rows(connection: sa.Connection, query: sa.Select) -> list[object]:
    """What a query finds."""
    return list(connection.scalars(query))
