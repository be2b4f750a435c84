"""Shows on a terminal how far a long command is. Knows Rich, and no command."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def reading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how many things and bytes were read, how fast and for how long.

    How many there are nobody knows without a walk of its own.
    """
    from rich.progress import (
        BarColumn,
        FileSizeColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[things]:,} read"),
        FileSizeColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        **_shown(),
    ) as progress:
        task = progress.add_task(what, total=None, things=0)
        yield lambda things, size: progress.update(task, completed=size, things=things)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of a total are done. Tells programs nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), **_shown()
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, completed=count)


def _shown() -> dict[str, Any]:
    from rich.console import Console

    shown = sys.stderr is not None and sys.stderr.isatty()
    return {
        "console": Console(file=sys.stderr),
        "transient": True,
        "redirect_stdout": False,
        "redirect_stderr": False,
        "disable": not shown,
    }
