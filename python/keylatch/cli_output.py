"""What the command line writes: answers on standard output, everything else on standard error.

Knows records and Rich. No text from a key reaches the terminal as markup or as an escape
sequence.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from keylatch.errors import KeylatchError
from keylatch.records import APIKey

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Narrower than this, a key takes a line for each of its values instead of one for all.
_TABLE_WIDTH: Final = 100
# Not on a terminal nothing wraps at its edge, and programs such as grep want a key on one line.
_PIPE_WIDTH: Final = 200
_STATUS_STYLES: Final = {"active": "green", "expired": "yellow", "revoked": "red"}


class OutputError(KeylatchError):
    """The answer could not be written."""


class ReaderGoneError(OutputError):
    """What reads the answer has ended, as ``head`` does after a line."""


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would obey instead of show."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def say(text: str) -> None:
    """Writes one line to standard error."""
    with contextlib.suppress(OSError, AttributeError):  # closed, or never there: nobody to tell
        sys.stderr.write(f"keylatch: {printable(' '.join(text.split()))}\n")
        sys.stderr.flush()


def write(text: str) -> None:
    """Writes to standard output, at once, so that a failure shows while it can still be told."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError("the answer's reader has ended") from None
        raise OutputError(f"the answer could not be written: {error.strerror}") from None


def document(value: object) -> None:
    """Writes one JSON document, in ASCII: it can neither fail to encode nor steer a terminal."""
    write(json.dumps(value, indent=2, default=_json_value) + "\n")


def json_line(value: object) -> str:
    """One JSON document on a line of its own, likewise in ASCII."""
    return json.dumps(value, default=_json_value) + "\n"


def key_document(key: APIKey, now: datetime) -> dict[str, Any]:
    """A key for programs: its fields, and its status at the moment."""
    return asdict(key) | {"status": key.status(now)}


def key_rows(key: APIKey, now: datetime) -> list[tuple[str, str]]:
    """A key for people, as labels and values; what it does not have is left out."""
    rows = [
        ("id", key.id),
        ("name", key.name),
        ("owner", key.owner),
        ("prefix", key.prefix),
        ("status", key.status(now)),
        ("scopes", " ".join(sorted(key.scopes))),
        ("metadata", json.dumps(key.metadata) if key.metadata else None),
        ("created", _moment(key.created_at)),
        ("expires", _moment(key.expires_at)),
        ("revoked", _moment(key.revoked_at)),
    ]
    return [(label, value) for label, value in rows if value]


def rows(lines: Iterable[tuple[str, str]]) -> None:
    """Writes labels and values for people."""
    write(_render(_console(sys.stdout), _grid(lines)))


def note_rows(lines: Iterable[tuple[str, str]]) -> None:
    """The same beside an answer, on standard error."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(_render(_console(sys.stderr), _grid(lines)))
        sys.stderr.flush()


def keys(found: Sequence[APIKey], now: datetime) -> None:
    """Writes keys for people: a table, or one below the other where that would not fit."""
    console = _console(sys.stdout)
    if console.width < _TABLE_WIDTH:
        write("\n".join(_render(console, _grid(key_rows(key, now))) for key in found))
    else:
        write(_render(console, _table(found, now)))


def _table(found: Sequence[APIKey], now: datetime) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    for header in ("name", "owner", "scopes"):
        table.add_column(header, overflow="fold")
    for header in ("status", "created (UTC)", "expires (UTC)"):
        table.add_column(header, no_wrap=True)
    for key in found:
        table.add_row(
            *(_cell(value) for value in (key.id, key.name, key.owner or "")),
            _cell(" ".join(sorted(key.scopes))),
            _cell(key.status(now)),
            *(_cell(_moment(at).removesuffix(" UTC")) for at in (key.created_at, key.expires_at)),
        )
    return table


def _grid(lines: Iterable[tuple[str, str]]) -> "RenderableType":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for label, value in lines:
        grid.add_row(label, _cell(value))
    return grid


def _cell(value: str) -> "RenderableType":
    from rich.text import Text

    # Text, not str: Rich reads no markup in it.
    return Text(printable(value), style=_STATUS_STYLES.get(value, ""))


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def _render(console: "Console", renderable: "RenderableType") -> str:
    # Not printed by Rich, which ends the process with 1 where the reader has gone.
    with console.capture() as captured:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
