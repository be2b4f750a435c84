"""Tells which commits brought objects into a repository, and where they put them.

Knows what to ask ``git`` for; not what is in the objects.
"""

import os
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from keylatch.git import Environment, Running, running
from keylatch.repositories import HistoryError

_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object came from.

    Attributes:
        at: When the first commit was made that has it.
        commit: That commit; None if none has it.
        path: Where it has it; None likewise, and for commits and tags themselves.
    """

    at: int
    commit: str | None
    path: str | None


def first_commits(
    git: str,
    environment: Environment,
    commits: Iterable[str],
    wanted: Collection[str],
    seconds: float,
) -> tuple[dict[str, Origin], str | None]:
    """The first commits that have these objects.

    A few directories can stand in each other so that they have more paths than anybody can count.

    Args:
        git: The program.
        environment: In which it runs.
        commits: Where to look.
        wanted: The objects.
        seconds: How long git may take.

    Returns:
        What is known, and why it is not all, if so.
    """
    # Of a merge, what none of its parents has.
    options = ["-r", "-c", "--root", "--raw", "-z", "--no-renames", "--no-abbrev", "--no-ext-diff"]
    command = [git, "diff-tree", "--stdin", *options, "--pretty=format:%x01%H %ct"]
    origins: dict[str, Origin] = {}
    ended = threading.Event()
    try:
        with (
            tempfile.TemporaryFile() as given,
            running(command, environment, _names(given, commits)) as at_work,
            _ending(at_work, seconds, ended),
        ):
            for blob, origin in _told(at_work.output):
                if blob in wanted and (blob not in origins or origin.at < origins[blob].at):
                    origins[blob] = origin
    except HistoryError as error:
        # Where a parent is missing git stops as well: what is known by then is told.
        if ended.is_set() or "out of memory" in str(error).lower():
            return origins, "not all commits were looked at: they have too many files"
    return origins, None


@contextmanager
def _ending(at_work: Running, seconds: float, ended: threading.Event) -> Iterator[None]:
    """Ends a command that takes too long."""

    def end() -> None:
        ended.set()
        at_work.end()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _told(output: IO[bytes]) -> Iterator[tuple[str, Origin]]:
    """What each commit brought."""
    commit, at, blob = "", 0, ""
    for field in _fields(output):
        if blob:
            yield blob, Origin(at, commit, os.fsdecode(field))
            blob = ""
            continue
        header, _, raw = field.rpartition(b"\n")
        if field.startswith(b"\x01"):
            commit, _, moment = (header or field)[1:].decode("ascii", "replace").partition(" ")
            at = int(moment) if moment.isdigit() else 0
        if raw.startswith(b":"):
            # A colon for each parent, its mode and its object, and then those of the commit.
            blob = raw.split(b" ")[2 * raw.count(b":") + 1].decode("ascii", "replace")


def _names(file: IO[bytes], names: Iterable[str]) -> IO[bytes]:
    file.writelines(f"{name}\n".encode() for name in names)
    file.seek(0)
    return file


def _fields(output: IO[bytes]) -> Iterator[bytes]:
    """What ends with a zero byte; git may be ended in the midst of more."""
    rest = b""
    while piece := output.read(_AT_ONCE):
        *fields, rest = (rest + piece).split(b"\0")
        yield from fields
