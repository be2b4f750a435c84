"""Tells where the objects of a git repository are, and that git can be let at them.

Knows the layout of git's directories, and runs nothing. A repository may be hostile: git follows
links, waits for pipes and goes wherever a file of the repository's sends it, so that all of that is
looked at before.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Of a file of git's that is small, unless somebody means ill.
_MOST: Final = 1 << 16
# Each line costs a walk through the file system, for every repository that it is read for.
_MOST_BORROWED: Final = 100
_ALTERNATE: Final = re.compile(rb"^[^#\n].*$", re.MULTILINE)
_LOOSE: Final = re.compile(r"[0-9a-f]{2}")
# A shallow clone has a line for each of its first commits.
_MOST_SHALLOW: Final = 1 << 24


class HistoryError(Exception):
    """A history, or a part of it, could not be read. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Where the objects of a repository are.

    Attributes:
        path: Where it was found.
        root: What the paths in its commits begin at.
        directory: Its git directory, of all work trees.
        stores: Directories of objects: its own, and those that it borrows from.
        troubles: Why others are left out.
    """

    path: str
    root: str
    directory: Path
    stores: tuple[Path, ...]
    troubles: tuple[str, ...]

    @classmethod
    def at(cls, path: str, within: Sequence[str]) -> "Repository":
        """What a directory with objects is, or a ``.git`` file that tells of one.

        Args:
            path: The directory or file.
            within: What was to be looked at. Nothing else is, but the repository of a work tree
                that knows of this one.

        Raises:
            HistoryError: The file tells of none, or of one elsewhere.
        """
        found = Path(path)
        try:
            allowed = [_real(Path(each)) for each in within]
            directory = found
            if not found.is_dir():
                directory = _real(_told_of(found, b"gitdir:"))
                if os.path.lexists(directory / "commondir"):
                    common = _real(_told_of(directory / "commondir"))
                    if _is_work_tree(found, directory, common):
                        allowed.append(common)
                    directory = common
            stores, troubles = _stores(directory, allowed)
        except (OSError, ValueError) as error:
            raise HistoryError(f"it cannot be read: {reason(error)}") from None
        root = found.parent if found.name == ".git" else found
        return cls(path=path, root=str(root), directory=directory, stores=stores, troubles=troubles)

    def shallow(self) -> bytes:
        """Which commits have parents that are not there."""
        try:
            return start_of(self.directory / "shallow", _MOST_SHALLOW)
        except (HistoryError, OSError):
            return b""


def start_of(file: Path, most: int = _MOST) -> bytes:
    """Reads a file, which must be one: no link is followed, and no pipe waited for.

    Raises:
        HistoryError: It is none.
    """
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise HistoryError(_refused(file.name))
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as content:
        return content.read(most)


def reason(error: Exception) -> str:
    """What the operating system says."""
    return (error.strerror if isinstance(error, OSError) else None) or "its name cannot be one"


def holdings(store: Path) -> tuple[list[Path], bool]:
    """The directories in which git looks for objects, and whether there are any.

    Raises:
        HistoryError: There is what git would follow, or wait for without an end.
    """
    directories, found = [], False
    for entry in _entries(store):
        if entry.name != "pack" and not _LOOSE.fullmatch(entry.name):
            continue
        if not entry.is_dir(follow_symlinks=False):
            raise HistoryError(_refused(entry.name))
        directories.append(Path(entry.path))
        inner = list(_entries(Path(entry.path)))
        # Of what git keeps beside packs, one has a directory.
        deeper = [each for each in inner if each.is_dir(follow_symlinks=False)]
        for each in [*inner, *(file for place in deeper for file in _entries(Path(place.path)))]:
            if each.is_file(follow_symlinks=False):
                found = found or entry.name != "pack" or each.name.endswith(".pack")
            elif not each.is_dir(follow_symlinks=False):
                raise HistoryError(_refused(os.path.relpath(each.path, store)))
    return directories, found


def _entries(directory: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(directory) as entries:
        yield from entries


def _refused(name: str) -> str:
    return (
        f"{name} is a link, a pipe or the like, and git would open it: "
        "put a file or a directory in its place"
    )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _told_of(file: Path, label: bytes = b"") -> Path:
    text = start_of(file)
    if not text.startswith(label):
        raise HistoryError("it tells of no repository")
    return file.parent / os.fsdecode(text.removeprefix(label).strip())


def _is_work_tree(file: Path, directory: Path, common: Path) -> bool:
    """Whether a repository says so, too: nobody else can write into it."""
    if directory.parent != common / "worktrees":
        return False
    with suppress(OSError, HistoryError):
        return _real(_told_of(directory / "gitdir")) == _real(file)
    return False


def _lies_in(place: Path, allowed: Sequence[Path]) -> bool:
    return any(place.is_relative_to(each) for each in allowed)


def _outside(what: str, place: Path) -> str:
    return f"{what} is outside of what is looked at: name {place} as well"


def _stores(directory: Path, allowed: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The directories of objects, own and borrowed, and what is amiss with others."""
    own = _real(directory / "objects")
    if not own.is_dir():
        raise HistoryError("the repository that it tells of is not there")
    # A link, as some work trees have it, leads to another repository.
    if not _lies_in(own, allowed):
        raise HistoryError(_outside("the directory of its objects", own))
    stores, known, troubles = [own], {own}, []
    for number, place in enumerate(_borrowed(stores)):  # which grow
        if number == _MOST_BORROWED:
            troubles.append(f"it borrows objects {_MOST_BORROWED} times: others are left out")
            break
        if place in known:
            continue
        known.add(place)
        if not _lies_in(place, allowed):
            troubles.append(_outside("a repository whose objects it borrows", place))
        elif not place.is_dir():
            troubles.append(f"it borrows objects of {place}, which is no directory")
        else:
            stores.append(place)
    return tuple(stores), tuple(troubles)


def _borrowed(stores: Iterable[Path]) -> Iterator[Path]:
    for store in stores:
        for line in _alternates(store):
            yield _real(store / os.fsdecode(line))


def _alternates(store: Path) -> Iterator[bytes]:
    if (store / "info").is_symlink():
        raise HistoryError(_refused("info"))
    try:
        text = start_of(store / "info" / "alternates")
    except FileNotFoundError:
        return
    if len(text) == _MOST:
        raise HistoryError("info/alternates is too long")
    for line in _ALTERNATE.finditer(text):
        yield line[0]
