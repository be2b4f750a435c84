"""The collection of keys: what it is made of, its life with an application, and verification.

Connects the native core to a store. Knows no web framework, and imports no database unless it
is given one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keylatch import bounds
from keylatch._native import SecretRing, Token, parse
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
)
from keylatch.management import KeyManagement
from keylatch.records import APIKey, KeyRecord
from keylatch.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger("keylatch")


class APIKeys(KeyManagement):
    """A collection of API keys in one database.

    Use it as ``async with keys:``, or hand ``keys.lifespan`` to ``FastAPI(lifespan=...)``.
    ``verify`` accepts tokens of its prefixes only; the other calls see every key of the database.

    Args:
        database: A URL such as ``sqlite+aiosqlite:///keys.db``, a SQLAlchemy AsyncEngine or
            Engine, or a Store such as ``keylatch.memory.MemoryStore()``.
        prefix: What the tokens of this collection begin with, such as ``acme_live``, or several
            of these, the first of which new keys get; a token with another prefix is refused
            unread.
        secret: The server secrets: a SecretRing or its text. None reads the environment variable
            ``KEYLATCH_SECRET``. There is no default secret.
        clock: Tells the time, as an aware datetime; for tests.

    Raises:
        ConfigurationError: The secret or the database cannot be used.
        ValueError: A prefix is outside its format, or there is none.
    """

    def __init__(
        self,
        database: "str | AsyncEngine | Engine | Store",
        *,
        prefix: str | Sequence[str],
        secret: SecretRing | str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
        if not self._prefixes:
            raise ValueError("a collection needs a prefix, such as acme_live")
        try:
            super().__init__(_store(database), _ring(secret), clock)
        finally:
            # A traceback with locals must show neither; a URL may hold a password.
            del secret, database
        # What a token of an unknown id is compared with, so that it costs what a wrong secret
        # does. A prefix outside the format is refused here.
        tokens = [Token.mint(each, self._ring) for each in self._prefixes]
        self._decoy = self._hasher.hash(tokens[0])
        self._unverifiable: set[str] = set()
        self._startup_hooks: list[Callable[[object], None]] = []

    def __repr__(self) -> str:
        return f"APIKeys(prefix={', '.join(self._prefixes)!r})"

    @property
    def prefix(self) -> str:
        """What the tokens of new keys begin with."""
        return self._prefixes[0]

    @property
    def prefixes(self) -> Sequence[str]:
        """What the tokens of this collection begin with."""
        return self._prefixes

    async def __aenter__(self) -> Self:
        try:
            await self._store.open()
        except BaseException:
            await self._store.close()  # what did not begin is not ended by __aexit__
            raise
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
        if parsed.prefix not in self._prefixes:
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


def _ring(secret: SecretRing | str | None) -> SecretRing:
    try:
        if isinstance(secret, SecretRing):
            return secret
        return SecretRing.from_env() if secret is None else SecretRing(secret)
    finally:
        del secret


def _store(database: "str | AsyncEngine | Engine | Store") -> Store:
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
