"""Finds tokens in the history of git repositories: in every object, whatever still refers to it.

Knows the ``git`` command and the native search; no keys and no output. A repository may be hostile:
its objects are read under a configuration of our own, since its own could run programs.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from keylatch._native import Sighting, TokenFinder, mask

_AT_ONCE: Final = 1 << 20
# Of a file of git's that is small, unless somebody means ill.
_MOST: Final = 1 << 16
_LOOSE: Final = re.compile(r"[0-9a-f]{2}")
_SHA1: Final = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n"
_SHA256: Final = f"{_SHA1}[extensions]\n\tobjectformat = sha256\n"

# Is told how many objects and bytes were read.
Progress = Callable[[int, int], None]


class HistoryError(Exception):
    """A history, or a part of it, could not be read. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Where the objects of a repository are.

    Attributes:
        path: Where it was found.
        root: What the paths in its commits begin at.
        directory: Its git directory, of all work trees.
    """

    path: str
    root: str
    directory: Path

    @classmethod
    def at(cls, path: str) -> "Repository":
        """What a directory with objects is, or a ``.git`` file that tells of one.

        Raises:
            HistoryError: The file tells of none.
        """
        directory = Path(path)
        root = directory.parent if directory.name == ".git" else directory
        try:
            if not directory.is_dir():
                directory = _linked(directory, b"gitdir:")
                if (directory / "commondir").is_file():
                    directory = _linked(directory / "commondir", b"")
            if not (directory / "objects").is_dir():
                raise HistoryError("the repository that it tells of is not there")
        except (OSError, ValueError) as error:
            raise HistoryError(f"it cannot be read: {_reason(error)}") from None
        return cls(path=path, root=str(root), directory=directory)


def _linked(file: Path, label: bytes) -> Path:
    text = _start_of(file)
    if not text.startswith(label):
        raise HistoryError("it tells of no repository")
    return file.parent / os.fsdecode(text.removeprefix(label).strip())


def _start_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_MOST)


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


_NOWHERE: Final = Origin(0, None, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in an object."""

    sighting: Sighting
    object: str
    origin: Origin


def search(
    repository: Repository, finder: TokenFinder, progress: Progress
) -> tuple[list[Seen], str | None]:
    """Looks at every object of a repository.

    A token that stands in several versions of a file is told once, with the first commit that has
    it there.

    Returns:
        What was found, and why something could not be read, if so.
    """
    git = shutil.which("git")
    if git is None:
        return [], (
            "git is not installed, without which no history can be read: install it, or add "
            "--no-history"
        )
    try:
        stored = _stores_objects(repository.directory / "objects")
    except OSError as error:
        return [], f"its objects cannot be read: {_reason(error)}"
    except HistoryError as error:
        return [], str(error)
    troubles = []
    # Git sees the objects of one form alone. Which it is is not taken from the repository.
    for form in (_SHA1, _SHA256):
        with _isolated(repository, form) as environment:
            read, seen, trouble = _read(git, environment, finder, progress)
        if read:
            return _first(seen), trouble
        troubles += [] if trouble is None else [trouble]
    if stored and not troubles:
        troubles = ["git sees none of its objects"]
    return [], troubles[0] if troubles else None


def _stores_objects(directory: Path) -> bool:
    """Whether there are objects of its own, packed or loose.

    Raises:
        HistoryError: There is what git would open, and wait for without an end.
    """
    found = False
    for place, _, names in os.walk(directory):
        holds_loose = _LOOSE.fullmatch(Path(place).name) is not None
        for name in names:
            file = Path(place, name)
            if file.is_file():
                found = found or holds_loose or file.suffix == ".pack"
            elif file.exists():
                raise HistoryError("a pipe or the like stands among its objects")
    return found


def _read(
    git: str, environment: Mapping[str, str], finder: TokenFinder, progress: Progress
) -> tuple[int, list[Seen], str | None]:
    """Looks at every object that git sees: how many, what was found, and what was amiss."""
    found: list[tuple[str, str, Sighting]] = []
    commits: list[str] = []
    read, trouble = 0, None
    try:
        for name, kind, sightings in _objects(git, environment, finder, progress):
            read += 1
            if kind == "commit":
                commits.append(name)
            found += [(name, kind, sighting) for sighting in sightings]
    except HistoryError as error:
        finder.end()  # it may have half an object
        trouble = str(error)
    wanted = {name for name, kind, _ in found if kind == "blob"}
    origins = _origins(git, environment, commits, wanted) if wanted else {}
    own = {name: Origin(0, name, None) for name, kind, _ in found if kind == "commit"}
    seen = [
        Seen(sighting, name, own.get(name) or origins.get(name, _NOWHERE))
        for name, _, sighting in found
    ]
    return read, seen, trouble


