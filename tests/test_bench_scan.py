"""The benchmark of ``keylatch scan`` runs, on a smaller tree."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_small_run_finds_every_token_that_was_planted(tmp_path):
    """And none of the look-alikes: it fails otherwise."""
    path = tmp_path / "results" / "scan.json"
    options = ["--bytes", "5000000", "--planted", "100", "--rounds", "1", "--json", path]
    command = [sys.executable, ROOT / "benches/scan.py", *options]

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    report = json.loads(path.read_text())
    assert report["cases"]["keylatch scan"]["found"] == report["tokens"] == 40
    assert report["bytes"] >= 5_000_000
    for case, row in report["cases"].items():
        assert case in run.stdout
        assert row["mb_per_s"] > 0
