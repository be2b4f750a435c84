"""Finds tokens in the history of git repositories: in every object, whatever still refers to it.

Knows what to ask ``git`` for, and the native search; no keys and no output.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from keylatch._native import Sighting, TokenFinder
from keylatch.git import SHA1, SHA256, Copies, Environment, isolated, running
from keylatch.origins import Origin, first_commits
from keylatch.repositories import HistoryError, Repository, reason

_AT_ONCE: Final = 1 << 20
# More would be started for less than they read in the time that takes.
_LEAST_SHARE: Final = 1 << 24
# Each may keep some 100 MB of what others are made of.
_MOST_AT_WORK: Final = 8
# In bytes, beside its content.
_COST_OF_AN_OBJECT: Final = 512
# In bytes, for each at work: two objects of half a GB, beyond which git keeps them whole.
_MEMORY: Final = 1 << 31
# To tell where objects came from: in seconds, and times what reading them has taken.
_LEAST_TIME: Final = 30.0
_TIMES: Final = 10
_ALL: Final = ("--batch-all-objects", "--unordered", "--buffer")

# Is told how many objects and bytes were read.
Progress = Callable[[int, int], None]


_NOWHERE: Final = Origin(0, None, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in an object."""

    sighting: Sighting
    object: str
    origin: Origin


def search(
    repository: Repository,
    stores: Sequence[Path],
    copied: Copies,
    finder: Callable[[], TokenFinder],
    progress: Progress,
) -> tuple[list[Seen], str | None]:
    """Looks at every object of a repository.

    A token that stands in several versions of a file is told once, with the first commit that has
    it there.

    Args:
        repository: The repository.
        stores: Those of its stores to look at; the others only tell of commits.
        copied: Makes of a store what git may see of it.
        finder: Makes what finds tokens, for each core.
        progress: Is told how far it is.

    Returns:
        What was found, and why something could not be read, if so.
    """
    git = shutil.which("git")
    if git is None:
        return [], (
            "git is not installed, without which no history can be read: install it, or add "
            "--no-history"
        )
    stored, visible = False, {}
    try:
        for store in repository.stores:
            visible[store], found = copied(store)
            stored = stored or (found and store in stores)
    except OSError as error:
        return [], f"its objects cannot be read: {reason(error)}"
    except HistoryError as error:
        return [], str(error)
    troubles = []
    wanted = [visible[store] for store in stores]
    # Git sees the objects of one form alone. Which it is is not taken from the repository.
    for form in (SHA1, SHA256):
        with isolated(repository, form, visible.values(), wanted) as environments:
            read, seen, trouble = _read(git, *environments, finder, progress)
        if read:
            return _first(seen), trouble
        troubles += [] if trouble is None else [trouble]
    if stored and not troubles:
        troubles = ["git sees none of its objects"]
    return [], troubles[0] if troubles else None


class _Reached:
    """How far all shares are, and whether to go on."""

    def __init__(self, progress: Progress) -> None:
        self._stopped = False
        self._ends: list[Callable[[], None]] = []
        self._progress = progress
        self._lock = threading.Lock()
        self._objects = self._bytes = 0

    def stop(self) -> None:
        """Ends all shares."""
        with self._lock:
            self._stopped = True
            for end in self._ends:
                end()

    def started(self, end: Callable[[], None]) -> None:
        """Is told how to end a share that waits for git."""
        with self._lock:
            if self._stopped:
                raise HistoryError("it was stopped")
            self._ends.append(end)

    def note(self, objects: int, size: int) -> None:
        """Adds to it."""
        with self._lock:
            if self._stopped:
                raise HistoryError("it was stopped")
            self._objects, self._bytes = self._objects + objects, self._bytes + size
            self._progress(self._objects, self._bytes)


