"""The collection of keys: what it is made of, its life with an application, and verification.

Connects the native core to a store. Knows no web framework, and imports no database unless it
is given one.
"""

import asyncio
import functools
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from keylatch import bounds
from keylatch._native import Engine as NativeEngine
from keylatch._native import SecretRing, Token, TokenHeaders
from keylatch.errors import (
    AuthenticationError,
    ConfigurationError,
    InsufficientScopeError,
    InvalidKeyError,
    InvalidTokenError,
    MissingKeyError,
    RateLimitedError,
    UnavailableError,
)
from keylatch.expiring import WEEK, window
from keylatch.feed import Notify, Poll
from keylatch.grace import GraceHeaders
from keylatch.hooks import EventCallbacks
from keylatch.identifying import TokenIdentification
from keylatch.kids import SecretStatus
from keylatch.limits import Limiter
from keylatch.loading import Loader
from keylatch.moments import to_microseconds
from keylatch.records import APIKey, Health
from keylatch.store import Store
from keylatch.usage import UsageWriter

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

logger: Final = logging.getLogger("keylatch")

# Ten million keys take eight gigabytes.
_MOST_CACHED_KEYS: Final = 10_000_000
# Of an interval, in seconds; the longest one is a day.
_SHORTEST: Final = 0.05
_LONGEST: Final = 86_400
_MOST_LOOKUPS: Final = 1_000_000


