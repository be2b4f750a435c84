"""What the command line writes: answers on standard output, everything else on standard error.

Knows records and Rich. No text from a key reaches the terminal as markup or as an escape
sequence.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from keylatch.errors import KeylatchError
from keylatch.records import APIKey, KeyEvent, NewKey

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Narrower than this, a key takes a line for each of its values instead of one for all.
_TABLE_WIDTH: Final = 100
# Not on a terminal nothing wraps at its edge, and programs such as grep want a key on one line.
_PIPE_WIDTH: Final = 100_000
_STATUS_STYLES: Final = {
    "active": "green",
    "expired": "yellow",
    "revoked": "red",
    "allowed": "yellow",
    "open": "red",
}
# In seconds; the first that fits twice.
_SPANS: Final = (("days", 86_400), ("hours", 3600), ("minutes", 60))


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
        ("prefix", key.prefix or "none, since its token was imported"),
        ("status", key.status(now)),
        ("scopes", " ".join(sorted(key.scopes))),
        ("metadata", json.dumps(key.metadata) if key.metadata else None),
        ("created", _moment(key.created_at)),
        ("expires", _when(key.expires_at, now) or "never"),
        ("revoked", _when(key.revoked_at, now)),
        ("successor", key.successor),
        ("last used", _when(key.last_used_at, now)),
        ("uses", str(key.use_count) if key.use_count else None),
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


def token(new: NewKey, *, as_json: bool) -> None:
    """Writes a new token, and its key beside it.

    Raises:
        OutputError: It could not be written; the text says what to do about its key.
    """
    now = datetime.now(UTC)
    try:
        if as_json:
            document({"token": new.token, "key": key_document(new.key, now)})
            return
        write(f"{new.token}\n")
    except OutputError:
        raise OutputError(
            f"the token could not be written and is lost: revoke {new.key.id} and make another"
        ) from None
    note_rows(key_rows(new.key, now))
    if sys.stdout.isatty():
        say("the token is not shown again: copy it now")


def key(one: APIKey, *, as_json: bool) -> None:
    """Writes a key."""
    now = datetime.now(UTC)
    if as_json:
        document(key_document(one, now))
    else:
        rows(key_rows(one, now))


def keys(found: Sequence[APIKey], now: datetime, *, used: bool = False) -> None:
    """Writes keys for people: a table, or one below the other where that would not fit.

    The table ends with when each expires, or with when it was last used.
    """
    last = "last_used_at" if used else "expires_at"
    fixed = ("status", "created (UTC)", "last used (UTC)" if used else "expires (UTC)")
    lines = [
        (
            *(key.id, key.name, key.owner or "", " ".join(sorted(key.scopes)), key.status(now)),
            *(_moment(at).removesuffix(" UTC") for at in (key.created_at, getattr(key, last))),
        )
        for key in found
    ]
    _listed(
        [key_rows(key, now) for key in found],
        lambda: _table(("id", "name", "owner", "scopes", *fixed), {"id", *fixed}, lines),
    )


def events(found: Sequence[KeyEvent]) -> None:
    """Writes an audit trail for people, likewise."""
    lines = [
        (f"{event.at:%Y-%m-%d %H:%M:%S}", event.action, event.actor or "", _details(event))
        for event in found
    ]
    listed(("at (UTC)", "action", "actor", "details"), {"at (UTC)", "action"}, lines)


def listed(labels: Sequence[str], fixed: Container[str], lines: Sequence[Sequence[str]]) -> None:
    """Writes lines for people, likewise; what is empty is left out of what stands below."""
    _listed(
        [[pair for pair in zip(labels, line, strict=True) if pair[1]] for line in lines],
        lambda: _table(labels, fixed, lines),
    )


def routes(found: Sequence[Mapping[str, Any]]) -> None:
    """Writes what routes ask for, likewise, from the fields of ``RouteProtection``."""
    labels = ("methods", "path", "asks for", "scopes", "note")
    lines = [
        (
            " ".join(row["methods"]),
            f"{row['host']}{row['path']}",
            ("allowed" if row["allowed"] else "open") if row["open"] else ", ".join(row["schemes"]),
            " ".join(row["scopes"]),
            row["note"],
        )
        for row in found
    ]
    listed(labels, {"methods"}, lines)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal that something goes on, and how far it is; elsewhere nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    with _console(sys.stderr).status(what) as status:
        yield lambda count: status.update(f"{what}: {count:,}")


def _listed(
    blocks: Iterable[Iterable[tuple[str, str]]], table: Callable[[], "RenderableType"]
) -> None:
    console = _console(sys.stdout)
    if console.width < _TABLE_WIDTH:
        write("\n".join(_render(console, _grid(block)) for block in blocks))
    else:
        write(_render(console, table()))


def _table(
    headers: Iterable[str], fixed: Container[str], lines: Iterable[Iterable[str]]
) -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=header in fixed, overflow="fold")
    for line in lines:
        table.add_row(*map(_cell, line))
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


def _when(at: datetime | None, now: datetime) -> str:
    """The same, and how far from now that is."""
    if at is None:
        return ""
    seconds = abs((at - now).total_seconds())
    fitting = (f"{round(seconds / span)} {unit}" for unit, span in _SPANS if seconds >= 2 * span)
    distance = next(fitting, "a moment")
    return f"{_moment(at)} ({f'in {distance}' if at > now else f'{distance} ago'})"


def _details(event: KeyEvent) -> str:
    """What an event changed, or what it was about."""
    return ", ".join(
        f"{name} {_plain(value)}"
        for name, value in event.details.items()
        if value not in (None, [])
    )


def _plain(value: object) -> str:
    match value:
        case {"from": old, "to": new, **others} if not others:
            return f"from {_plain(old)} to {_plain(new)}"
        case [*names]:
            return " ".join(map(_plain, names)) or "none"
        case None:
            return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
