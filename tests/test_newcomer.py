"""A newcomer's path: a fresh environment, the wheel, and what README and the site say at first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fences import fences, section

ROOT = Path(__file__).parent.parent
START = ROOT / "docs" / "index.md"
README = ROOT / "README.md"
# What README says in a sentence below its lines, as a reader would try it.
CALLS = """
```console
$ curl http://127.0.0.1:8000/items -H "Authorization: Bearer acme_live_…"
"The items of ada"
$ curl http://127.0.0.1:8000/items -H "X-API-Key: acme_live_…"
"The items of ada"
$ curl http://127.0.0.1:8000/items
{"detail":"API key missing: send one with the request"}
```
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, curl) -> tuple[Path, dict[str, str]]:
    """A Python that has what the first command of the site installs, and no more.

    It installs the wheel that was built, where the command would build the same from a clone.
    """
    folder = tmp_path_factory.mktemp("newcomer")
    (wheel,) = (ROOT / "target" / "wheels").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    environment = {
        "PATH": f"{programs}{os.pathsep}{Path(curl).parent}{os.pathsep}{os.defpath}",
        "HOME": os.environ.get("HOME", str(folder)),  # pip's settings
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    install = fences(START.read_text("utf-8"))[0].body
    assert install == 'pip install ".[fastapi,cli]" uvicorn\n'
    assert install == fences(section(README.read_text("utf-8"), "Fifteen lines"))[0].body
    command = ["bash", "-e", "-c", install.replace('".', f'"{wheel}')]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return programs / "python", environment


def run(newcomer: tuple[Path, dict[str, str]], page: Path) -> subprocess.CompletedProcess[str]:
    """Runs a page in that environment."""
    python, environment = newcomer
    command = [python, ROOT / "tests" / "snippets.py", page]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_the_first_page_of_the_site_works(newcomer):
    """From the installation to the revoked key."""
    done = run(newcomer, START)
    assert done.returncode == 0, done.stderr


def test_the_quick_start_of_the_readme_works(newcomer, tmp_path):
    """Its file and its lines, pasted as they stand."""
    page = tmp_path / "readme.md"
    quick_start = section(README.read_text("utf-8"), "Fifteen lines")
    page.write_text(quick_start + CALLS, "utf-8")
    done = run(newcomer, page)
    assert done.returncode == 0, done.stderr


def test_the_rest_is_not_needed(newcomer):
    """The environment has none of what only the tests install."""
    python, environment = newcomer
    probe = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, sys.argv[1:])))"
    names = ["pytest", "prometheus_client", "asyncpg", "yaml", "zensical"]
    assert (
        subprocess.run([python, "-c", probe, *names], env=environment, check=False).returncode == 0
    )
