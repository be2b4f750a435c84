"""The collection of keys: create, verify, get, list, revoke, events.

Connects the native core to a store. Knows no web framework, and imports no database unless it
is given one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from keylatch import bounds
from keylatch._native import Hasher, SecretRing, Token, parse
from keylatch.errors import (
    ConfigurationError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidHashError,
    InvalidKeyError,
    InvalidTokenError,
    MissingKeyError,
    RevokedKeyError,
    UnavailableError,
    UnknownKeyError,
)
from keylatch.records import APIKey, Cursor, KeyEvent, KeyRecord, NewKey, Page, Status
from keylatch.store import DuplicateKeyError, Store

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger("keylatch")

# A second duplicate among 2^80 ids is a broken random source, not chance.
_MINT_ATTEMPTS: Final = 3


class APIKeys:
    """A collection of API keys in one database.

    Use it as ``async with keys:``, or hand ``keys.lifespan`` to ``FastAPI(lifespan=...)``.
    ``verify`` accepts tokens of its prefix only; the other calls see every key of the database.

    Args:
        database: A URL such as ``sqlite+aiosqlite:///keys.db``, a SQLAlchemy AsyncEngine, or a
            Store such as ``keylatch.memory.MemoryStore()``.
        prefix: What the tokens of this collection begin with, such as ``acme_live``; a token
            with another prefix is refused unread.
        secret: The server secrets: a SecretRing or its text. None reads the environment variable
            ``KEYLATCH_SECRET``. There is no default secret.
        clock: Tells the time, as an aware datetime; for tests.

    Raises:
        ConfigurationError: The secret or the database cannot be used.
        ValueError: The prefix is outside its format.
    """

    def __init__(
        self,
        database: "str | AsyncEngine | Store",
        *,
        prefix: str,
        secret: SecretRing | str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._prefix = prefix
        try:
            self._ring = _ring(secret)
            self._store = _store(database)
        finally:
            # A traceback with locals must show neither; a URL may hold a password.
            del secret, database
        self._hasher = Hasher(self._ring)
        self._clock = clock
        # What a token of an unknown id is compared with, so that it costs what a wrong secret does.
        self._decoy = self._hasher.hash(Token.mint(prefix, self._ring))
        self._opened = False
        self._warned = False
        self._unverifiable: set[str] = set()
        self._startup_hooks: list[Callable[[object], None]] = []

    def __repr__(self) -> str:
        return f"APIKeys(prefix={self._prefix!r})"

    @property
    def prefix(self) -> str:
        """What the tokens of this collection begin with."""
        return self._prefix

    async def __aenter__(self) -> Self:
        await self._store.open()
        self._opened = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened = False
        await self._store.close()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Opens and closes the collection with an ASGI application: ``FastAPI(lifespan=...)``."""
        for hook in self._startup_hooks:
            hook(app)
        async with self:
            yield

    def on_startup(self, hook: Callable[[object], None]) -> None:
        """Has ``hook(app)`` called when an application starts whose lifespan this is."""
        self._startup_hooks.append(hook)

    async def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> NewKey:
        """Makes a key.

        Args:
            name: What people call it, 1 to 255 characters.
            owner: Whom it belongs to: an id of the host application, 1 to 255 characters.
            scopes: What it may do; at most 64 names such as ``items:read``.
            expires_in: How long it lives. It lives until revoked if neither is given.
            expires_at: The moment, aware, at which it ends.
            metadata: A JSON object of at most 8 KiB.
            actor: Who makes it, for the audit trail.

        Returns:
            The key and its token. Nothing keeps the token: show it once.

        Raises:
            ValueError: A value is outside its bounds; the text names them.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed; nothing was written that would open anything.
            OSError: The operating system gave no random bytes.
        """
        await self._ready()
        now = self._now()
        key = APIKey(
            id="",
            prefix=self._prefix,
            name=bounds.text(name, "name"),
            owner=bounds.optional_text(owner, "owner"),
            scopes=bounds.scopes(scopes),
            metadata=bounds.metadata(metadata),
            created_at=now,
            expires_at=bounds.expiry(now=now, expires_at=expires_at, expires_in=expires_in),
        )
        actor = bounds.optional_text(actor, "actor")
        for _ in range(_MINT_ATTEMPTS):
            token = Token.mint(self._prefix, self._ring)
            key = replace(key, id=token.key_id)
            try:
                await self._store.insert(
                    KeyRecord(key, self._hasher.hash(token)), _created(key, actor)
                )
            except DuplicateKeyError:
                continue
            return NewKey(key, token.reveal())
        raise UnavailableError("new key ids keep colliding: check the system's random source")

    async def verify(self, token: str | Token, *, scopes: Iterable[str] = ()) -> APIKey:
        """Tells whose key a token is, if it may pass.

        Args:
            token: What the client sent.
            scopes: The scopes that are needed, all of them.

        Raises:
            MissingKeyError: The token is empty.
            InvalidKeyError: It is malformed, of another prefix, unknown, or its secret is wrong.
            RevokedKeyError: The right secret; the key was revoked.
            ExpiredKeyError: The right secret; the key has expired.
            InsufficientScopeError: The right key; it lacks a scope.
            UnavailableError: The database failed, or the stored hash needs a server secret that
                is not in the ring: there is no telling.
            ValueError: A needed scope is malformed.
            TypeError: The token is no str.
        """
        try:
            parsed = _parse(token)
        finally:
            del token  # a traceback with locals must not show it
        required = bounds.scopes(scopes)
        if parsed.prefix != self._prefix:
            raise InvalidKeyError
        await self._ready()
        record = await self._store.load(parsed.key_id)
        matches = await self._matches(parsed, record)
        if record is None or not matches:
            raise InvalidKeyError
        key = record.key
        match key.status(self._now()):
            case "revoked":
                raise RevokedKeyError
            case "expired":
                raise ExpiredKeyError
        if not required <= key.scopes:
            raise InsufficientScopeError(required, key.scopes)
        return key

    async def get(self, key_id: str) -> APIKey:
        """Reads a key.

        Raises:
            UnknownKeyError: No key has this id.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        return (await self._load(key_id)).key

    async def list(
        self,
        *,
        owner: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Reads keys, the newest first.

        Args:
            owner: Only the keys of this owner.
            status: Only ``active``, ``expired`` or ``revoked`` keys.
            limit: How many, 1 to 500.
            cursor: The ``next_cursor`` of the page before.

        Raises:
            ValueError: A filter, the limit or the cursor is not one.
            TypeError: One is of another type than the annotation says.
            UnavailableError: The database failed.
        """
        if status not in (None, "active", "expired", "revoked"):
            raise ValueError("status must be active, expired or revoked")
        limit = bounds.page_limit(limit)
        after = None if cursor is None else Cursor.decode(cursor)
        await self._ready()
        found = await self._store.select(
            owner=bounds.optional_text(owner, "owner"),
            status=status,
            now=self._now(),
            after=after,
            limit=limit + 1,
        )
        items = found[:limit]
        more = len(found) > limit
        return Page(items, Cursor.after(items[-1]).encode() if more else None)

    async def revoke(
        self, key_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> APIKey:
        """Revokes a key, for good: once this returns, its token opens nothing.

        Revoking it again changes nothing, and keeps the first reason.

        Args:
            key_id: Which.
            reason: Why, 1 to 255 characters, for the audit trail.
            actor: Who, 1 to 255 characters, for the audit trail.

        Raises:
            UnknownKeyError: No key has this id.
            ValueError: The reason or the actor is outside its bounds.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        event = KeyEvent(
            key_id=key_id,
            at=self._now(),
            action="revoked",
            actor=bounds.optional_text(actor, "actor"),
            details={"reason": bounds.optional_text(reason, "reason")},
        )
        await self._ready()
        await self._store.revoke(event)
        revoked = await self.get(key_id)
        if revoked.revoked_at is None:
            raise UnavailableError("the revocation did not reach the database: revoke it again")
        return revoked

    async def events(self, key_id: str) -> Sequence[KeyEvent]:
        """Reads the audit trail of a key, the oldest entry first.

        Raises:
            UnknownKeyError: No key has this id.
            UnavailableError: The database failed.
        """
        key_id = _key_id_or_nothing(key_id)
        await self._load(key_id)
        return await self._store.events(key_id)

    async def _load(self, key_id: str) -> KeyRecord:
        await self._ready()
        record = await self._store.load(key_id)
        if record is None:
            raise UnknownKeyError
        return record

    async def _matches(self, token: Token, record: KeyRecord | None) -> bool:
        # No local holds the stored hash, which a traceback with locals would show.
        def verify() -> bool:
            return self._hasher.verify(token, self._decoy if record is None else record.hash)

        try:
            if record is not None and record.hash.startswith("$argon2"):
                return await asyncio.to_thread(verify)
            return verify()
        except InvalidHashError as error:
            self._report_once(token.key_id, str(error))
            raise UnavailableError(f"key {token.key_id} cannot be verified: {error}") from None
        except MemoryError:
            raise UnavailableError("there is not enough memory for argon2id") from None

    def _report_once(self, key_id: str, reason: str) -> None:
        if reason not in self._unverifiable:
            self._unverifiable.add(reason)
            logger.error("key %s, and maybe others, cannot be verified: %s", key_id, reason)

    async def _ready(self) -> None:
        if self._opened:
            return
        if not self._warned:
            self._warned = True
            logger.warning(
                "these API keys were not started: use FastAPI(lifespan=keys.lifespan), or "
                "async with keys"
            )
        await self._store.open()
        self._opened = True

    def _now(self) -> datetime:
        return bounds.utc(self._clock(), "the clock's time")


def _ring(secret: SecretRing | str | None) -> SecretRing:
    try:
        if isinstance(secret, SecretRing):
            return secret
        return SecretRing.from_env() if secret is None else SecretRing(secret)
    finally:
        del secret


def _store(database: "str | AsyncEngine | Store") -> Store:
    try:
        if isinstance(database, Store):
            return database
        from keylatch.sqlalchemy import SQLAlchemyStore

        return SQLAlchemyStore(database)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'{error.name} is not installed: pip install "keylatch[fastapi]"'
        ) from None
    finally:
        del database


def _parse(token: str | Token) -> Token:
    try:
        if isinstance(token, Token):
            return token
        if not isinstance(token, str):
            raise TypeError(f"a token must be a str, not {type(token).__name__}")
        if not token:
            raise MissingKeyError
        return parse(token)
    except InvalidTokenError:
        raise InvalidKeyError from None
    finally:
        del token


def _key_id_or_nothing(key_id: str) -> str:
    """Drops what is no key id: it may be a token, which a traceback with locals would show."""
    return key_id if bounds.is_key_id(key_id) else ""


def _created(key: APIKey, actor: str | None) -> KeyEvent:
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    return KeyEvent(
        key_id=key.id,
        at=key.created_at,
        action="created",
        actor=actor,
        details={"owner": key.owner, "scopes": sorted(key.scopes), "expires_at": expires_at},
    )
