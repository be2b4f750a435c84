"""How keys are made: from what is asked for, by minting a token, to a row of the store.

Knows no web framework and no database.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from keylatch import bounds, changes, loading
from keylatch._native import Hasher, SecretRing, Token
from keylatch.errors import KeyRequestError, UnavailableError
from keylatch.expiring import Window
from keylatch.hooks import Hooks
from keylatch.records import APIKey, Change, KeyEvent, KeyRecord, KeyRequest, NewKey
from keylatch.settling import News
from keylatch.store import DuplicateKeyError, Progress, Store
from keylatch.turns import in_turns

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    HostConnection = AsyncSession | AsyncConnection | Session | Connection

T = TypeVar("T")

logger: Final = logging.getLogger("keylatch")

# A second duplicate among 2^80 ids is a broken random source, not chance.
_MINT_ATTEMPTS: Final = 3


@dataclass(slots=True)
class Changing:
    """What a call changes, as far as it is known.

    Attributes:
        key_ids: The keys.
        news: What the audit trail says of it, and the keys as they are then.
    """

    key_ids: set[str]
    news: list[News] = field(default_factory=list)

    def decided(self, change: Change) -> Change:
        """Notes what was decided, which may be decided anew, and fail or not."""
        self.news += news_of(change)
        return change

    def done(self, changes: Iterable[Change]) -> None:
        """Notes what became of it."""
        self.news = [news for change in changes for news in news_of(change)]


def news_of(change: Change) -> list[News]:
    """What the audit trail says of a change."""
    news = [] if change.event is None else [(change.event, change.key)]
    if change.successor is not None:
        record, event = change.successor
        news.append((event, record.key))
    return news


class KeyMaking:
    """The calls that make keys, over a store, and what all calls share."""

    _prefixes: Sequence[str]
    _accepts_imported: bool

    def __init__(
        self,
        store: Store,
        ring: SecretRing,
        clock: Callable[[], datetime],
        *,
        expiring: Window,
    ) -> None:
        self._store = store
        self._hooks = Hooks(store, self._now, expiring=expiring)
        self._ring = ring
        self._hasher = Hasher(ring)
        self._clock = clock
        self._opened = False
        self._warned = False

    async def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        prefix: str | None = None,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
    ) -> NewKey:
        """Makes a key.

        Args:
            name: What people call it, 1 to 255 characters.
            owner: Whom it belongs to: an id of the host application, 1 to 255 characters.
            scopes: What it may do; at most 64 names such as ``items:read``.
            expires_in: How long it lives. It lives until revoked if neither is given.
            expires_at: The moment, aware, at which it ends.
            metadata: A JSON object of at most 8 KiB.
            prefix: One of the collection's prefixes; the first one if left out.
            actor: Who makes it, for the audit trail.
            connection: A session or connection whose transaction this belongs to.

        Returns:
            The key and its token. Nothing keeps the token: show it once.

        Raises:
            ValueError: A value is outside its bounds; the text names them.
            TypeError: A value is of another type than the annotation says.
            UnavailableError: The database failed; nothing was written that would open anything.
            OSError: The operating system gave no random bytes.
        """
        request = KeyRequest(
            name=name,
            owner=owner,
            scopes=scopes,
            expires_in=expires_in,
            expires_at=expires_at,
            metadata=metadata,
            prefix=prefix,
        )
        wanted = self._wanted(request, self._now())
        actor = bounds.optional_text(actor, "actor")
        await self._ready()

        async def insert() -> NewKey:
            token = Token.mint(wanted.prefix, self._ring)
            record = self._record(wanted, token)
            event = changes.created(record.key, actor)
            async with self._changing({token.key_id}, connection) as changing:
                changing.news.append((event, record.key))
                await self._store.insert([(record, event)], connection=connection)
            return NewKey(record.key, token.reveal())

        return await minted(insert)

    async def create_many(
        self,
        requests: Iterable[KeyRequest],
        *,
        actor: str | None = None,
        connection: "HostConnection | None" = None,
        progress: Progress | None = None,
    ) -> Sequence[NewKey]:
        """Makes many keys in one transaction: all of them, or none.

        All requests are checked before anything is written. The database has its deadline for
        each step, not for all of them. SQLite lets nobody else write meanwhile, and takes a
        kilobyte of memory a key. Garbage collections of Python take longer with many keys about:
        in a process that serves requests, make some ten thousand at a time.

        Args:
            requests: What to make, each with the bounds of :meth:`create`.
            actor: Who makes them, for the audit trail.
            connection: A session or connection whose transaction this belongs to. Hand out no
                token before it commits.
            progress: Called in the event loop, now and then, with how many are written so far.

        Returns:
            The keys and their tokens, in the order of the requests. Nothing keeps the tokens.

        Raises:
            KeyRequestError: A request is outside the bounds; its text and ``index`` name it.
            ValueError: The actor is outside its bounds.
            TypeError: The actor is no str.
            UnavailableError: The database failed; nothing was written that would open anything.
            OSError: The operating system gave no random bytes.
        """
        actor = bounds.optional_text(actor, "actor")
        now = self._now()
        wanted: list[APIKey] = []
        async for request in in_turns(requests):
            try:
                wanted.append(self._wanted(request, now))
            except (TypeError, ValueError) as error:
                raise KeyRequestError(len(wanted), str(error)) from None
        await self._ready()
        if not wanted:
            return []

        async def insert() -> Sequence[NewKey]:
            made: list[NewKey] = []
            rows: list[tuple[KeyRecord, KeyEvent]] = []
            news: list[News] = []
            async for key in in_turns(wanted):
                token = Token.mint(key.prefix, self._ring)
                record = self._record(key, token)
                event = changes.created(record.key, actor)
                rows.append((record, event))
                news.append((event, record.key))
                made.append(NewKey(record.key, token.reveal()))
            # No cache has to be told: nobody can have asked for an id before it was minted.
            async with self._changing(set(), connection) as changing:
                changing.news = news
                await self._store.insert(rows, connection=connection, progress=progress)
            return made

        return await minted(insert)

    @asynccontextmanager
    async def _changing(self, key_ids: set[str], connection: Any) -> AsyncIterator[Changing]:
        """Has keys be read anew, whatever became of the change, and callbacks be told of it."""
        over = None if connection is None else await self._store.transaction(connection)
        changing = Changing(key_ids)
        try:
            yield changing
        except (UnavailableError, asyncio.CancelledError):
            self._hooks.doubt(tuple(changing.news), over)  # it may have been committed
            raise
        else:
            self._hooks.tell(changing.news, over)
        finally:
            # A thread that was given up may still name some.
            loading.changed(tuple(changing.key_ids), over)

    def _wanted(self, request: KeyRequest, now: datetime) -> APIKey:
        """A key as it is requested, without an id so far."""
        if not isinstance(request, KeyRequest):
            raise TypeError(f"a request must be a KeyRequest, not {type(request).__name__}")
        return APIKey(
            id="",
            prefix=self._own_prefix(request.prefix),
            name=bounds.text(request.name, "name"),
            owner=bounds.optional_text(request.owner, "owner"),
            scopes=bounds.scopes(request.scopes),
            metadata=bounds.metadata(request.metadata),
            created_at=now,
            expires_at=bounds.expiry(
                now=now, expires_at=request.expires_at, expires_in=request.expires_in
            ),
        )

    def _record(self, key: APIKey, token: Token) -> KeyRecord:
        key = replace(key, id=token.key_id, prefix=token.prefix)
        return KeyRecord(key, self._hasher.hash(token))

    def _own_prefix(self, prefix: str | None) -> str:
        if prefix is None:
            return self._prefixes[0]
        if prefix not in self._prefixes:
            raise ValueError("prefix must be one of the collection's: " + ", ".join(self._prefixes))
        return prefix

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


async def minted(attempt: Callable[[], Awaitable[T]]) -> T:
    """What mints a key id is tried again where the id is taken."""
    for _ in range(_MINT_ATTEMPTS):
        with suppress(DuplicateKeyError):
            return await attempt()
    raise UnavailableError("new key ids keep colliding: check the system's random source")