def _first(seen: Iterable[Seen]) -> list[Seen]:
    first: dict[tuple[str, str], Seen] = {}
    for each in sorted(seen, key=lambda each: (each.origin.at, each.object, each.sighting.offset)):
        place = each.origin.path or each.object
        first.setdefault((each.sighting.fingerprint, place), each)
    return list(first.values())


@contextmanager
def _isolated(repository: Repository, configuration: str) -> Iterator[dict[str, str]]:
    """An environment in which git reads these objects, and nothing that the repository says."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "KEYLATCH_"))
    }
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
        empty = Path(directory)
        for name in ("objects", "refs"):
            (empty / name).mkdir()
        (empty / "HEAD").write_text("ref: refs/heads/none\n")
        (empty / "config").write_text(configuration)
        shallow = repository.directory / "shallow"
        with suppress(OSError):
            if shallow.is_file():
                shutil.copyfile(shallow, empty / "shallow")
        yield ours | {
            "GIT_DIR": directory,
            "GIT_OBJECT_DIRECTORY": str((repository.directory / "objects").absolute()),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C",
        }


@contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], text: bytes = b""
) -> Iterator[IO[bytes]]:
    """The output of a command, all of which must be read."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(text)
        given.seek(0)
        with subprocess.Popen(  # noqa: S603 - no text of others is in the command
            command, env=environment, stdin=given, stdout=subprocess.PIPE, stderr=said
        ) as process:
            if process.stdout is None:
                raise HistoryError("git has no output")
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            said.seek(0)
            first = said.read(_MOST).decode(errors="replace").partition("\n")[0]
            raise HistoryError(f"git says: {mask(first)}")


def _objects(
    git: str, environment: Mapping[str, str], finder: TokenFinder, progress: Progress
) -> Iterator[tuple[str, str, list[Sighting]]]:
    """Every object: its name, its kind, and what stands in it."""
    options = ["--batch", "--batch-all-objects", "--unordered", "--buffer"]
    objects = read = damaged = 0
    with _running([git, "cat-file", *options], environment) as output:
        while header := output.readline():
            name, _, about = header.decode("ascii", "replace").strip().partition(" ")
            kind, _, size = about.partition(" ")
            if not size.isdigit():
                damaged += 1
                continue
            sightings: list[Sighting] = []
            left = int(size)
            while left:
                piece = output.read(min(left, _AT_ONCE))
                if not piece:
                    raise HistoryError("git has ended too early")
                left -= len(piece)
                sightings += finder.feed(piece)
            output.read(1)
            sightings += finder.end()
            objects, read = objects + 1, read + int(size)
            progress(objects, read)
            yield name, kind, sightings
    if damaged:
        raise HistoryError(f"{damaged} of its objects are damaged or missing")


def _origins(
    git: str, environment: Mapping[str, str], commits: Iterable[str], wanted: Collection[str]
) -> dict[str, Origin]:
    """The first commits that have these objects."""
    options = ["-r", "-m", "--root", "--raw", "-z", "--no-renames", "--no-abbrev", "--no-ext-diff"]
    command = [git, "diff-tree", "--stdin", *options, "--pretty=format:%x01%H %ct"]
    origins: dict[str, Origin] = {}
    text = "".join(f"{name}\n" for name in commits).encode()
    # Where a parent is missing git stops: what is known by then is told.
    with suppress(HistoryError), _running(command, environment, text) as output:
        commit, at, blob = "", 0, ""
        for field in _fields(output):
            if blob:
                origin = Origin(at, commit, os.fsdecode(field))
                if blob in wanted and (blob not in origins or at < origins[blob].at):
                    origins[blob] = origin
                blob = ""
                continue
            header, _, raw = field.rpartition(b"\n")
            if field.startswith(b"\x01"):
                commit, _, moment = (header or field)[1:].decode("ascii", "replace").partition(" ")
                at = int(moment) if moment.isdigit() else 0
            if raw.startswith(b":"):
                blob = raw.split(b" ")[3].decode("ascii", "replace")
    return origins


def _fields(output: IO[bytes]) -> Iterator[bytes]:
    """What stands between zero bytes."""
    rest = b""
    while piece := output.read(_AT_ONCE):
        *fields, rest = (rest + piece).split(b"\0")
        yield from fields
    yield rest


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "its name cannot be one"
