"""The README, run: its snippets in order, its commands, and what it leads to."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx2
import pytest

from keylatch import SecretRing

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """A shell's environment in which the installed commands are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"}


def test_the_quick_start_works_as_it_stands(tmp_path, environment, free_port):
    """Its file and its shell lines, pasted, serve a route that the shown token opens."""
    (tmp_path / "main.py").write_text(PYTHON[0])
    script = SHELL[1].replace("uvicorn main:app", f"exec uvicorn main:app --port {free_port}")
    process = subprocess.Popen(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output = ""
        while "Uvicorn running" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        (token,) = re.findall(r"acme_live_[0-9A-Za-z_]{72}", output)
        url = f"http://127.0.0.1:{free_port}/items"
        for headers in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": token}):
            answer = httpx2.get(url, headers=headers)
            assert (answer.status_code, answer.json()) == (200, "The items of ada")
        assert httpx2.get(url).status_code == 401
    finally:
        process.kill()
        process.communicate()


def test_the_quick_start_is_fifteen_lines():
    """The README promises fifteen lines."""
    lines = [line for line in PYTHON[0].splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 15


def test_the_life_of_a_key_runs(tmp_path, monkeypatch, capsys):
    """Behind the quick start, as a reader would go on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYLATCH_SECRET", SecretRing.generate())
    names: dict[str, object] = {}
    start, life = PYTHON
    exec(start, names)
    body = textwrap.indent(life, "    ")
    exec(f"async def snippet(keys):\n{body}", names)
    asyncio.run(names["snippet"](names["keys"]))
    shown = capsys.readouterr().out
    for event in ("acme_live_", "updated ada", "rotated None", "revoked ops"):
        assert event in shown


def test_each_page_that_it_leads_to_is_there():
    """And each folder and picture."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_table_of_figures_is_that_of_the_documentation():
    """Row by row, so that whoever measures anew changes both."""
    figures = (ROOT / "docs" / "figures.md").read_text()
    rows = re.findall(r"^\| .*µs.*(?:\n\|.*)+", README, re.MULTILINE)
    assert rows
    assert all(row in figures for row in rows)


def test_its_chart_shows_what_its_table_says():
    """Requests a second, of each contender that the table has."""
    chart = ET.parse(ROOT / "docs" / "requests.svg")
    shown = {text.text.split()[0] for text in chart.iter("{http://www.w3.org/2000/svg}text")}
    rates = re.findall(r"^\|[^|]*\|[^|]*\| ([\d,]+) \| [\d.]+ \|$", README, re.MULTILINE)
    assert len(rates) > 5
    assert {rate for rate in rates if int(rate.replace(",", "")) > 9} <= shown


def test_the_picture_of_the_terminal_shows_what_the_commands_print(tmp_path):
    """Drawn anew it shows the same lines, but for ids and dates, and no whole token."""
    tool = ROOT / "tools" / "terminal_picture.py"
    subprocess.run([sys.executable, tool, tmp_path / "new.svg"], check=True)
    new = lines_of(tmp_path / "new.svg")
    assert new == lines_of(ROOT / "docs" / "terminal.svg")
    assert "revoked" in new
    assert not re.search(r"acme_live_\w{72}", (tmp_path / "new.svg").read_text())


def lines_of(picture: Path) -> str:
    """What a picture of a terminal says, with ids, dates and times made alike."""
    text = "".join(ET.parse(picture).getroot().itertext())
    text = text[text.index("$") :].replace("\xa0", " ")
    text = re.sub(r"(?<![0-9a-z])[0-9a-z]{16}(_[0-9A-Za-z]{9})?", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\d|\d\d:\d\d|in \d+ days", "AT", text)
