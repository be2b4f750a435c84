"""The program that tries to tell keys apart by the clock; here only that it does its work."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "benches" / "timing.py"


def test_a_quick_run_reports_every_case(tmp_path):
    """The times of both, and how well they were told apart."""
    report = tmp_path / "report.json"
    run = [sys.executable, PROGRAM, "--cached", "200", "--cold", "50", "--json", report]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    told = json.loads(report.read_text())
    for name in ("cached", "cold"):
        assert told[name]["wrong_ns"] > 0
        assert told[name]["unknown_ns"] > 0
        assert 0 <= told[name]["accuracy"] <= 1
    assert isinstance(told["tags"]["t"], float)
    assert len(result.stdout.splitlines()) == 3


def test_the_classifier_and_the_t_test_tell_what_can_be_told(monkeypatch):
    """What differs is found, whichever is slower, and what does not is guessed at."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    timing = runpy.run_path(str(PROGRAM))
    fast, slow = list(range(1000, 2000)), list(range(1900, 2900))
    for one, other in ((fast, slow), (slow, fast)):
        assert timing["accuracy"](one, other) > 0.9
        assert abs(timing["t_value"](one, other)) > 50
    assert timing["accuracy"](fast, list(fast)) <= 0.51
    assert abs(timing["t_value"](fast, list(fast))) < 1


def test_a_quick_run_tells_how_late_the_event_loop_was(tmp_path):
    """While a few tokens are stretched; whether that was too late is not said here."""
    report = tmp_path / "report.json"
    program = PROGRAM.with_name("heartbeat.py")
    run = [sys.executable, program, "--cheap", "--count", "4", "--json", report]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    told = json.loads(report.read_text())
    assert told["opened"] + told["no_telling"] == 4
    assert told["worst_ms"] >= told["p99_ms"]
    assert "event loop was late" in result.stdout
