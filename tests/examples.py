"""Runs an example as its README says: in uvicorn, in a process of its own. Knows no example."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parent.parent / "examples"
_OURS = {"DATABASE_URL", "KEYLATCH_SECRET", "KEYLATCH_DATABASE", "KEYLATCH_PREFIX"}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, with the programs of the tests and nothing else of ours."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return inherited | {"PATH": programs} | variables


@contextmanager
def serving(name: str, folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """The address of the running app, which keeps its files in a folder. It must not stumble."""
    log = folder / "uvicorn.log"
    with log.open("a") as stderr, socket.create_server(("127.0.0.1", 0)) as listener:
        # It listens already: a request that comes before the app has started waits.
        descriptor, port = str(listener.fileno()), listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "app:app", "--fd", descriptor]
        process = subprocess.Popen(
            [*command, "--app-dir", EXAMPLES / name, "--log-level", "debug"],
            cwd=folder,
            env=environment(**variables),
            stderr=stderr,
            pass_fds=[listener.fileno()],
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "Traceback" not in log.read_text()


def loaded(name: str) -> ModuleType:
    """The app as a module of this process, to look inside. Reads the environment."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(name: str, language: str) -> list[str]:
    """The blocks of code in a language, in the README of an example."""
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", readme, re.MULTILINE | re.DOTALL)


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}
