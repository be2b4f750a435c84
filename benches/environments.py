"""Environments of the peers: each has its own under `target/peers/`, with pinned versions.

Whatever several of them need is of the same version in each, and the same as keylatch's.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "target" / "peers"
# What each needs, the package first that it is about.
PINS = {
    "article": ["passlib==1.7.4", "bcrypt==4.0.1"],
    "keyshield": [
        "keyshield[fastapi,sqlalchemy,argon2,aiocache]==2.0.1",
        "aiocache==0.12.3",
        "aiosqlite",
    ],
    "fastapi-keygate": ["fastapi-keygate[async]==0.5.1", "limits==5.8.0"],
}
COMMON = ["fastapi", "sqlalchemy[asyncio]", "uvicorn"]
# Uvicorn takes these where they are installed.
SERVERS = ["uvloop", "httptools"]


def make(peer: str) -> Path | str:
    """The interpreter of a peer's environment, or why there is none."""
    wanted = [*PINS[peer], *COMMON, *servers()]
    directory = PEERS / peer
    python, made = directory / "bin" / "python", directory / "made"
    text = "\n".join([sys.version, *wanted, *_constraints(peer)])
    if made.exists() and made.read_text() == text:
        return python
    print(f"installing {', '.join(PINS[peer])}", file=sys.stderr)
    constraints = directory / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    for command in ([sys.executable, "-m", "venv", "--clear", directory], [*install, *wanted]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            return f"pip install {' '.join(wanted)}: {_last_line(done.stderr)}"
        constraints.write_text("\n".join(_constraints(peer)))
    made.write_text(text)
    return python


def versions(python: Path) -> dict[str, str]:
    """What is installed in an environment."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.check_output(command, text=True))
    return {each["name"]: each["version"] for each in listed}


def _constraints(peer: str) -> list[str]:
    pinned = {_name(pin) for pin in PINS[peer] if "==" in pin}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if _name(line) not in pinned]


def servers() -> list[str]:
    """What uvicorn takes of these here, and so in each environment."""
    return [name for name in SERVERS if _installed(name)]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _name(requirement: str) -> str:
    return re.split(r"[\[=<>]", requirement)[0].lower()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
