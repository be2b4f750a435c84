"""Makes many keys of a CSV file, and writes their tokens once: all of it behind ``create --from``.

Knows the collection of keys and Rich. No error here repeats what the file holds: it may be a
secret.
"""

import csv
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer

from keylatch import cli_output as output
from keylatch._native import SecretRing, mint
from keylatch.cli_keys import run
from keylatch.cli_options import duration, json_object, moment
from keylatch.cli_progress import bar
from keylatch.errors import KeyRequestError
from keylatch.keys import APIKeys
from keylatch.records import KeyRequest, NewKey

STANDARD_INPUT: Final = "-"
# Tokens that are written at once; of those the last of which could not be written all are lost.
_AT_ONCE: Final = 500


@functools.cache
def _prefix(text: str) -> str:
    mint(text, SecretRing(SecretRing.generate()))  # refuses what is none
    return text


_COLUMNS: Final[dict[str, Callable[[str], Any]]] = {
    "name": str,
    "owner": str,
    "scopes": str.split,
    "expires_in": duration,
    "expires_at": moment,
    "metadata": json_object,
    "prefix": _prefix,
}


@dataclass(frozen=True)
class Requests:
    """What a file asks for.

    Attributes:
        keys: The keys.
        lines: For each of them the line that it begins in, counted from 1.
    """

    keys: Sequence[KeyRequest]
    lines: Sequence[int]

    @property
    def prefixes(self) -> set[str]:
        """Those that the file names."""
        return {key.prefix for key in self.keys if key.prefix is not None}


def read(source: str) -> Requests:
    """Reads the whole of a CSV file, or of standard input.

    Raises:
        ValueError: It is none, or a line asks for what is no key; the text names the line.
    """
    lines = _lines(_text(source))
    columns = _header(next(lines, (1, []))[1])
    keys, numbers = [], []
    for number, fields in lines:
        if len(fields) != len(columns):
            raise ValueError(f"line {number} has {len(fields)} fields, the header {len(columns)}")
        keys.append(_request(number, dict(zip(columns, fields, strict=True))))
        numbers.append(number)
    if not keys:
        raise ValueError("the CSV file has no line behind its header: write one for each key")
    return Requests(keys, numbers)


def _text(source: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()
    except (OSError, ValueError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is none"
        raise ValueError(f"the CSV file cannot be read: {reason}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {number} is not UTF-8: save the CSV file as UTF-8") from None


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that hold something, with their numbers; a field in quotes may go over several."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        for fields in reader:
            if fields:
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {number} is not CSV: {error}") from None


def _header(columns: list[str]) -> list[str]:
    known = ", ".join(_COLUMNS)
    for place, column in enumerate(columns, 1):
        if column not in _COLUMNS:
            raise ValueError(
                f"column {place} of the header is none of {known}: the first line must name the "
                "columns, with commas between them"
            )
        if column in columns[: place - 1]:
            raise ValueError(f"the header has the column {column} twice")
    if "name" not in columns:
        raise ValueError(f"the header has no column name; there may be {known}")
    return columns


def _request(number: int, fields: dict[str, str]) -> KeyRequest:
    values: dict[str, Any] = {"name": fields["name"]}
    for column, text in fields.items():
        try:
            if text:
                values[column] = _COLUMNS[column](text)
        except typer.BadParameter as error:
            raise ValueError(f"line {number}, {column}: {error.message}") from None
        except ValueError as error:
            raise ValueError(f"line {number}, {column}: {error}") from None
    return KeyRequest(**values)


def create(
    keys: APIKeys, requests: Requests, *, path: Path | None, actor: str | None, as_json: bool
) -> None:
    """Makes the keys, and writes their tokens to a new file, or to standard output.

    Raises:
        ValueError: A line asks for what is no key, or the file is there already.
        OutputError: The file cannot be made; or tokens could not be written, and are lost.
        UnavailableError: The database failed.
    """
    with _sink(path) as write:
        made = run(keys, lambda: _made(keys, requests, actor))
        _deliver(made, write, _json_lines if as_json else _csv_lines)
    if not as_json:
        where = "" if path is None else ", with their tokens in the file and nowhere else"
        output.say(f"{len(made)} keys were made{where}")


async def _made(keys: APIKeys, requests: Requests, actor: str | None) -> Sequence[NewKey]:
    with bar("making keys", len(requests.keys)) as progress:
        try:
            return await keys.create_many(requests.keys, actor=actor, progress=progress)
        except KeyRequestError as error:
            reason = f"line {requests.lines[error.index]}: {error.reason}"
    raise ValueError(reason)


Write = Callable[[str], None]


@contextmanager
def _sink(path: Path | None) -> Iterator[Write]:
    """Where tokens go, made before there are any; gone again if none came to be."""
    if path is None:
        yield output.write
        return
    try:
        # Not one that is there: it may be readable by others, or be needed.
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError("the output file is there already: name another one") from None
    except (OSError, ValueError) as error:
        raise output.OutputError(f"the output file cannot be made: {_reason(error)}") from None

    def write(text: str) -> None:
        rest = text.encode()
        try:
            while rest:
                rest = rest[os.write(number, rest) :]
            os.fsync(number)
        except OSError as error:
            reason = f"the output file could not be written: {_reason(error)}"
            raise output.OutputError(reason) from None

    try:
        yield write
    finally:
        if os.fstat(number).st_size == 0:
            path.unlink(missing_ok=True)
        os.close(number)


def _deliver(
    made: Sequence[NewKey], write: Write, lines: Callable[[Sequence[NewKey]], Iterator[str]]
) -> None:
    """Writes the tokens. Of those that get lost it tells the keys, which are there."""
    done = 0
    try:
        for text in lines(made):
            write(text)
            done += _AT_ONCE
    except (output.OutputError, KeyboardInterrupt) as error:
        lost = made[done:]
        reason = str(error) or "stopped"
    else:
        return
    with suppress(OSError, AttributeError):
        sys.stderr.write("".join(f"{new.key.id}\n" for new in lost))
    raise output.OutputError(
        f"{reason}; {len(made)} keys were made, and the tokens of {len(lost)} are lost: revoke the "
        "keys whose ids stand above, and make others"
    )


def _csv_lines(made: Sequence[NewKey]) -> Iterator[str]:
    for start in range(0, len(made), _AT_ONCE):
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        if start == 0:
            rows.writerow(("id", "name", "owner", "token"))
        for new in made[start : start + _AT_ONCE]:
            rows.writerow((new.key.id, new.key.name, new.key.owner, new.token))
        yield text.getvalue()


def _json_lines(made: Sequence[NewKey]) -> Iterator[str]:
    now = datetime.now(UTC)
    for start in range(0, len(made), _AT_ONCE):
        yield "".join(
            output.json_line({"token": new.token, "key": output.key_document(new.key, now)})
            for new in made[start : start + _AT_ONCE]
        )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "its name cannot be one"
