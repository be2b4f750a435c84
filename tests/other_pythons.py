"""Runs tests against the same wheel on every other Python that is installed here.

Runs those of the native core; with KEYLATCH_TEST_DRIVERS, as ``make test-drivers`` has it, those
that lean on the interpreter as well. A free-threaded Python needs a wheel of its own.
Usage: other_pythons.py DIRECTORY-OF-THE-WHEEL. Looks for the interpreters on PATH and under
pyenv; names those that it did not find.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "target"
SUPPORTED = ["3.11", "3.12", "3.13"]
# PyO3 knows none before 3.14t. Few have one, so that CI does not insist on them.
FREE_THREADED = ["3.14t", "3.15t"]
# What goes through the native core, and what leans on the event loop, threads, typing, tracebacks
# or the interpreter's end. The rest, such as the databases, is alike on every Python.
CHOSEN = [
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_native_*.py")),
    "tests/cli/test_commands.py",
    "tests/test_asgi.py",
    "tests/test_attacks.py",
    "tests/test_cache.py",
    "tests/test_dependencies.py",
    "tests/test_hook_faults.py",
    "tests/test_hooks.py",
    "tests/test_http.py",
    "tests/test_keys.py",
    "tests/test_lasting.py",
    "tests/test_leaks.py",
    "tests/test_masking.py",
    "tests/test_masking_objects.py",
    "tests/test_masking_structlog.py",
    "tests/test_rate_limit.py",
    "tests/test_revocation.py",
    "tests/test_shutdown.py",
    "tests/test_sources.py",
    "tests/test_streams.py",
    "tests/test_structure.py",
    "tests/test_testing.py",
    "tests/test_usage.py",
]
# What the native core's tests need.
NATIVE = ["pytest", "pytest-xdist", "hypothesis", "argon2-cffi"]
VERSION = "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags.replace('d', ''))"


def find(version: str) -> str | None:
    """An interpreter of that version that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version.rstrip('t')}*/bin/python"))]
    for candidate in filter(None, candidates):
        probe = [candidate, "-c", VERSION]
        result = subprocess.run(probe, capture_output=True, text=True, check=False)
        if result.stdout.strip() == version:
            return candidate
    return None


def install(version: str, interpreter: str, wheel: Path, *needed: str) -> Path:
    """An environment of that Python with the wheel and what is needed beside it."""
    environment = TARGET / f"venv-{version}"
    if not environment.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", *needed], check=True)
    return python


def run(version: str, interpreter: str, wheel: Path) -> None:
    """Runs the tests against the wheel on that Python."""
    group = f"--group={ROOT}/pyproject.toml:test"
    python = install(version, interpreter, wheel, f"{wheel}[fastapi,cli]", group)
    # Servers have been tried by the main environment, and are the same whichever Python asks.
    chosen = ["-k", "not postgres and not mariadb"]
    subprocess.run([python, "-m", "pytest", "-q", *CHOSEN, *chosen], check=True, cwd=ROOT)


def run_native(python: Path, environment: dict[str, str] | None = None) -> None:
    """Runs the native core's tests, which need nothing of conftest.py and of its packages."""
    pytest = [python, "-m", "pytest", "-q", "--noconftest", "--hypothesis-profile=ci"]
    tests = sorted(ROOT.glob("tests/test_native_*.py"))
    subprocess.run([*pytest, *tests], check=True, cwd=ROOT, env=environment)


def run_free_threaded(version: str, interpreter: str) -> None:
    """Builds a wheel for that Python only, and runs the native core's tests without the GIL."""
    wheels = TARGET / "wheels-t"
    shutil.rmtree(wheels, ignore_errors=True)
    build = [sys.executable, "-m", "maturin", "build", "--quiet", "--release", "--locked"]
    # Apart from the other builds: for another interpreter cargo compiles PyO3 anew.
    build += ["--target-dir", str(TARGET / "free-threaded"), "--out", str(wheels)]
    subprocess.run([*build, "--interpreter", interpreter], check=True, cwd=ROOT)
    (wheel,) = wheels.glob("*.whl")
    python = install(version, interpreter, wheel, *NATIVE)
    # On its own, and past PYTHON_GIL: a module that needs the GIL turns it on when imported.
    probe = "import sys, keylatch._native; sys.exit(sys._is_gil_enabled())"
    subprocess.run([python, "-I", "-W", "error", "-c", probe], check=True)
    run_native(python, os.environ | {"PYTHON_GIL": "0"})


def main() -> None:
    """Tries each of these Pythons but the one that runs this."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    missing = []
    for version in SUPPORTED + FREE_THREADED:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        interpreter = find(version)
        if interpreter is None:
            missing.append(version)
            continue
        try:
            if version in FREE_THREADED:
                print(f"The native core on free-threaded Python {version}:", flush=True)
                run_free_threaded(version, interpreter)
            elif os.environ.get("KEYLATCH_TEST_DRIVERS"):
                print(f"The same wheel on Python {version}:", flush=True)
                run(version, interpreter, wheel)
            else:
                print(f"The same native core on Python {version}:", flush=True)
                run_native(install(version, interpreter, wheel, *NATIVE))
        except subprocess.CalledProcessError as error:
            sys.exit(f"The tests fail on Python {version} (status {error.returncode}).")
    if missing:
        print(f"Skipped, since they are not installed: Python {', '.join(missing)}")
        if os.environ.get("CI") and set(missing) & set(SUPPORTED):
            sys.exit("In CI every supported Python must be there.")


if __name__ == "__main__":
    main()
