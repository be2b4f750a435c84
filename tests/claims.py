"""What the tests of the README's table share: what they claim to show, and small counts.

A claim stands above the test that shows it, so that a reader sees both at once.
"""

import importlib.metadata
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa

README = Path(__file__).parent.parent / "README.md"


class Claims:
    """What the tests of a library show of it: the cells of its column, by row."""

    def __init__(self, library: str) -> None:
        self.cells: dict[str, str] = {}
        self._heading = f"{library} {importlib.metadata.version(library)}"

    def __call__(self, row: str, cell: str) -> Callable[[Any], Any]:
        """Says that the test below shows what stands in a cell."""
        assert row not in self.cells, f"{row} is shown twice"
        self.cells[row] = cell
        return lambda test: test

    def column(self) -> dict[str, str]:
        """The README's column for the installed version of the library."""
        section = README.read_text().partition("\n## Beside others\n")[2].partition("\n## ")[0]
        lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
        heading, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        place = heading.index(self._heading)
        column = {row[0]: row[place] for row in rows}
        assert len(column) == len(rows), "a row stands twice"
        return column


def bearer(*tokens: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    """A header for each token."""
    return [(b"authorization", f"{scheme} {token}".encode()) for token in tokens]


def mistyped(token: str) -> str:
    """The token with another last character."""
    return token[:-1] + ("A" if token[-1] != "A" else "B")


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What stands in a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def tables(path: Path) -> set[str]:
    """The tables in a SQLite file."""
    return {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}


def kind(statement: str) -> str:
    """Whether a statement reads or writes; the rest, such as BEGIN, is neither."""
    kinds = {"SELECT": "read", "INSERT": "write", "UPDATE": "write", "DELETE": "write"}
    return kinds.get(statement.split(maxsplit=1)[0], "")


@contextmanager
def statements() -> Iterator[Counter[str]]:
    """Counts what any engine of SQLAlchemy's is asked to read and to write meanwhile."""
    counts: Counter[str] = Counter()

    def count(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        counts[kind(statement)] += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        yield counts
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        del counts[""]


def speaks_of(package: str, word: str) -> bool:
    """Whether the word stands anywhere in the source of an installed package, in whatever case."""
    (directory,) = find_spec(package).submodule_search_locations
    files = list(Path(directory).rglob("*.py"))
    assert files
    return any(word in file.read_text().lower() for file in files)
