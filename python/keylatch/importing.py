"""Takes over tokens that clients hold already, of whatever format: what is kept of them is a hash.

Checks what callers pass in, and has the store keep it. Knows no web framework and no database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from keylatch import bounds, changes
from keylatch._native import Engine, Hasher, Token
from keylatch.errors import ConfigurationError, DuplicateTokenError
from keylatch.loading import Loader
from keylatch.management import KeyManagement
from keylatch.records import APIKey, KeyEvent, KeyRecord, KeyRequest
from keylatch.store import DuplicateKeyError

if TYPE_CHECKING:
    from keylatch.making import HostConnection


@dataclass(frozen=True, slots=True)
class TokenToImport:
    """One of many tokens, and the key to be made for it. ``repr`` hides the token.

    Attributes:
        token: As :meth:`TokenImport.read_imported` returns it.
        request: The key. It has no prefix.
    """

    token: Token
    request: KeyRequest


class TokenImport(KeyManagement):
    """The calls that import tokens into a collection with ``imported_tokens=True``."""

    _engine: Engine
    _loader: Loader

    async def import_token(
        self,
        token: str,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        weak: bool = False,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> APIKey:
        """Makes a key for a token that a client holds already, so that nobody must reissue it.

        The key has an empty prefix, and every collection of the database with
        ``imported_tokens=True`` accepts its token. Its id is a digest of the token under the
        active server secret, and its hash stays under the same one: that secret has to stay in
        the ring until the key is rotated or has ended.

        The id is a fast digest. What keeps a guessable token from whoever has the database is the
        server secret alone; ``weak`` adds only that the stored hash is of no help to whoever has
        that secret, too. Nothing helps against guessing at the door: rotate such a key soon. A
        key that was purged is forgotten, and its token can be imported again.

        Args:
            token: 8 to 512 visible ASCII characters, such as ``MV_SECRET_`` and 64 hexadecimal
                digits. Nothing keeps it.
            name: What people call the key, 1 to 255 characters.
            owner: Whom it belongs to: an id of the host application, 1 to 255 characters.
            scopes: What it may do; at most 64 names such as ``items:read``.
            expires_in: How long it lives. It lives until revoked if neither is given.
            expires_at: The moment, aware, at which it ends.
            metadata: A JSON object of at most 8 KiB.
            weak: Whether people chose the token, or it has fewer than 112 random bits: it is
                stored as argon2id, which takes tens of milliseconds here, and with the first
                request in each process.
            actor: Who imports it, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Raises:
            ConfigurationError: The collection is one without ``imported_tokens=True``.
            DuplicateTokenError: A key, alive or dead, has this token already: ``key_id`` names it.
            ValueError: The token is outside its bounds, or is one of the collection's own, or a
                mistyped one; or another value is outside its bounds. The text says which.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed, and nothing was written that would open
                anything; or no core was free for argon2id.
            OSError: The operating system gave no random bytes.
        """
        try:
            read = self.read_imported(token)
        finally:
            del token  # a traceback with locals must not show it
        request = KeyRequest(
            name=name,
            owner=owner,
            scopes=scopes,
            expires_in=expires_in,
            expires_at=expires_at,
            metadata=metadata,
        )
        key = self._imported(TokenToImport(read, request), self._now())
        actor = bounds.optional_text(actor, "actor")
        await self._ready()
        async with self._changing({key.id}, connection) as changing:
            if found := await self.find_imported([read], connection=connection):
                raise DuplicateTokenError(found[read.key_id])
            hashed = await self._hash_slowly(read) if weak else self._hasher.hash(read)
            try:
                event = changes.imported(key, actor)
                changing.news.append((event, key))
                await self._store.insert(
                    [(KeyRecord(key, hashed), event)],
                    unless=self._other_names([read]),
                    connection=connection,
                )
            except DuplicateKeyError:  # somebody else was faster
                found = await self.find_imported([read], connection=connection)
                raise DuplicateTokenError(found.get(read.key_id, key.id)) from None
            finally:
                del hashed
        return key

    def read_imported(self, token: str) -> Token:
        """Reads a token that may be imported, and needs no database for it.

        Raises:
            ConfigurationError: The collection is one without ``imported_tokens=True``.
            ValueError: The token is outside its bounds, or is one of the collection's own, or a
                mistyped one.
            TypeError: It is no str.
        """
        try:
            if not self._accepts_imported:
                raise ConfigurationError(
                    "this collection takes no imported tokens: make it with imported_tokens=True"
                )
            if not isinstance(token, str):
                raise TypeError(f"a token must be a str, not {type(token).__name__}")
            read = self._engine.present(token)
        finally:
            del token
        if read.prefix:
            raise ValueError(
                "the token has this collection's prefix and a right checksum: it is keylatch's "
                "own, and needs no import"
            )
        return read

    async def find_imported(
        self, tokens: Sequence[Token], *, connection: "HostConnection | None" = None
    ) -> dict[str, str]:
        """Tells which tokens have keys, alive or dead, under any server secret of the ring.

        Args:
            tokens: As :meth:`read_imported` returns them.
            connection: A session or connection to read with.

        Returns:
            Of those that have one the key's id, by the ``key_id`` of the token.

        Raises:
            UnavailableError: The database failed.
        """
        names = {
            token.key_id: [each.key_id for each in self._engine.candidates(token)]
            for token in tokens
        }
        await self._ready()
        known = await self._store.existing(
            {name for each in names.values() for name in each}, connection=connection
        )
        return {
            key_id: next(name for name in each if name in known)
            for key_id, each in names.items()
            if not known.isdisjoint(each)
        }

    async def import_many(
        self, tokens: Sequence[TokenToImport], *, actor: str | None = None
    ) -> Sequence[APIKey]:
        """Makes keys for many tokens in one transaction: for all of them, or none.

        Some hundreds at a time; none of them weak.

        Args:
            tokens: None twice, and none that :meth:`find_imported` tells of.
            actor: Who imports them, for the audit trail.

        Returns:
            The keys, in the order of the tokens.

        Raises:
            DuplicateTokenError: Somebody else has imported one of them meanwhile.
            ValueError: A value is outside its bounds.
            UnavailableError: The database failed; nothing was written.
            OSError: The operating system gave no random bytes.
        """
        actor, now = bounds.optional_text(actor, "actor"), self._now()
        rows: list[tuple[KeyRecord, KeyEvent]] = []
        for each in tokens:
            key = self._imported(each, now)
            event = changes.imported(key, actor)
            rows.append((KeyRecord(key, self._hasher.hash(each.token)), event))
        await self._ready()
        keys = [record.key for record, _ in rows]
        if not rows:
            return keys
        async with self._changing({key.id for key in keys}, None) as changing:
            changing.news += [(event, record.key) for record, event in rows]
            try:
                names = self._other_names([each.token for each in tokens])
                await self._store.insert(rows, unless=names)
            except DuplicateKeyError:
                found = await self.find_imported([each.token for each in tokens])
                raise DuplicateTokenError(next(iter(found.values()))) from None
        return keys

    def _other_names(self, tokens: Sequence[Token]) -> set[str]:
        """Ids that others give to these tokens whose active server secret is another one."""
        names = {each.key_id for token in tokens for each in self._engine.candidates(token)}
        return names - {token.key_id for token in tokens}

    def _imported(self, each: TokenToImport, now: datetime) -> APIKey:
        return replace(self._wanted(each.request, now), id=each.token.key_id, prefix="")

    async def _hash_slowly(self, token: Token) -> str:
        hasher, made = Hasher(self._ring, scheme="argon2id"), list[str]()
        try:
            await self._loader.stretch(lambda: made.append(hasher.hash(token)))
            return made[0]
        finally:
            made.clear()
