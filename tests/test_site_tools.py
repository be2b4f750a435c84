"""What the tools of the documentation find wrong, and what they make of docstrings."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIGURATION = """
[project]
site_name = "a site"
docs_dir = "docs"
site_dir = "site"
nav = [{ "One" = "index.md" }, { "More" = [{ "Two" = "more/two.md" }] }]

[project.theme]
font = false

[project.plugins.mkdocstrings.handlers.python]
paths = ["."]

[project.plugins.mkdocstrings.handlers.python.options]
extensions = ["docstrings.py"]
"""
MODULE = '''
class Thing:
    """A thing."""

    def use(self, how: str) -> None:
        """Uses it.

        Args:
            how: In what way.
        """
'''


@pytest.fixture
def project(tmp_path):
    """A site of two pages with nothing wrong."""
    shutil.copy(ROOT / "tools" / "docstrings.py", tmp_path)
    (tmp_path / "zensical.toml").write_text(CONFIGURATION)
    (tmp_path / "things.py").write_text(MODULE)
    (tmp_path / "docs" / "more").mkdir(parents=True)
    (tmp_path / "docs" / "index.md").write_text("# One\n\n[Two](more/two.md#part)\n")
    (tmp_path / "docs" / "more" / "two.md").write_text("# Two\n\n## Part\n\n::: things.Thing\n")
    return tmp_path


def check(project: Path) -> subprocess.CompletedProcess[str]:
    """Builds and looks."""
    tool = [sys.executable, ROOT / "tools" / "check_site.py", project]
    return subprocess.run(tool, capture_output=True, text=True, check=False, timeout=120)


def test_a_whole_site_passes(project):
    """Without a word."""
    done = check(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "site" / "more" / "two" / "index.html").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[three](three.md)", "page does not exist"),
        ("[part](more/two.md#other)", "anchor does not exist"),
        ("[`Thing`][things.Other]", "unresolved autoref"),
        ("![](picture.png)", "picture.png"),
        ('<a href="more/three/">three</a>', "more/three/ leads nowhere"),
        ('<a href="more/two/#other">other</a>', "more/two/#other leads nowhere"),
        ('<a href="../outside/">outside</a>', "../outside/ leads nowhere"),
        ("<http://example.com/>", "http://example.com/ leads nowhere"),
        ('<script src="https://example.com/it.js"></script>', "loads https://example.com/it.js"),
        ("::: things.Other", "things.Other"),
    ],
)
def test_what_is_wrong_on_a_page_fails(project, text, said):
    """And it is named."""
    with (project / "docs" / "index.md").open("a") as page:
        page.write(f"\n{text}\n")
    done = check(project)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_page_that_nobody_finds_fails(project):
    """Every page stands in the navigation."""
    (project / "docs" / "three.md").write_text("# Three\n")
    done = check(project)
    assert (done.returncode, done.stderr) == (1, "docs/three.md is not in the navigation\n")


def test_an_entry_without_a_page_fails(project):
    """Every entry of the navigation has a page."""
    (project / "docs" / "more" / "two.md").unlink()
    done = check(project)
    assert (done.returncode, done.stderr) == (1, "zensical.toml: there is no docs/more/two.md\n")


def test_a_docstring_of_another_signature_fails(project):
    """An argument that was renamed or has gone."""
    (project / "things.py").write_text(MODULE.replace("how: str", "why: str"))
    done = check(project)
    assert done.returncode == 1
    assert "does not appear in the function signature" in done.stderr


def test_docstrings_become_markdown():
    """A role is a link where it means a neighbour, and a literal block is a fence."""
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "tools" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "See :meth:`use`, not :class:`Other`::\n\n    thing.use()\n\nMore."
    assert module.markdown(text, "things.Thing", {"use"}) == (
        "See [`use`][things.Thing.use], not `Other`:\n\n```python\nthing.use()\n```\n\nMore."
    )
