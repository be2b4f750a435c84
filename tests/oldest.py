"""Runs tests against the same wheel with the oldest versions that pyproject.toml lets it go with.

Usage: oldest.py DIRECTORY-OF-THE-WHEEL. What is newer than the oldest is what the tests need, and
what those versions need in turn.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from other_pythons import ROOT, install

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
# What leans on these packages most: routes and their documents, failures, and the terminal.
CHOSEN = [
    "tests/cli/test_leaked.py",
    "tests/test_dependencies.py",
    "tests/test_half_changes.py",
    "tests/test_http.py",
    "tests/test_notify.py",
    "tests/test_owners.py",
    "tests/test_races.py",
    "tests/test_router.py",
]


def oldest() -> list[str]:
    """Each package that an extra brings, in its oldest version."""
    needed = {package for extra in EXTRAS.values() for package in extra}
    return sorted(re.sub(r">=", "==", package) for package in needed)


def main() -> None:
    """Installs them, and runs the tests."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    versions = oldest()
    print(f"The same wheel with {', '.join(versions)}:", flush=True)
    group = f"--group={ROOT}/pyproject.toml:test"
    python = install("oldest", sys.executable, wheel, group)
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *versions], check=True)
    # Old packages use what newer ones call deprecated.
    command = [python, "-m", "pytest", "-q", "-W", "default", *CHOSEN]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
