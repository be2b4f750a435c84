"""The benchmark of ``keylatch scan`` runs, on a smaller tree and a smaller repository."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_small_run_finds_every_token_that_was_planted(tmp_path):
    """Where it stands, and none of the look-alikes: it fails otherwise."""
    path = tmp_path / "results" / "scan.json"
    options = ["--bytes", "5000000", "--history-bytes", "2000000", "--planted", "100"]
    command = [sys.executable, ROOT / "benches/scan.py", *options, "--rounds", "1", "--json", path]

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    report = json.loads(path.read_text())
    assert report["cases"]["keylatch scan"]["found"] == report["tokens"] == 40
    assert report["bytes"] >= 5_000_000
    history = report["history"]
    assert history["cases"]["keylatch scan"]["found"] == history["tokens"] == 8
    assert history["bytes"] >= 1_000_000
    for cases in (report["cases"], history["cases"]):
        for case, row in cases.items():
            assert case in run.stdout
            assert row["mb_per_s"] > 0
    assert report["promise"]["at_least"] == 500
    assert "met " in run.stdout or "MISSED" in run.stdout


def test_a_token_told_elsewhere_or_twice_or_not_at_all_fails_the_benchmark(monkeypatch):
    """As many places as tokens are not enough."""
    monkeypatch.syspath_prepend(ROOT / "benches")
    scan, planted = (importlib.import_module(name) for name in ("scan", "planted"))
    made = planted.Made(tokens={("a", 5, "f"), ("b", 7, "g")})
    ((_, checked),) = scan.keylatch(Path(), made, "path").values()

    def told(*rows):
        names = ("path", "offset", "fingerprint")
        findings = [dict(zip(names, row, strict=True)) for row in rows]
        return json.dumps({"findings": findings}).encode()

    assert checked(told(("b", 7, "g"), ("a", 5, "f"))) == 2
    for other in [("b", 8, "g"), ("a", 7, "g"), ("b", 7, "f"), ("a", 5, "f")]:
        with pytest.raises(SystemExit, match="1 are missing"):
            checked(told(("a", 5, "f"), other))
    with pytest.raises(SystemExit, match="0 are missing"):
        checked(told(("a", 5, "f"), ("b", 7, "g"), ("b", 7, "g")))