class APIKeys(EventCallbacks, TokenIdentification):
    """A collection of API keys in one database.

    Use it as ``async with keys:``, or hand ``keys.lifespan`` to ``FastAPI(lifespan=...)``.
    ``verify`` accepts tokens of its prefixes only; the other calls see every key of the database.

    Args:
        database: A URL such as ``sqlite+aiosqlite:///keys.db``, a SQLAlchemy AsyncEngine or
            Engine, or a Store such as ``keylatch.memory.MemoryStore()``.
        prefix: What the tokens of this collection begin with, such as ``acme_live``, or several
            of these, the first of which new keys get; a token with another prefix is refused
            unread, unless tokens are imported.
        secret: The server secrets: a SecretRing or its text. None reads the environment variable
            ``KEYLATCH_SECRET``. There is no default secret.
        clock: Tells the time, as an aware datetime; for tests.
        cached_keys: How many keys are kept in memory, at less than a kilobyte each, once the
            collection is started.
        max_staleness: For how many seconds they count after changes were last heard of.
        feed: ``poll`` looks for changes; ``notify`` also hears of them at once, from PostgreSQL
            only, and takes a connection for it.
        poll_interval: Seconds from one look for changes to the next.
        usage_interval: Seconds from one writing of ``use_count`` and ``last_used_at`` to the next.
        unsealed_lookups: How many tokens a second, in this process, may be looked up in the
            database that no server secret of the ring has sealed: imported ones, and forgeries.
        imported_tokens: Whether tokens of other formats, and of other prefixes, may be keys that
            :meth:`import_token` has made, in whichever collection of the database. Nothing but the
            database tells these from forgeries, so that they share ``unsealed_lookups``, one for
            each server secret of the ring: raise that if there are many.
        allow_missing_secrets: Whether it starts although living keys need server secrets that are
            not in the ring, and are answered with 503. Then it does not look, either: to look
            takes a reading of all keys at every start, at most until the store's deadline.
        expiring_within: How long before its end a key of the collection's prefixes is told of to
            callbacks that ask for ``expiring``, an hour to 366 days. It is looked for every minute,
            or less often if a look takes over three seconds.

    Raises:
        ConfigurationError: The secret or the database cannot be used, or a number is outside its
            bounds.
        ValueError: A prefix is outside its format, or there is none.
    """

    def __init__(
        self,
        database: "str | AsyncEngine | Engine | Store",
        *,
        prefix: str | Sequence[str],
        secret: SecretRing | str | None = None,
        clock: Callable[[], datetime] | None = None,
        cached_keys: int = 100_000,
        max_staleness: float = 10.0,
        feed: Literal["poll", "notify"] = "poll",
        poll_interval: float = 1.0,
        usage_interval: float = 10.0,
        unsealed_lookups: int = 50,
        imported_tokens: bool = False,
        allow_missing_secrets: bool = False,
        expiring_within: timedelta = WEEK,
    ) -> None:
        self._prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
        if not self._prefixes:
            raise ValueError("a collection needs a prefix, such as acme_live")
        _between(1, cached_keys, _MOST_CACHED_KEYS, "cached_keys")
        _between(_SHORTEST, max_staleness, _LONGEST, "max_staleness, in seconds,")
        _between(
            _SHORTEST, poll_interval, max_staleness / 2, "poll_interval, of max_staleness a half,"
        )
        _between(_SHORTEST, usage_interval, _LONGEST, "usage_interval, in seconds,")
        _between(0, unsealed_lookups, _MOST_LOOKUPS, "unsealed_lookups, a second,")
        try:
            super().__init__(
                _store(database),
                _ring(secret),
                clock or _system_clock,
                expiring=window(expiring_within, self._prefixes + ("",) * imported_tokens),
            )
        finally:
            # A traceback with locals must show neither; a URL may hold a password.
            del secret, database
        if feed not in ("poll", "notify"):
            raise ConfigurationError('feed is "poll" or "notify"')
        if feed == "notify" and not self._store.notifies:
            raise ConfigurationError(
                'feed="notify" needs PostgreSQL, through asyncpg or psycopg: leave it out elsewhere'
            )
        self._listens = feed == "notify"
        self._accepts_imported = imported_tokens
        self._allows_missing_secrets = allow_missing_secrets
        self._timed = clock is not None
        self._make_engine: Callable[[], NativeEngine] = functools.partial(
            NativeEngine,
            self._ring,
            prefixes=list(self._prefixes),
            capacity=cached_keys,
            max_staleness=round(max_staleness * 1_000_000),
            unsealed_lookups=unsealed_lookups,
            imported=imported_tokens,
        )
        self._intervals = poll_interval, usage_interval
        self._tasks: list[asyncio.Task[None]] = []
        self._begin_anew()
        _living.add(self)
        self._startup_hooks: list[Callable[[object], None]] = []

    def _begin_anew(self) -> None:
        """With an empty cache and keys of its own: at first, and in the child after a fork."""
        self._engine = self._make_engine()
        self._loader = Loader(self._engine, self._store, self._ring, self._clock)
        self._inherited = self._tasks  # a task that goes unfinished would be complained about
        self._tasks = []
        self._starts = 0
        self._turn = asyncio.Lock()
        self._unavailable = 0
        self._unpermitted = self._limited = 0
        self._hooks.begin_anew()
        self._attach()

    def _attach(self) -> None:
        """With what belongs to one event loop."""
        poll_interval, usage_interval = self._intervals
        self._feed = Poll(self._engine, self._store, interval=poll_interval)
        self._grace = GraceHeaders(self._store)
        self._usage = UsageWriter(self._engine, self._store, interval=usage_interval)

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
        async with self._turn:  # applications may share a collection
            if not self._starts:
                await self._start()
            self._starts += 1
        return self

    async def _start(self) -> None:
        try:
            await self._store.open()
            self._opened = True
            self._attach()
            if not self._allows_missing_secrets:
                await self._refuse_missing_secrets()
            with suppress(UnavailableError):  # the log has it, and the feed tries again
                await self._feed.once()  # so that the first request may be cached
        except BaseException:
            self._opened = False
            await self._store.close()  # what did not begin is not ended by __aexit__
            raise
        self._tasks = [
            asyncio.create_task(self._feed.run(), name="keylatch-feed"),
            asyncio.create_task(self._usage.run(), name="keylatch-usage"),
        ]
        if self._listens:
            notify = Notify(self._engine, self._store, self._feed)
            self._tasks.append(asyncio.create_task(notify.run(), name="keylatch-notify"))
        self._hooks.start()

    async def _refuse_missing_secrets(self) -> None:
        kids = self._ring.kids
        try:
            found = await self._store.count_secrets(self._now(), besides=kids)
        except UnavailableError:
            logger.warning("whether keys need server secrets that the ring lacks was not found out")
            return
        if missing := SecretStatus.of(kids, found).missing:
            raise ConfigurationError(
                f"living keys need server secrets that are not in the ring: {', '.join(missing)}. "
                "Put them back behind the active one, until `keylatch secret status` says that "
                "they can go, or start with allow_missing_secrets=True, and these keys open nothing"
            )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with self._turn:
            # None are left in a child after a fork.
            self._starts, is_last = max(0, self._starts - 1), self._starts == 1
            if is_last:
                await self._end()

    async def _end(self) -> None:
        try:
            await self._hooks.close()  # while callbacks can still ask for keys
        finally:
            await self._end_tasks()

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loader.close()
            with suppress(UnavailableError):  # the log has it
                await self._usage.finish()
        finally:
            self._engine.distrust()
            self._opened = False
            await self._store.close()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Opens and closes the collection with an ASGI application: ``FastAPI(lifespan=...)``.

        Several of them, or one beside something of the application's own::

            @asynccontextmanager
            async def lifespan(app: FastAPI) -> AsyncIterator[None]:
                async with partner.lifespan(app), internal.lifespan(app):
                    yield

        It also completes the OpenAPI documents of the application and of those mounted in it,
        which ``async with keys`` in its place would leave as FastAPI writes them.
        """
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
            ConfigurationError: The collection was started in another event loop, and its cache
                does not have the key.
            ValueError: A needed scope is malformed.
            TypeError: The token is no str.
        """
        try:
            read = self._read(token)
            required = bounds.scopes(scopes) or None
            found = self._engine.check_token(read, required, self._moment())
            return found if isinstance(found, APIKey) else await self._look_up(found, required)
        except AuthenticationError as error:
            self.refused(error)
            raise
        finally:
            del token  # a traceback with locals must not show it

    async def authenticate(
        self,
        headers: list[tuple[bytes, bytes]],
        *,
        sources: TokenHeaders,
        scopes: frozenset[str] = frozenset(),
        query: bytes | None = None,
        counted: bool = True,
        untold: type[AuthenticationError] | None = None,
    ) -> APIKey:
        """Tells whose key a request carries, if it may pass: what web frameworks ask.

        Args:
            headers: Raw ASGI headers, ``scope["headers"]``: pairs of bytes.
            sources: What may carry the token.
            scopes: The scopes that are needed, all of them, as ``bounds`` has checked them.
            query: The raw query string, ``scope["query_string"]``, if the token may stand there.
            counted: Whether this is a use, and not another look at a request that lasts. One that
                has to ask the database, once in five minutes at most, counts all the same.
            untold: A refusal that :meth:`on_event` tells nobody of, since the request may pass
                all the same.

        Raises:
            AmbiguousCredentialsError: A header stands twice, or two sources differ.
            TypeError: The headers are not pairs of bytes, or the query string is no bytes.
            AuthenticationError: As :meth:`verify`.
            UnavailableError: As :meth:`verify`.
        """
        required = scopes or None
        now = self._moment() if self._timed else None
        try:
            found = self._engine.check(sources, headers, required, now, query, counted)
            return found if isinstance(found, APIKey) else await self._look_up(found, required)
        except AuthenticationError as error:
            if untold is None or not isinstance(error, untold):
                self.refused(error)
            raise
        finally:
            del headers, query  # a traceback with locals must not show the token

    def refused(self, error: AuthenticationError) -> None:
        """Has callbacks be told that a request was refused: ``authenticate`` does so by itself."""
        if self._hooks.hears_refusals:
            self._hooks.refuse(error)

    def claims(
        self,
        headers: list[tuple[bytes, bytes]],
        *,
        sources: TokenHeaders,
        query: bytes | None = None,
    ) -> bool | None:
        """Tells whether a request is one for this collection, where there is another scheme, too.

        Nothing is verified.

        Args:
            headers: As :meth:`authenticate` takes them.
            sources: What may carry the token.
            query: As :meth:`authenticate` takes it.

        Returns:
            Whether it carries what only a key of this collection can be meant with: anything in a
            place of ours other than ``Authorization: Bearer``, and there what begins with one of
            its prefixes. None if tokens are imported, so that only the database knows.

        Raises:
            TypeError: The headers are not pairs of bytes, or the query string is no bytes.
        """
        try:
            claimed = self._engine.claims(sources, headers, query)
        finally:
            del headers, query
        if claimed is False and self._accepts_imported:
            return None
        return claimed or False

    def permit(self, key: APIKey, required: frozenset[str]) -> None:
        """Looks at the scopes of a key that has verified just now, and counts no further use.

        Raises:
            InsufficientScopeError: It lacks a scope.
        """
        if not required <= key.scopes:
            self._unpermitted += 1
            error = InsufficientScopeError(required, key.scopes)
            error.key = key
            self.refused(error)
            raise error

    def limit(self, key: APIKey, limiter: Limiter) -> None:
        """Counts a request of a key that has verified just now against its limit.

        Args:
            key: The key.
            limiter: Counts. A collection with a clock of its own has it go by that.

        Raises:
            RateLimitedError: There was none left. This one is not counted.
            ConfigurationError: There is no telling the limit.
        """
        wait = limiter.take(key, self._moment())
        if wait is not None:
            self._limited += 1
            error = RateLimitedError(wait)
            error.key = key
            self.refused(error)
            raise error

    async def grace_headers(self, key: APIKey) -> dict[str, str]:
        """The headers that tell a client of a rotation: ``Deprecation`` and ``Sunset``.

        ``APIKeyAuth`` and ``APIKeyMiddleware`` send them by themselves, with answers to a key in
        its grace period: the moment of its rotation (RFC 9745), and of its end (RFC 8594).

        Args:
            key: As it has verified just now.

        Returns:
            The headers, none for a key that was not rotated. Where the database does not tell at
            once when it was, ``Deprecation`` is left out.
        """
        return await self._grace.of(key)

    async def flush(self) -> None:
        """Does what waits, for tests and jobs: it is done without being asked, too, and at the end.

        Writes the uses that were counted so far to the database, which is done every ten seconds.
        Looks for keys that end soon, if a callback is to hear of them. Tells callbacks of the
        events that wait, and waits until they have been told, five seconds at most:
        ``health().waiting_events`` tells whether some are left. A callback that asks for this does
        not wait for itself.

        Raises:
            UnavailableError: The database failed; the uses are kept.
        """
        try:
            await self._usage.flush()
        finally:
            await self._hooks.flush()

    async def secret_status(self) -> SecretStatus:
        """Counts how many keys need each server secret, to tell when an old one can go.

        Keys move to the active secret when they are used. Reads every key: for operators and jobs.
        A second or two pass with a million of them.

        Raises:
            UnavailableError: The database failed, or did not answer within the store's deadline.
        """
        await self._ready()
        return SecretStatus.of(self._ring.kids, await self._store.count_secrets(self._now()))

    def health(self) -> Health:
        """Tells how the collection does in this process, for a dashboard or a probe."""
        counts = self._engine.counts()
        counts["insufficient_scope"] += self._unpermitted
        counts["rate_limited"] = self._limited
        counts["unavailable"] = self._unavailable
        heard = self._feed.heard_at
        looked_up = counts["hits"] + counts["misses"]
        waiting, dropped, failed = self._hooks.counts()
        codes = (
            "missing_key",
            "invalid_key",
            "expired_key",
            "revoked_key",
            "insufficient_scope",
            "ambiguous_credentials",
            "rate_limited",
            "unavailable",
        )
        return Health(
            started=bool(self._tasks),
            fresh=self._engine.ticks() < counts["fresh_until"],
            feed_age=None if heard is None else (self._engine.ticks() - heard) / 1_000_000,
            cached_keys=counts["cached"],
            hits=counts["hits"],
            misses=counts["misses"],
            hit_rate=counts["hits"] / looked_up if looked_up else None,
            refusals={code: counts[code] for code in codes},
            unwritten_usage=counts["ledger_keys"],
            lost_usage=counts["ledger_lost"],
            waiting_events=waiting,
            dropped_events=dropped,
            failed_callbacks=failed,
        )

    def _read(self, token: str | Token) -> Token:
        try:
            if isinstance(token, Token) and token.prefix in self._prefixes:
                return token
            if not isinstance(token, str | Token):
                raise TypeError(f"a token must be a str, not {type(token).__name__}")
            if not token:
                raise MissingKeyError
            return self._engine.present(token)
        except InvalidTokenError:
            raise InvalidKeyError from None
        finally:
            del token

    async def _look_up(self, token: Token, required: frozenset[str] | None) -> APIKey:
        if self._tasks and self._tasks[0].get_loop() is not asyncio.get_running_loop():
            raise ConfigurationError(
                "the collection was started in another event loop: verify there, or make a "
                "collection for this one"
            )
        try:
            await self._ready()
            return await self._loader.open(token, required, self._moment, cached=bool(self._tasks))
        except UnavailableError:
            self._unavailable += 1
            raise

    def _moment(self) -> int | None:
        """The time as the engine takes it, which asks the system for itself."""
        return to_microseconds(self._now()) if self._timed else None


def _system_clock() -> datetime:
    return datetime.now(UTC)


# For what a fork makes of them: their caches are the parent's, and no feed came along.
_living: weakref.WeakSet[APIKeys] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for keys in list(_living):
        keys._begin_anew()  # noqa: SLF001 - it is ours


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)


def _between(low: float, value: float, high: float, what: str) -> None:
    """Refuses what would switch something off, or make a busy loop of a second."""
    if not low <= value <= high:
        raise ConfigurationError(f"{what} must be {low:,} to {high:,}")


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
