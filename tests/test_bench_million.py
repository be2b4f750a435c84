"""The benchmark of a million keys runs, on fewer keys, and its mixture is what it says."""

import json
import math
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from keylatch import Hasher, SecretRing

ROOT = Path(__file__).parent.parent
mixture = SimpleNamespace(**runpy.run_path(str(ROOT / "benches/mixture.py")))


def test_small_run_reports_every_case_in_positive_numbers(tmp_path):
    """A run on few keys ends well, and each case finds as much as the filters let pass."""
    path = tmp_path / "results" / "million.json"
    options = ["--keys", "2000", "--rounds", "1", "--engines", "sqlite-async", "sqlite-sync"]
    command = [sys.executable, ROOT / "benches/million.py", *options, "--json", path]

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    report = json.loads(path.read_text())
    assert report["keys"] == {"small": 1000, "big": 2000}
    assert all(report["environment"][name] for name in ("date", "cpu", "cores", "python"))
    assert set(report["databases"]) == {"sqlite"}
    assert set(report["engines"]) == {"sqlite-async", "sqlite-sync"}
    for cases in report["engines"].values():
        assert {"verify", "get", "list: name", "list: revoked", "list: revoked, deep"} <= set(cases)
        for case, row in cases.items():
            assert case in run.stdout
            assert all(math.isfinite(number) and number > 0 for number in row.values())
    assert "MISSED" in run.stdout or "met" in run.stdout


def test_the_mixture_holds_keys_of_every_kind():
    """Of every state its share, and hashes that belong to the tokens."""
    ring = SecretRing(SecretRing.generate())
    hasher = Hasher(ring)
    made = list(mixture.make(2000, ring))
    keys = [record.key for _, record, _ in made]
    states = Counter(key.status(mixture.NOW) for key in keys)
    lasting = sum(key.expires_at is None and key.revoked_at is None for key in keys)
    assert 700 < lasting < 900
    assert 1100 < states["active"] < 1300
    assert 300 < states["expired"] < 500
    assert 300 < states["revoked"] < 500
    owners = Counter(key.owner for key in keys)
    assert owners[mixture.STEADY_OWNER] == mixture.STEADY_KEYS
    assert len(owners) > 200
    assert len({key.prefix for key in keys}) == 4
    assert [key.created_at for key in keys] == sorted(key.created_at for key in keys)
    for token, record, event in made[:20]:
        assert hasher.verify(token, record.hash)
        assert token.startswith(f"{record.key.prefix}_{record.key.id}_")
        assert event.at == (record.key.revoked_at or record.key.created_at)
        assert record.key.created_at <= event.at <= mixture.NOW
