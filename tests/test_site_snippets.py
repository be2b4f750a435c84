"""The pages of the documentation, run: each block of each page, in the order of the page."""

import subprocess
import sys
from pathlib import Path

import pytest
from fences import pages

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in pages(DOCS)}


def run(page: Path, *heading: str) -> subprocess.CompletedProcess[str]:
    """Runs a page in a process of its own, in which warnings are errors."""
    command = [sys.executable, "-W", "error", TESTS / "snippets.py", page, *heading]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_runs(name, curl):
    """As it stands: Python, commands, servers; what only shows something is parsed."""
    done = run(PAGES[name])
    assert done.returncode == 0, done.stderr


GOOD = """
```python title="main.py"
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def root() -> str:
    return "fine"
```

```sh
export KEYLATCH_SECRET=$(keylatch secret)
export KEYLATCH_DATABASE=sqlite:///keys.db KEYLATCH_PREFIX=acme_live
keylatch create --name ci
uvicorn main:app
```

```console
$ curl http://127.0.0.1:8000
"fine"
$ echo acme_live_… | keylatch verify
…ci…
$ echo acme_live_x | keylatch verify
…
$ echo $?
1
```

```python
from keylatch import APIKeys

async with APIKeys("sqlite+aiosqlite:///keys.db", prefix="acme_live") as keys:
    print((await keys.list()).items[0].name, app is not None)
```

```text title="Output"
ci True
```
"""


@pytest.fixture
def page(tmp_path):
    """Writes a page."""

    def page(text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, "utf-8")
        return path

    return page


def test_blocks_share_a_folder_a_shell_and_a_namespace(page, curl):
    """A file is importable and served, variables last, and `acme_live_…` is the last token."""
    done = run(page(GOOD))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nassert 1 == 2\n```", "AssertionError"),
        ("```python\nawait nothing()\n```", "NameError"),
        ('```python title="main.py"\nimport nothing\n```', "ModuleNotFoundError"),
        ('```python title="test_it.py"\ndef test_it():\n    assert False\n```', "1 failed"),
        ("```sh\nfalse\ntrue\n```", "the shell ended"),
        ("```sh\nkeylatch nothing\n```", "No such command"),
        ("```sh\nuvicorn nothing:app\n```", "serves nothing"),
        ('```sh\npip install "keylatch[nothing]"\n```', "no extra"),
        ("```sh\npip install nothing-of-the-kind\n```", "PackageNotFoundError"),
        ("```console\n$ echo one\ntwo\n```", "expected"),
        ("```console\n$ echo one\n```", "expected"),
        ("```console\n$ false\n```", "ended with 1"),
        ("```json\n{\n```", "JSONDecodeError"),
        ("```toml\n[\n```", "TOMLDecodeError"),
        ("```yaml\n[\n```", "ParserError"),
        ("```ini\nno section\n```", "MissingSectionHeaderError"),
        ("```\nno language\n```", "no language"),
        ("```py\nassert True\n```", "CONTRIBUTING.md"),
    ],
)
def test_a_block_that_fails_fails_its_page(page, text, said):
    """Whatever its language, and it is named with its line."""
    done = run(page(f"# A page\n\n{text}\n"))
    assert done.returncode != 0
    assert said in done.stderr
    assert "page.md:3" in done.stderr or "main.py" in text or "test_it" in text
