"""Processes that are killed in the middle of their work leave whole keys, or none."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from crashing import MANY
from integrity import violations

from keylatch import APIKeys
from keylatch.errors import RevokedKeyError
from keylatch.sqlalchemy import SQLAlchemyStore
from keylatch.tables import api_keys

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

KILLS = 400 if os.environ.get("KEYLATCH_SOAK") else 12


async def test_a_killed_process_leaves_whole_keys_or_none(database, secret):
    """Every token that was returned opens, every change has its event, every event its key."""
    program = Path(__file__).with_name("crashing.py")
    output = subprocess.run(
        [sys.executable, program, database, str(KILLS)],
        env=os.environ | {"KEYLATCH_SECRET": secret},
        capture_output=True,
        text=True,
        check=True,
        timeout=60 + KILLS,
    ).stdout
    lines = output.splitlines()
    killed = Counter(line.removeprefix("killed ") for line in lines if line.startswith("killed "))
    assert killed.total() == KILLS
    assert killed["in a transaction"] + killed["committing"], "nobody was killed at work"
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
        assert await store._database.run(violations) == []
        owners = await store._database.run(
            lambda connection: Counter(connection.scalars(sa.select(api_keys.c.owner)))
        )
    assert owners["many"] % MANY == 0, "a part of those that were made at once is there"
    count = owners["u1"]
    print(f"{owners['many'] // MANY} times many keys were made at once")
    print(f"{len(made)} tokens were returned, {count - len(made)} more keys had been written")
    print(*killed.items())
    assert 0 <= count - len(made) <= KILLS, "a child is killed in one call at a time"
