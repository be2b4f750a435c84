"""The demo, run as a newcomer runs it: a real process, and the curl lines it prints."""

import importlib.util
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy
from schemas import execute, key_of_0001

VECTORS = Path(__file__).parent / "vectors"
SERVE = Path(__file__).parent.parent / "examples" / "demo" / "serve.py"


@contextmanager
def demo(data: Path, port: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """The running demo, and what it says until it listens."""
    environment = {k: v for k, v in os.environ.items() if k != "KEYLATCH_SECRET"}
    process = subprocess.Popen(
        [sys.executable, SERVE, "--port", str(port), "--data", data],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    said = ""
    try:
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        yield said, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def curl_lines(said: str) -> list[tuple[int, str]]:
    """Each curl line that was printed, with the status that it promises."""
    return [
        (int(status), line)
        for status, line in re.findall(r"^# (\d{3}):.*\n(curl .*)$", said, re.MULTILINE)
    ]


def test_the_curl_lines_answer_what_they_promise(tmp_path, free_port, curl):
    """Each line, pasted into a shell, answers the status in the comment above it."""
    data, port = tmp_path / "demo", free_port
    with demo(data, port) as (said, process):
        lines = curl_lines(said)
        assert {200, 201, 401, 403} <= {status for status, _ in lines}
        for status, line in lines:
            answer = subprocess.run(
                ["bash", "-c", line], check=True, capture_output=True, text=True, timeout=30
            ).stdout
            assert answer.startswith(f"HTTP/1.1 {status} "), line
        docs = subprocess.run(
            [curl, "-s", f"http://127.0.0.1:{port}/docs"], check=True, capture_output=True
        ).stdout
        assert b"swagger-ui" in docs
        assert f"http://127.0.0.1:{port}/docs" in said

        assert stat.S_IMODE((data / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700

        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in output
        assert "Stopped" in output


def test_a_second_run_finds_its_keys_again(tmp_path, free_port, curl):
    """The keys of the first run still open, and the demo says why it shows new tokens."""
    data, port = tmp_path / "demo", free_port
    with demo(data, port) as (first, _):
        pass
    with demo(data, port) as (second, _):
        assert "Found 2 keys of earlier runs" in second
        assert "only\ntheir hashes are stored" in second
        for status, line in curl_lines(first):
            answer = subprocess.run(
                ["bash", "-c", line], check=True, capture_output=True, text=True, timeout=30
            ).stdout
            assert answer.startswith(f"HTTP/1.1 {status} "), line


def test_a_database_of_an_earlier_version_is_upgraded(tmp_path, free_port, secret):
    """The demo of today finds the keys of a demo that was run before there were revisions."""
    data = tmp_path / "demo"
    data.mkdir()
    (data / "secret").write_text(secret)
    with closing(sqlite3.connect(data / "keys.db")) as connection:
        connection.executescript((VECTORS / "sqlite-0001.sql").read_text())
    _, add = key_of_0001(secret)
    engine = sqlalchemy.create_engine(f"sqlite:///{data}/keys.db")
    with engine.begin() as connection:
        add(connection)
        execute("UPDATE api_keys SET owner = 'ada'")(connection)
    engine.dispose()
    with demo(data, free_port) as (said, _):
        assert "Found 1 keys of earlier runs" in said


def test_a_lost_server_secret_is_said_so(tmp_path, free_port):
    """Keys whose secret is gone can never open again: the demo does not pretend that they do."""
    data = tmp_path / "demo"
    with demo(data, free_port):
        (data / "secret").unlink()
    result = subprocess.run(
        [sys.executable, SERVE, "--port", str(free_port), "--data", data],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1
    assert f"remove {data} and start anew" in result.stderr
    assert not (data / "secret").exists()


def test_a_port_that_is_taken_is_said_so(tmp_path):
    """The demo names the port and how to choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, SERVE, "--port", str(port), "--data", tmp_path / "demo"],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert result.returncode == 1
    assert result.stderr.startswith(f"Port {port} cannot be used")
    assert "PORT=8001" in result.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_is_none_is_said_so(tmp_path, port):
    """A number outside of ports is no traceback either."""
    result = subprocess.run(
        [sys.executable, SERVE, f"--port={port}", "--data", tmp_path / "demo"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


@pytest.mark.anyio
async def test_a_key_hands_on_no_more_than_it_has(tmp_path, secret, monkeypatch, ask):
    """A key made with another key has none but its scopes, and does not outlive it."""
    monkeypatch.setenv("KEYLATCH_SECRET", secret)
    monkeypatch.setenv("DEMO_DATABASE", f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")
    spec = importlib.util.spec_from_file_location("demo_app", SERVE.with_name("app.py"))
    demo_app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo_app)
    async with demo_app.keys as keys:
        caller = await keys.create(
            name="ends", owner="u1", scopes=["keys:write"], expires_in=timedelta(hours=1)
        )

        async def post(scopes: list[str]):
            headers = [
                (b"content-type", b"application/json"),
                (b"x-api-key", caller.token.encode()),
            ]
            body = json.dumps({"name": "mine", "scopes": scopes}).encode()
            return await ask(demo_app.app, headers, path="/keys", method="POST", body=body)

        assert (await post(["reports:read"])).status == 403
        answer = await post(["keys:write"])
        assert answer.status == 201
        made = await keys.get(json.loads(answer.body)["id"])
        assert (made.owner, made.expires_at) == ("u1", caller.key.expires_at)
