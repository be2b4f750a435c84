"""Runs ``git`` so that it sees the objects that were looked at before, and nothing else.

Knows how to start it; not what is asked of it. Its configuration is ours, since that of a
repository could run programs, and so are the directories that lead it to the objects, since a
repository's could lead it elsewhere.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final

from keylatch._native import mask
from keylatch.repositories import HistoryError, Repository, holdings

SHA1: Final = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n"
SHA256: Final = f"{SHA1}[extensions]\n\tobjectformat = sha256\n"

_MOST_SAID: Final = 1 << 16
# In bytes. It has the names of all objects there, some 100 bytes each, and not the packs.
_MEMORY: Final = 1 << 32

Environment = Mapping[str, str]
# What git may see of a directory of objects, and whether there are any.
Copies = Callable[[Path], tuple[Path, bool]]


@contextmanager
def copies() -> Iterator[Copies]:
    """Copies directories of objects, by links to what is in them.

    Each once, however many repositories borrow from it.

    Raises:
        HistoryError: As ``holdings`` has it.
    """
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:

        @cache
        def copied(store: Path) -> tuple[Path, bool]:
            places, found = holdings(store)
            copy = Path(tempfile.mkdtemp(dir=directory))
            for place in places:
                (copy / place.name).symlink_to(place.absolute())
            return copy, found

        yield copied


@contextmanager
def isolated(
    repository: Repository,
    configuration: str,
    stores: Collection[Path],
    wanted: Collection[Path],
) -> Iterator[tuple[Environment, Environment]]:
    """Two environments: in one git sees the objects of the wanted stores, in the other of all.

    Args:
        repository: Whose objects they are.
        configuration: In place of its own.
        stores: Copies of its directories of objects.
        wanted: Some of them.
    """
    with tempfile.TemporaryDirectory(prefix="keylatch-") as directory:
        empty = Path(directory)
        (empty / "refs").mkdir()
        (empty / "HEAD").write_text("ref: refs/heads/none\n")
        (empty / "config").write_text(configuration)
        if shallow := repository.shallow():
            (empty / "shallow").write_bytes(shallow)
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIT_", "KEYLATCH_"))
        }
        made = []
        for name, seen in (("wanted", wanted), ("all", stores)):
            information = empty / "objects" / name / "info"
            information.mkdir(parents=True)
            alternates = "".join(f"{store}\n" for store in seen)
            (information / "alternates").write_text(alternates)
            made.append(
                ours
                | {
                    "GIT_DIR": directory,
                    "GIT_OBJECT_DIRECTORY": str(information.parent),
                    "GIT_CONFIG_GLOBAL": os.devnull,
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_NO_LAZY_FETCH": "1",
                    "GIT_NO_REPLACE_OBJECTS": "1",
                    "LC_ALL": "C",
                }
            )
        yield made[0], made[1]


@dataclass(frozen=True, slots=True)
class Running:
    """A command at work.

    Attributes:
        output: All of it must be read.
        end: Ends it, from any thread. What it has written can still be read.
    """

    output: IO[bytes]
    end: Callable[[], None]


@contextmanager
def running(
    command: list[str],
    environment: Environment,
    given: IO[bytes] | None = None,
    memory: int = _MEMORY,
) -> Iterator[Running]:
    """Runs a command.

    Args:
        command: What to run.
        environment: In which.
        given: Its standard input.
        memory: The most that it may have, in bytes, where a system can tell a process so: Linux.

    Raises:
        HistoryError: It has failed.
    """
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603 - no text of others is in the command
            command,
            env=environment,
            stdin=subprocess.DEVNULL if given is None else given,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as process:
            if process.stdout is None:
                raise HistoryError("git has no output")
            try:
                _limit(process.pid, memory)
                yield Running(process.stdout, process.kill)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            said.seek(0)
            first = said.read(_MOST_SAID).decode(errors="replace").partition("\n")[0]
            raise HistoryError(
                f"git says: {mask(first)}" if first else f"git ended with {process.returncode}"
            )


def _limit(process: int, memory: int) -> None:
    """Objects that are made of each other would have git take all that there is."""
    if sys.platform == "linux":
        import resource

        # It has ended, or has less.
        with suppress(OSError, ValueError):
            resource.prlimit(process, resource.RLIMIT_DATA, (memory, memory))
