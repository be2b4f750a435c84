"""Builds the site with warnings as errors, and looks for what the builder does not.

That is: a page that is not in the navigation, or the reverse; a link, an image or an anchor that
leads nowhere; anything that a page would load from another host. Writes what is wrong, and exits
with 1 if anything is. Usage: check_site.py [PROJECT], the folder of a zensical.toml.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What the builder writes when it minds nothing.
QUIET = ("Build started", "No issues found", "Build finished in ")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Project:
    """A site's configuration, and where its pages are before and after."""

    def __init__(self, root: Path) -> None:
        project = tomllib.loads((root / "zensical.toml").read_text("utf-8"))["project"]
        self.root = root
        self.nav = project["nav"]
        self.docs = root / project["docs_dir"]
        self.site = root / project["site_dir"]


class Page(HTMLParser):
    """A page as it was built: what can be linked to, where its links lead, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        values = {name: value for name, value in attrs if value}
        if "id" in values:
            self.ids.add(values["id"])
        if "src" in values:
            self.loads.append(values["src"])
        if "href" in values:
            (self.loads if tag == "link" else self.links).append(values["href"])


def built(project: Project) -> Iterator[str]:
    """Builds the site; tells what the builder minds."""
    zensical = [Path(sys.executable).parent / "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(zensical, cwd=project.root, capture_output=True, text=True, check=False)
    output = _COLOURS.sub("", done.stdout + done.stderr)
    lines = [line for line in output.splitlines() if line.strip()]
    if done.returncode or any(not line.startswith(QUIET) for line in lines):
        yield output


def navigated(entries: list[dict[str, str | list[object]]]) -> Iterator[str]:
    """The pages that the navigation names."""
    for entry in entries:
        for place in entry.values():
            if isinstance(place, str):
                yield place
            else:
                yield from navigated(place)


def misplaced(project: Project) -> Iterator[str]:
    """Pages that nobody finds, and entries without a page."""
    named = list(navigated(project.nav))
    there = {str(path.relative_to(project.docs)) for path in project.docs.rglob("*.md")}
    for name in sorted({*named} - there):
        yield f"zensical.toml: there is no docs/{name}"
    for name in sorted(there - {*named}):
        yield f"docs/{name} is not in the navigation"
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield f"zensical.toml: {name} stands twice"


def broken(project: Project) -> Iterator[str]:
    """Links that lead nowhere, and what would be loaded from elsewhere."""
    # What answers for pages that are not there links from the root of the site.
    pages = {path: Page(path) for path in project.site.rglob("*.html") if path.name != "404.html"}
    if not pages:
        yield "nothing was built"
    for path, page in pages.items():
        name = path.relative_to(project.site)
        for load in page.loads:
            if urlsplit(load).netloc:
                yield f"{name} loads {load}"
        for link in [*page.links, *page.loads]:
            if not leads_somewhere(link, path, pages, project.site):
                yield f"{name}: {link} leads nowhere"


def leads_somewhere(link: str, path: Path, pages: dict[Path, Page], site: Path) -> bool:
    """Whether there is such a file and such an anchor; other hosts are not asked."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return parts.scheme in ("https", "data", "mailto")
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or not target.is_relative_to(site):
        return False
    fragment = unquote(parts.fragment)
    # Of those that begin with two underscores the theme makes its own use.
    if not fragment or fragment.startswith("__") or target not in pages:
        return True
    return fragment in pages[target].ids


def main() -> None:
    """Builds and looks."""
    project = Project(Path(*sys.argv[1:]).resolve())
    wrong = [*misplaced(project)] or [*built(project), *broken(project)]
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
