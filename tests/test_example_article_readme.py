"""The README of the article's app: its commands work, and its snippets are the code."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import article_rows as article

EXAMPLE = Path(__file__).parent.parent / "examples" / "article"


def blocks(language: str) -> list[str]:
    """The README's blocks of code in a language."""
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)


def test_the_commands_run_as_written(tmp_path, curl):
    """From the server secret on, they do in a shell what the comments below them say."""
    for name in ("app.py", "manage.py"):
        shutil.copy(EXAMPLE / name, tmp_path)
    install, *commands = blocks("bash")
    assert 'pip install "../..[fastapi,cli]" uvicorn\n' in install
    old = f"sqlite:///{tmp_path / 'old.db'}"
    article.make(old, 1)
    name = "user_id = 'grace', first_name = 'Grace', last_name = 'Hopper'"
    article.execute(old, f"UPDATE users SET {name}", "UPDATE user_api_keys SET user_id = 'grace'")
    (row,) = article.rows(old)
    script = "\n".join(["set -e", *commands])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # What differs: the port, one terminal instead of two, and the environment of the tests.
        start = f"uvicorn app:app --fd {listener.fileno()} >log 2>&1 & trap 'kill $!; wait' EXIT\n"
        for written, run in {
            "uvicorn app:app\n": start,
            "127.0.0.1:8000": f"127.0.0.1:{listener.getsockname()[1]}",
            ". .venv/bin/activate\n": "",
        }.items():
            assert written in script
            script = script.replace(written, run)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={
                name: value
                for name, value in os.environ.items()
                if name not in {"KEYLATCH_SECRET", "DATABASE_URL"}
            }
            | {"OLD_TOKEN": row.secret_key}
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            pass_fds=[listener.fileno()],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"^# (\{.*|[a-z ]+ \d+)$", script, re.MULTILINE)
    assert len(promised) == 10
    pattern = "\n?".join(re.escape(line).replace("…", '[^"]+') for line in promised)
    assert re.fullmatch(pattern, done.stdout)
    for name in (".env", "article.db"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, f"others may read {name}"


def test_the_snippets_are_the_code():
    """Every line that stands beside the article's is in app.py, but for line breaks."""
    app = "".join((EXAMPLE / "app.py").read_text().split())
    snippets = blocks("python")
    assert len(snippets) == 14, "each function has the article's snippet, then ours"
    for line in "".join(snippets[1::2]).splitlines():
        assert "".join(line.split()) in app, line