@dataclass(slots=True)
class _Share:
    """A part of the objects, by their names, and what came of it."""

    names: IO[bytes]
    read: int = 0
    damaged: int = 0
    found: list[tuple[str, str, Sighting]] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    trouble: str | None = None

    def look(
        self, git: str, environment: Environment, finder: TokenFinder, reached: _Reached
    ) -> None:
        """Looks at each of them."""
        try:
            for name, kind, sightings in self._objects(git, environment, finder, reached):
                self.read += 1
                if kind == "commit":
                    self.commits.append(name)
                self.found += [(name, kind, sighting) for sighting in sightings]
        except HistoryError as error:
            self.trouble = str(error)

    def _objects(
        self, git: str, environment: Environment, finder: TokenFinder, reached: _Reached
    ) -> Iterator[tuple[str, str, list[Sighting]]]:
        """Every object: its name, its kind, and what stands in it."""
        objects = size = 0
        command = [git, "cat-file", "--batch", "--buffer"]
        try:
            with running(command, environment, self.names, _MEMORY) as at_work:
                reached.started(at_work.end)
                output = at_work.output
                while header := output.readline():
                    name, kind, length = _header(header)
                    if length is None:
                        self.damaged += 1
                        continue
                    sightings: list[Sighting] = []
                    while length:
                        piece = output.read(min(length, _AT_ONCE))
                        if not piece:
                            raise HistoryError("git has ended too early")
                        length, size = length - len(piece), size + len(piece)
                        sightings += finder.feed(piece)
                        if size >= _AT_ONCE:
                            reached.note(objects, size)
                            objects = size = 0
                    output.read(1)
                    sightings += finder.end()
                    objects += 1
                    yield name, kind, sightings
        finally:
            reached.note(objects, size)


def _header(line: bytes) -> tuple[str, str, int | None]:
    """The name, the kind and the size of an object; None of one that git cannot read."""
    name, _, about = line.decode("ascii", "replace").strip().partition(" ")
    kind, _, size = about.partition(" ")
    return name, kind, int(size) if size.isdigit() else None


def _read(
    git: str,
    wanted: Environment,
    everything: Environment,
    finder: Callable[[], TokenFinder],
    progress: Progress,
) -> tuple[int, list[Seen], str | None]:
    """Looks at every object that git sees: how many, what was found, and what was amiss."""
    reached, began = _Reached(progress), time.monotonic()
    with _shares(git, wanted) as (shares, amiss), ThreadPoolExecutor(len(shares)) as pool:
        try:
            at_work = [pool.submit(share.look, git, wanted, finder(), reached) for share in shares]
            for each in at_work:
                each.result()
        except BaseException:
            reached.stop()
            raise
    took = time.monotonic() - began
    troubles = [amiss, *(share.trouble for share in shares)]
    if damaged := sum(share.damaged for share in shares):
        troubles.append(f"{damaged} of its objects are damaged or missing")
    found = [each for share in shares for each in share.found]
    blobs = {name for name, kind, _ in found if kind == "blob"}
    commits = [name for share in shares for name in share.commits]
    origins: dict[str, Origin] = {}
    if blobs:
        most = _LEAST_TIME + _TIMES * took
        origins, trouble = first_commits(git, everything, commits, blobs, most)
        troubles.append(trouble)
    own = {name: Origin(0, name, None) for name, kind, _ in found if kind == "commit"}
    seen = [
        Seen(sighting, name, own.get(name) or origins.get(name, _NOWHERE))
        for name, _, sighting in found
    ]
    return sum(share.read for share in shares), seen, next(filter(None, troubles), None)


@contextmanager
def _shares(git: str, environment: Environment) -> Iterator[tuple[list[_Share], str | None]]:
    """All objects, in shares of about as many bytes, and what was amiss.

    They are in git's order, in which those stand together that are made of one another.
    """
    with ExitStack() as stack:
        listed = stack.enter_context(tempfile.TemporaryFile())
        whole, trouble = 0, None
        command = [git, "cat-file", "--batch-check=%(objectname) %(objectsize)", *_ALL]
        try:
            with running(command, environment) as at_work:
                for line in at_work.output:
                    listed.write(line)
                    whole += _cost(line)
        except HistoryError as error:
            trouble = str(error)
        count = min(os.cpu_count() or 1, _MOST_AT_WORK, 1 + whole // _LEAST_SHARE)
        shares = [_Share(stack.enter_context(tempfile.TemporaryFile())) for _ in range(count)]
        listed.seek(0)
        before = 0
        for line in listed:
            shares[before * count // whole].names.write(line.split()[0] + b"\n")
            before += _cost(line)
        for share in shares:
            share.names.seek(0)
        yield shares, trouble


def _cost(line: bytes) -> int:
    size = line.split()[-1]
    return _COST_OF_AN_OBJECT + (int(size) if size.isdigit() else 0)


def _first(seen: Iterable[Seen]) -> list[Seen]:
    first: dict[tuple[str, str], Seen] = {}
    for each in sorted(seen, key=lambda each: (each.origin.at, each.object, each.sighting.offset)):
        place = each.origin.path or each.object
        first.setdefault((each.sighting.fingerprint, place), each)
    return list(first.values())
