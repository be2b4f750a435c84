"""An import that is killed or interrupted anywhere, and run again, comes to the same end."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import article_rows as article
import pytest
import sqlalchemy as sa

from keylatch.tables import metadata

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

KILLS = 300 if os.environ.get("KEYLATCH_SOAK") else 10
USERS = 800


def test_an_import_that_was_killed_comes_to_the_same_end(tmp_path, secret):
    """At whatever point: the same keys, one event for each, and the same secrets emptied."""
    source, database = tmp_path / "app.db", f"sqlite:///{tmp_path / 'keys.db'}"
    article.make(f"sqlite:///{source}", USERS)
    odd = article.add_odd_rows(f"sqlite:///{source}", secret, "acme_live")
    metadata.create_all(sa.create_engine(database))
    program = Path(__file__).parents[1] / "import_crashing.py"
    output = subprocess.run(
        [sys.executable, program, database, source, str(KILLS)],
        env=os.environ | {"KEYLATCH_SECRET": secret},
        capture_output=True,
        text=True,
        check=True,
        timeout=60 + 2 * KILLS,
    ).stdout
    lines = [line.partition(" ") for line in output.splitlines()]
    killed = Counter(rest for what, _, rest in lines if what == "killed")
    print(*killed.items())
    assert killed.total() == KILLS
    assert killed["importing"], "nobody was killed at work"
    first, *others = [json.loads(rest) for what, _, rest in lines if what == "outcome"]
    assert others
    assert len(first["keys"]) == len(first["events"]) == USERS + 1
    assert len(first["emptied"]) == USERS + 1 + 2 + list(odd.values()).count("empty") - 1
    for other in others:
        assert other == first
