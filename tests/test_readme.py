"""The README, run: its snippets in order, its commands, and its table of answers."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import pytest

from keylatch import SecretRing, errors

README = (Path(__file__).parent.parent / "README.md").read_text()
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
    script = SHELL[0].replace("uvicorn main:app", f"exec uvicorn main:app --port {free_port}")
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


def test_the_other_snippets_run(tmp_path, monkeypatch, capsys):
    """Each snippet runs behind the one before it, as a reader would go on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYLATCH_SECRET", SecretRing.generate())
    names: dict[str, object] = {}
    whole, life, routes, imports, transaction, masking, _, primitives = PYTHON[1:]
    exec(PYTHON[0], names)
    exec(whole, names)
    exec(routes, names)
    exec(masking, names)
    for snippet in (life, imports, transaction):
        body = textwrap.indent(snippet, "    ")
        exec(f"async def snippet(keys, APIKeys):\n{body}", names)
        asyncio.run(names["snippet"](names["keys"], names["APIKeys"]))
    shown = capsys.readouterr().out
    assert "acme_live_" in shown
    for event in ("updated ada", "rotated None", "revoked ops"):
        assert event in shown
    exec(primitives, names)


def test_the_test_of_the_quick_start_passes(pytester, monkeypatch):
    """Beside its file, without a database and a server secret of its own."""
    monkeypatch.setenv("KEYLATCH_SECRET", SecretRing.generate())
    pytester.makepyfile(main=PYTHON[0], test_main=PYTHON[7])
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)


def test_the_table_of_answers_is_complete():
    """Every status and code that an error class has stands in the table."""
    rows = re.findall(r"^\| .* \| \d{3}.*\|$", README, re.MULTILINE)
    for error in (*errors.AuthenticationError.__subclasses__(), errors.UnavailableError):
        (row,) = [line for line in rows if f"`{error.code}`" in line]
        assert f"| {error.status}" in row
