"""The fenced blocks of a Markdown page. Knows nothing of what they hold or how they run."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks) *$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')
# A README's way to name a file: GitHub shows no titles.
_FIRST_LINE = re.compile(r"# ([\w/]+\.py)\n")


@dataclass(frozen=True)
class Fence:
    """A block of code: its language, the file that it is, if any, and where it stands."""

    language: str
    title: str | None
    body: str
    line: int


def fences(text: str) -> list[Fence]:
    """The blocks of a page in their order, also those in lists, tabs and admonitions."""
    found = []
    for match in _FENCE.finditer(text):
        language, _, attributes = match["info"].strip().partition(" ")
        body = textwrap.dedent(match["body"])
        title = _TITLE.search(attributes)
        if title is None and language == "python":
            title = _FIRST_LINE.match(body)
        line = text.count("\n", 0, match.start("body"))
        found.append(Fence(language, title[1] if title else None, body, line))
    return found


def section(text: str, heading: str) -> str:
    """The part of a page from a heading of the second level to the next one, at its own lines."""
    pattern = rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)"
    match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    if match is None:
        raise LookupError(f"the page has no part called {heading!r}")
    return text.count("\n", 0, match.start(1)) * "\n" + match[1]


def pages(folder: Path) -> list[Path]:
    """The pages of a site that hold blocks."""
    return [path for path in sorted(folder.rglob("*.md")) if fences(path.read_text("utf-8"))]
