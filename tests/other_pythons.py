"""Runs the tests against the same wheel on every other Python that is installed here.

Usage: other_pythons.py DIRECTORY-OF-THE-WHEEL. Looks for the interpreters on PATH and under
pyenv; names those that it did not find.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUPPORTED = ["3.11", "3.12", "3.13"]
# What depends on the tools of the main environment rather than on the Python at hand.
LEFT_OUT = ["tests/test_readme.py", "tests/test_benches.py"]


def find(version: str) -> str | None:
    """An interpreter of that version that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        probe = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        result = subprocess.run(probe, capture_output=True, text=True, check=False)
        if result.stdout.strip() == version:
            return candidate
    return None


def run(version: str, interpreter: str, wheel: Path) -> None:
    """Installs the wheel into an environment of that Python, and runs the tests there."""
    environment = ROOT / "target" / f"venv-{version}"
    if not environment.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)
    constraints = ["--constraint", ROOT / "constraints.txt"]
    extras = f"{wheel}[fastapi,cli]"
    subprocess.run(
        [*pip, *constraints, extras, "--group", f"{ROOT}/pyproject.toml:test"], check=True
    )
    ignored = [f"--ignore={path}" for path in LEFT_OUT]
    subprocess.run([python, "-m", "pytest", "-q", *ignored], check=True, cwd=ROOT)


def main() -> None:
    """Tries each supported Python but the one that runs this."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    missing = []
    for version in SUPPORTED:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        interpreter = find(version)
        if interpreter is None:
            missing.append(version)
            continue
        print(f"The same wheel on Python {version}:", flush=True)
        try:
            run(version, interpreter, wheel)
        except subprocess.CalledProcessError as error:
            sys.exit(f"The tests fail on Python {version} (status {error.returncode}).")
    if missing:
        print(f"Skipped, since they are not installed: Python {', '.join(missing)}")
        if os.environ.get("CI"):
            sys.exit("In CI every supported Python must be there.")


if __name__ == "__main__":
    main()
