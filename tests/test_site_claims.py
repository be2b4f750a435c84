"""What the documentation's pages claim is what the repository has: tests, and figures."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURES = (ROOT / "docs" / "figures.md").read_text("utf-8")


def page(name: str) -> str:
    """A page of the documentation."""
    return (ROOT / "docs" / name).read_text("utf-8")


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table behind a text."""
    table = text.partition(heading)[2].partition("\n\n|")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.splitlines()]
    return rows[2:]


def test_the_threat_model_names_tests_that_exist():
    """Each file of tests, and each fuzz target, under the name that it has."""
    shown = [row[2] for row in cells(page("concepts/threats.md"), "## What it does")]
    assert len(shown) > 15
    for text in shown:
        for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", text):
            assert (ROOT / "tests" / name).exists(), name
        for name in re.findall(r"fuzz target `(\w+)`", text):
            assert (ROOT / "fuzz" / "fuzz_targets" / f"{name}.rs").exists(), name


def test_the_comparison_has_the_figures_that_were_measured():
    """Whoever measures anew changes both."""
    rows = cells(page("comparison.md"), "`make bench` measures some of them")
    assert len(rows) > 3
    for name, requests, ratio in rows:
        assert re.search(
            rf"^\| {re.escape(name)} \|.*\| {requests} \| {ratio} \|$", FIGURES, re.MULTILINE
        )


def test_what_hashing_costs_is_what_was_measured():
    """Of the native core, and of bcrypt, which it is held against."""
    for _, time in cells(page("concepts/hashing.md"), "What it would cost is real"):
        assert f"| {time} |" in FIGURES
