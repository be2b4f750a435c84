"""The READMEs of the examples: their commands do what they promise, and their snippets are code."""

import re
import shutil
import socket
import subprocess

import pytest
from examples import EXAMPLES, blocks, environment

NAMES = ["existing", "feed", "saas"]


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_run_as_written(name, tmp_path, curl):
    """From the server secret on, they do in a shell what the comments below them say."""
    for file in (EXAMPLES / name).glob("*.py"):
        shutil.copy(file, tmp_path)
    install, *commands = blocks(name, "bash")
    assert 'pip install "../..[fastapi,cli]" uvicorn' in install
    script = "\n".join(["set -e", *commands])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # What differs: the port, one terminal instead of two, and no guess how long a start takes.
        start = f"uvicorn app:app --fd {listener.fileno()} >log 2>&1 & trap 'kill %1; wait' EXIT\n"
        assert script.count("uvicorn app:app\n") == 1
        for written, run in {
            "uvicorn app:app\n": start,
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "curl ": "curl -sS ",
            "& sleep 1\n": "& until grep -q accepted log; do sleep 0.1; done\n",
        }.items():
            script = script.replace(written, run)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment(FEED=f"ws://127.0.0.1:{port}"),
            pass_fds=[listener.fileno()],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in (tmp_path / "log").read_text()
    promised = re.findall(r"^# (.+)$", script, re.MULTILINE)
    assert len(promised) > 2
    pattern = "\n?".join(re.escape(line).replace("…", "[^\n]+?") for line in promised)
    assert re.fullmatch(pattern, done.stdout.strip()), done.stdout
    for file in (tmp_path / ".env", *tmp_path.glob("*.db")):
        assert file.stat().st_mode & 0o077 == 0, f"others may read {file.name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_snippets_are_the_code(name):
    """Every line of Python in a README stands in a file of its example, but for line breaks."""
    files = (EXAMPLES / name).glob("*.py")
    code = "".join("".join(file.read_text().split()) for file in files)
    for block in blocks(name, "python"):
        for line in block.splitlines():
            assert "".join(line.split()) in code, line
