"""The benchmark of many keys at once runs, on fewer keys."""

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_small_run_reports_every_case_in_positive_numbers(tmp_path):
    """A run on few keys ends well, and both insert the same rows into both kinds of engine."""
    path = tmp_path / "results" / "bulk.json"
    options = ["--keys", "400", "--rounds", "1", "--engines", "sqlite-async", "sqlite-sync"]
    command = [sys.executable, ROOT / "benches/bulk.py", *options, "--json", path]

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    report = json.loads(path.read_text())
    assert report["keys"] == 400
    assert all(report["environment"][name] for name in ("date", "cpu", "cores", "python"))
    assert set(report["engines"]) == {"sqlite-async", "sqlite-sync"}
    for cases in report["engines"].values():
        assert list(cases) == [
            "create_many",
            "Core insert, both tables",
            "Core insert, keys alone",
        ]
        for case, row in cases.items():
            assert case in run.stdout
            assert all(math.isfinite(number) and number >= 0 for number in row.values())
            assert row["keys_per_s"] > 0
