"""Moves the keys of the article's app over: which rows become keys, and why others do not.

What it has done it finds again in the database, so that it can be stopped anywhere and begun anew.
Knows the article's tables and the collection of keys; no command line.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from keylatch import bounds
from keylatch._native import Token
from keylatch.article import ArticleDatabase, ArticleKey
from keylatch.errors import DuplicateTokenError, UnavailableError
from keylatch.importing import TokenToImport
from keylatch.keys import APIKeys
from keylatch.records import KeyRequest

Reason = Literal["empty", "format", "duplicate", "no_user", "public_key", "user_id"]

# Has the id of the row that a key comes from.
METADATA: Final = "user_api_keys"
# How often somebody else may import the same tokens at the same time.
_MOST_RACES: Final = 10


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that became no key.

    Attributes:
        row: Its id in ``user_api_keys``.
        user_id: Whose it is.
        reason: Why, for programs.
        detail: Why, in words. Holds nothing of the secret.
    """

    row: int
    user_id: str | None
    reason: Reason
    detail: str


@dataclass(slots=True)
class Report:
    """What became of all rows.

    Attributes:
        rows: How many there were.
        imported: How many became keys.
        imported_before: How many had, in an earlier run.
        left_out: Those that did not.
    """

    rows: int = 0
    imported: int = 0
    imported_before: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


class ArticleImport:
    """One run of the import.

    Args:
        keys: A started collection with ``imported_tokens=True``.
        source: The article's database.
        scopes: What each key may do.
        actor: Who imports, for the audit trail.
    """

    def __init__(
        self,
        keys: APIKeys,
        source: ArticleDatabase,
        *,
        scopes: Iterable[str] = (),
        actor: str | None = None,
    ) -> None:
        self._keys = keys
        self._source = source
        self._scopes = bounds.scopes(scopes)
        self._actor = actor
        self._report = Report()
        # By their digests, so that no secret stays in memory.
        self._first_rows: dict[str, int] = {}
        self._owning: dict[int, str] = {}
        self._known_rows: set[tuple[int, str | None]] | None = None

    async def run(self, progress: Callable[[int], None]) -> Report:
        """Imports every row that can be, some hundreds in a transaction.

        Args:
            progress: Called with how many rows are done.

        Raises:
            UnavailableError: A database failed. What was imported stays: run it again.
        """
        async for portion in self._source.rows():
            await self._take(portion)
            self._report.rows += len(portion)
            progress(self._report.rows)
        return self._report

    @property
    def can_be_emptied(self) -> int:
        """How many rows hold a secret that has a key by now."""
        return len(self._owning)

    async def empty(self, progress: Callable[[int], None]) -> int:
        """Empties the secrets that have keys by now, and no others. Returns how many.

        Raises:
            UnavailableError: The database failed, and every secret is still there.
        """

        def chosen(key: ArticleKey) -> bool:
            digest = self._owning.get(key.row)
            if digest is None:
                return False
            token, _ = self._read(key)
            return token is not None and token.key_id == digest

        return await self._source.empty(chosen, progress)

    async def _take(self, portion: Sequence[ArticleKey]) -> None:
        tokens: list[tuple[ArticleKey, Token]] = []
        for key in portion:
            token, refusal = self._read(key)
            if token is not None:
                tokens.append((key, token))
            elif key.secret or not await self._was_emptied(key):
                self._leave_out(key, *(refusal or ("empty", "it has no secret")))
            else:
                self._report.imported_before += 1
        for _ in range(_MOST_RACES):
            found = await self._keys.find_imported([token for _, token in tokens])
            wanted = self._wanted(tokens, found)
            try:
                await self._keys.import_many(list(wanted.values()), actor=self._actor)
            except DuplicateTokenError:
                continue  # somebody else was faster with one of them
            self._settle(tokens, found, wanted)
            return
        raise UnavailableError("another import is at work on the same rows: wait until it is done")

    def _read(self, key: ArticleKey) -> tuple[Token | None, tuple[Reason, str] | None]:
        if not key.secret:
            return None, None
        try:
            return self._keys.read_imported(key.secret), None
        except ValueError as error:
            return None, ("format", f"its secret cannot be imported: {error}")

    def _wanted(
        self, tokens: Sequence[tuple[ArticleKey, Token]], found: dict[str, str]
    ) -> dict[int, TokenToImport]:
        """What is to be imported, by row: the first row with a token has it, as in the article."""
        wanted = {}
        for key, token in tokens:
            first = self._first_rows.setdefault(token.key_id, key.row)
            if first == key.row and token.key_id not in found and _flaw(key) is None:
                request = KeyRequest(
                    name=f"user_api_keys {key.row}",
                    owner=key.user,
                    scopes=self._scopes,
                    metadata={METADATA: key.row},
                )
                wanted[key.row] = TokenToImport(token, request)
        return wanted

    def _settle(
        self,
        tokens: Sequence[tuple[ArticleKey, Token]],
        found: dict[str, str],
        wanted: dict[int, TokenToImport],
    ) -> None:
        """Notes what became of the rows, once it is certain."""
        for key, token in tokens:
            first = self._first_rows[token.key_id]
            flaw = _flaw(key)
            if key.row in wanted or token.key_id in found or first in self._owning:
                self._owning[key.row] = token.key_id
            if key.row in wanted:
                self._report.imported += 1
            elif first != key.row:
                self._leave_out(key, "duplicate", f"its secret is that of row {first}")
            elif token.key_id in found:
                self._report.imported_before += 1
            elif flaw is not None:
                self._leave_out(key, *flaw)

    def _leave_out(self, key: ArticleKey, reason: Reason, detail: str) -> None:
        self._report.left_out.append(LeftOut(key.row, key.user_id, reason, detail))

    async def _was_emptied(self, key: ArticleKey) -> bool:
        """Whether there is a key that says that it comes from this row, of this user."""
        if self._known_rows is None:
            self._known_rows, cursor = set(), None
            while True:
                page = await self._keys.list(prefix="", limit=bounds.MAX_PAGE, cursor=cursor)
                self._known_rows |= {
                    (each.metadata[METADATA], each.owner)
                    for each in page.items
                    if isinstance(each.metadata.get(METADATA), int | str)
                }
                cursor = page.next_cursor
                if cursor is None:
                    break
        return (key.row, key.user) in self._known_rows


def _flaw(key: ArticleKey) -> tuple[Reason, str] | None:
    """Why a row with a token becomes no key all the same."""
    if key.user is None:
        return "no_user", "there is no such user"
    if not key.has_hash:
        return "public_key", "its public_key is not MV_PUBLIC_ and a bcrypt hash"
    if "\ufffd" in key.user:  # or two such users would be one owner
        return "user_id", "its user cannot own a key: user_id is no text"
    try:
        bounds.text(key.user, "user_id")
    except ValueError as error:
        return "user_id", f"its user cannot own a key: {error}"
    return None
