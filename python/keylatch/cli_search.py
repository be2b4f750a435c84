"""Searches what ``keylatch scan`` was told to, and keeps what came of it.

Knows the search and shows how far it is; no keys, and not how findings are written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from keylatch import history
from keylatch._native import TokenFinder, mask, scan_files
from keylatch.cli_output import printable
from keylatch.cli_progress import reading
from keylatch.findings import Finding
from keylatch.git import Copies, copies
from keylatch.repositories import HistoryError, Repository

STANDARD_INPUT: Final = "-"
_AT_ONCE: Final = 1 << 20


@dataclass
class Search:
    """What is looked for, and what came of it so far."""

    prefixes: Sequence[str]
    look_alikes: bool = field(kw_only=True)
    found: list[Finding] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    paths: Sequence[str] = ()
    repositories: Sequence[str] = ()
    files_read: int = 0
    bytes_read: int = 0
    objects_read: int = 0

    def _finder(self) -> TokenFinder:
        return TokenFinder(prefixes=list(self.prefixes), look_alikes=self.look_alikes)

    def standard_input(self, paths: Sequence[str]) -> None:
        """Looks at standard input, if it is named. ``ValueError`` for what is no prefix."""
        finder = self._finder()
        if STANDARD_INPUT not in paths or sys.stdin is None:
            return
        while piece := sys.stdin.buffer.read(_AT_ONCE):
            self.bytes_read += len(piece)
            self._note(finder, piece)
        self._note(finder, None)

    def _note(self, finder: TokenFinder, piece: bytes | None) -> None:
        sightings = finder.end() if piece is None else finder.feed(piece)
        self.found += [Finding.of(sighting, STANDARD_INPUT) for sighting in sightings]

    def files(self, paths: Sequence[str]) -> None:
        """Looks at files and directories."""
        if not paths:
            return
        self.paths = paths
        with reading("reading files") as progress:
            seen = scan_files(
                list(paths),
                prefixes=list(self.prefixes),
                look_alikes=self.look_alikes,
                progress=progress,
            )
        self.found += [Finding.of(sighting, path) for path, sighting in seen.found]
        for path, reason in seen.unread:
            self._leave(path, reason)
        self.repositories = seen.repositories
        self.files_read += seen.files
        self.bytes_read += seen.bytes

    def histories(self) -> None:
        """Looks at the repositories that were among them, and at each object once."""
        repositories = []
        for path in self.repositories:
            try:
                repositories.append(Repository.at(path, self.paths))
            except HistoryError as error:
                self._leave(path, str(error))
        own = {repository.stores[0] for repository in repositories}
        known: set[Path] = set()
        with copies() as copied, reading("reading history") as progress:
            for repository in repositories:
                for trouble in repository.troubles:
                    self._leave(repository.path, trouble)
                first, *borrowed = repository.stores
                stores = [first, *(store for store in borrowed if store not in own)]
                stores = [store for store in stores if store not in known]
                known.update(stores)
                if stores:
                    self._history(repository, stores, copied, progress)

    def _history(
        self,
        repository: Repository,
        stores: Sequence[Path],
        copied: Copies,
        progress: history.Progress,
    ) -> None:
        counts = [0, 0]

        def reached(objects: int, size: int) -> None:
            counts[:] = objects, size
            progress(self.objects_read + objects, self.bytes_read + size)

        seen, trouble = history.search(repository, stores, copied, self._finder, reached)
        self.objects_read, self.bytes_read = (
            self.objects_read + counts[0],
            self.bytes_read + counts[1],
        )
        self.found += [
            Finding.of(
                each.sighting,
                each.origin.path,
                repository=repository.path,
                commit=each.origin.commit,
                object=each.object,
            )
            for each in seen
        ]
        if trouble is not None:
            self._leave(repository.path, trouble)

    def _leave(self, path: str, reason: str) -> None:
        self.unread.append((printable(mask(path)), printable(mask(reason))))
