"""What a type checker makes of the public signatures. It is checked, and never run."""

import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, assert_type

from fastapi import APIRouter, FastAPI, Request, Security, WebSocket
from fastapi.security import SecurityScopes
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from keylatch import (
    APIKey,
    APIKeys,
    Happening,
    Hasher,
    KeyEvent,
    KeyRequest,
    NewKey,
    Page,
    RateLimit,
    SecretRing,
    Token,
    mint,
    parse,
)
from keylatch._native import TokenHeaders
from keylatch.asgi import APIKeyMiddleware, verified_key, verify_again
from keylatch.door import Door
from keylatch.either import Undecided
from keylatch.errors import AuthenticationError, MissingKeyError, UnavailableError
from keylatch.fastapi import (
    APIKeyAuth,
    CarriedAPIKey,
    ClosedError,
    OptionalAPIKey,
    RefusedError,
    keys_router,
    problem_handler,
    unavailable_error_handler,
)
from keylatch.identifying import Identified
from keylatch.importing import TokenToImport
from keylatch.kids import SecretStatus, SecretUse
from keylatch.limits import Limiter
from keylatch.management import KeyManagement
from keylatch.masking import MaskTokens, install, mask_tokens
from keylatch.memory import MemoryStore
from keylatch.prometheus import HealthCollector
from keylatch.records import Action, Health
from keylatch.sqlalchemy import SQLAlchemyStore, metadata


def primitives() -> None:
    """For those who keep their own table."""
    assert_type(SecretRing.generate(), str)
    ring = SecretRing.from_env()
    assert_type(ring, SecretRing)
    assert_type(SecretRing("k1:secret").kids, list[str])
    token = mint("acme_live", ring)
    assert_type(token, str)
    parsed = parse(token)
    assert_type(parsed, Token)
    assert_type((parsed.prefix, parsed.key_id), tuple[str, str])
    assert_type(parsed.sealed_by(ring), str | None)
    assert_type(parsed.reveal(), str)
    assert_type(Token.mint("acme_live", ring), Token)
    hasher = Hasher(ring, scheme="argon2id", memory_kib=19456, iterations=2, parallelism=1)
    stored = hasher.hash(parsed)
    assert_type(stored, str)
    assert_type(hasher.verify(token, stored), bool)
    assert_type(hasher.needs_rehash(stored), bool)


def collections(asynchronous: AsyncEngine, synchronous: Engine) -> None:
    """What a collection is made of."""
    for database in ("sqlite+aiosqlite:///keys.db", asynchronous, synchronous, MemoryStore()):
        assert_type(APIKeys(database, prefix="acme"), APIKeys)
    keys = APIKeys(
        SQLAlchemyStore(asynchronous, deadline=5.0),
        prefix=["acme_live", "acme_test"],
        secret=SecretRing.from_env(),
        feed="notify",
        imported_tokens=True,
    )
    assert_type((keys.prefix, keys.prefixes), tuple[str, Sequence[str]])
    assert_type(metadata.tables.keys() >= {"api_keys"}, bool)


async def life(keys: APIKeys, session: AsyncSession, old_session: Session) -> None:
    """What is done with keys."""
    async with keys as started:
        assert_type(started, APIKeys)
    new = await keys.create(
        name="ci",
        owner="u1",
        scopes=["items:read"],
        expires_in=timedelta(days=90),
        metadata={"a": 1},
        actor="ops",
        connection=session,
    )
    assert_type(new, NewKey)
    assert_type((new.token, new.key), tuple[str, APIKey])
    assert_type(await keys.verify(new.token, scopes=["items:read"]), APIKey)
    assert_type(await keys.get(new.key.id, connection=old_session), APIKey)
    assert_type(await keys.update(new.key.id, name="ci 2", expires_at=None), APIKey)
    page = await keys.list(owner="u1", status="active", expiring_before=datetime.now(UTC))
    assert_type(page, Page)
    assert_type((page.items, page.next_cursor), tuple[list[APIKey], str | None])
    assert_type(await keys.rotate(new.key.id, grace=timedelta(hours=24), reason="leaked"), NewKey)
    found = await keys.identify(new.token)
    assert_type(found, Identified)
    assert_type((found.key, found.proven), tuple[APIKey | None, bool])
    assert_type((found.key_id, found.sealed_by), tuple[str, str | None])
    assert_type(await keys.revoke(new.key.id, reason="leaked"), APIKey)
    assert_type(await keys.revoke_all(owner="u1"), Sequence[str])
    assert_type(await keys.events(new.key.id, latest=50), Sequence[KeyEvent])
    assert_type(await keys.purge(dead_for=timedelta(days=365)), int)
    assert_type(await keys.create_many([KeyRequest(name="ci")]), Sequence[NewKey])
    assert_type(await keys.import_token("a token from elsewhere", name="old"), APIKey)
    assert_type(await keys.secret_status(), SecretStatus)
    assert_type(keys.health(), Health)
    assert_type(await keys.grace_headers(new.key), dict[str, str])
    assert_type(keys.delegated_to(new.key), KeyManagement)
    assert_type(await keys.flush(), None)


async def importing(keys: APIKeys) -> None:
    """What moves many tokens over."""
    token = keys.read_imported("a token from elsewhere")
    assert_type(token, Token)
    assert_type(await keys.find_imported([token]), dict[str, str])
    wanted = TokenToImport(token, KeyRequest(name="ci"))
    assert_type((wanted.token, wanted.request), tuple[Token, KeyRequest])
    assert_type(await keys.import_many([wanted], actor="ops"), Sequence[APIKey])


async def integrating(keys: APIKeys, key: APIKey) -> None:
    """What connects a collection to a web framework."""
    async with keys.lifespan(FastAPI()) as nothing:
        assert_type(nothing, None)
    assert_type(keys.on_startup(print), None)
    sources = TokenHeaders(bearer=True, names=["X-API-Key"])
    assert_type(await keys.authenticate([], sources=sources, scopes=frozenset("a")), APIKey)
    assert_type(keys.claims([], sources=sources, query=b""), bool | None)
    assert_type(keys.permit(key, frozenset({"items:read"})), None)


def fields(key: APIKey, event: KeyEvent, request: KeyRequest) -> None:
    """What a key has, an entry of its trail, and what is asked for."""
    assert_type((key.id, key.prefix, key.name, key.owner), tuple[str, str, str, str | None])
    assert_type((key.scopes, key.metadata), tuple[frozenset[str], dict[str, Any]])
    assert_type((key.created_at, key.expires_at), tuple[datetime, datetime | None])
    assert_type((key.revoked_at, key.last_used_at), tuple[datetime | None, datetime | None])
    assert_type((key.use_count, key.successor), tuple[int, str | None])
    assert_type(key.status(datetime.now(UTC)), Literal["active", "expired", "revoked"])
    assert_type((event.key_id, event.at, event.action), tuple[str, datetime, str])
    assert_type((event.actor, event.details), tuple[str | None, dict[str, Any]])
    assert_type((request.name, request.owner), tuple[str, str | None])
    assert_type((request.scopes, request.prefix), tuple[Iterable[str], str | None])
    assert_type((request.expires_in, request.expires_at), tuple[timedelta | None, datetime | None])
    assert_type(request.metadata, Mapping[str, Any] | None)


async def callbacks(keys: APIKeys, happening: Happening, one: Callable[[Happening], None]) -> None:
    """Who is told of what happens."""

    @keys.on_event
    def synchronous(happening: Happening) -> None:
        assert_type(happening, Happening)

    @keys.on_event(actions=["revoked", "refused"])
    async def asynchronous(happening: Happening) -> int:
        return len(happening.details)

    assert_type(synchronous(happening), None)
    assert_type(await asynchronous(happening), int)
    told: list[Happening] = []
    keys.on_event(told.append, actions={"created"})
    assert_type(keys.on_event(one), Callable[[Happening], None])
    action: Literal[
        "created", "imported", "updated", "rotated", "revoked", "expiring", "refused"
    ] = happening.action
    assert_type((action, happening.action), tuple[Action, Action])
    assert_type(happening.at, datetime)
    assert_type((happening.key, happening.key_id), tuple[APIKey | None, str | None])
    assert_type((happening.actor, happening.details), tuple[str | None, Mapping[str, Any]])
    assert_type(keys.refused(MissingKeyError()), None)
    APIKeys("sqlite:///keys.db", prefix="acme", expiring_within=timedelta(days=14))


def states(health: Health, status: SecretStatus, use: SecretUse) -> None:
    """How a collection and its server secrets do."""
    assert_type((health.started, health.fresh), tuple[bool, bool])
    assert_type((health.feed_age, health.hit_rate), tuple[float | None, float | None])
    assert_type((health.cached_keys, health.hits, health.misses), tuple[int, int, int])
    assert_type((health.unwritten_usage, health.lost_usage), tuple[int, int])
    assert_type(health.refusals, dict[str, int])
    assert_type((health.waiting_events, health.dropped_events), tuple[int, int])
    assert_type(health.failed_callbacks, int)
    assert_type((status.active, status.retired), tuple[str, Sequence[str]])
    assert_type((status.removable, status.missing), tuple[Sequence[str], Sequence[str]])
    assert_type((status.uses, status.done), tuple[Sequence[SecretUse], bool])
    assert_type(SecretStatus.of(["k1"], [use]), SecretStatus)
    assert_type((use.kid, use.living, use.dead, use.imported), tuple[str | None, int, int, int])


class User:
    """Of the application."""


async def load(owner: str) -> User | None:
    """Finds one."""
    return User() if owner else None


def load_in_a_thread(owner: str, session: Session) -> User | None:
    """Finds one."""
    return session.get(User, owner)


async def load_by_yielding(owner: str) -> AsyncIterator[User | None]:
    """Finds the user of a key, and closes what that took."""
    yield User() if owner else None


def load_by_yielding_in_a_thread(owner: str) -> Iterator[User | None]:
    """The same, blocking."""
    yield User() if owner else None


async def user_of_a_jwt(token: str | None) -> User | None:
    """Finds one."""
    return User() if token else None


def user_in_a_thread(token: str | None) -> User:
    """Finds one."""
    return User()


async def generated(token: str | None) -> AsyncIterator[User | None]:
    """Finds one, and closes something."""
    yield await user_of_a_jwt(token)


def generated_in_a_thread(token: str | None) -> Iterator[User]:
    """Finds one, and closes something."""
    yield User()


class Users:
    """Finds one."""

    async def __call__(self, token: str | None) -> User | None:
        """Finds one."""
        return await user_of_a_jwt(token)


def key_or_user(auth: APIKeyAuth) -> None:
    """What routes ask for that take a JWT as well."""
    caller = auth.either(user_of_a_jwt)
    assert_type(caller, Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.either(user_in_a_thread), Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.either(generated), Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.either(generated_in_a_thread), Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.either(Users()), Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.either(User), Callable[..., Awaitable[APIKey | User]])
    assert_type(auth.carried, CarriedAPIKey)

    async def route(who: Annotated[APIKey | User, Security(caller, scopes=["a"])]) -> None:
        assert_type(who, APIKey | User)

    FastAPI().get("/")(route)


def limit_of(key: APIKey) -> RateLimit | None:
    """The limit of a plan."""
    limit = RateLimit(requests=100, per=timedelta(minutes=1))
    assert_type((limit.requests, limit.per), tuple[int, timedelta])
    return limit if key.metadata.get("plan") == "free" else None


def limits(keys: APIKeys, key: APIKey, limiter: Limiter) -> None:
    """What counts."""
    assert_type(limiter.rule, RateLimit | Callable[[APIKey], RateLimit | None])
    assert_type(limiter.take(key, None), int | None)
    assert_type(keys.limit(key, limiter), None)


async def fastapi(keys: APIKeys, connection: HTTPConnection, scopes: SecurityScopes) -> None:
    """What routes ask for."""
    auth = APIKeyAuth(keys, bearer=True, headers=["X-API-Key"], realm="api", scheme_name="APIKey")
    assert_type(auth, APIKeyAuth)
    APIKeyAuth(keys, bearer=False, headers=[], cookie="__Host-key", query="key")
    APIKeyAuth(keys, rate_limit=RateLimit(100, timedelta(minutes=1)))
    APIKeyAuth(keys, rate_limit=limit_of)
    assert_type(auth.query_of("a token"), dict[str, str])
    assert_type(auth.keys, APIKeys)
    assert_type(auth.door, Door)
    assert_type(await auth(connection, scopes), APIKey)
    optional = auth.optional
    assert_type(optional, OptionalAPIKey)
    assert_type(await optional(connection, scopes), APIKey | None)
    carried = auth.carried
    assert_type(carried, CarriedAPIKey)
    assert_type(carried.mark, object)
    assert_type(await carried(connection, scopes), APIKey | Undecided)
    assert_type(auth.owner(load), Callable[..., Awaitable[User]])
    assert_type(auth.owner(load_in_a_thread), Callable[..., Awaitable[User]])
    assert_type(auth.owner(load_by_yielding), Callable[..., Awaitable[User]])
    assert_type(auth.owner(load_by_yielding_in_a_thread), Callable[..., Awaitable[User]])
    assert_type(auth.over(keys), APIKeyAuth)
    assert_type(auth.headers_of("a token"), dict[str, str])
    assert_type(keys_router(auth), APIRouter)
    app = FastAPI(lifespan=keys.lifespan)
    app.include_router(keys_router(auth), prefix="/api-keys")
    app.add_exception_handler(UnavailableError, unavailable_error_handler)
    app.add_exception_handler(RefusedError, problem_handler)

    @app.get("/items")
    async def items(key: Annotated[APIKey, Security(auth, scopes=["items:read"])]) -> str:
        return key.id


async def lasting(
    auth: APIKeyAuth, socket: WebSocket, request: Request, feed: AsyncIterator[User]
) -> None:
    """What goes on for long."""
    assert_type(await auth.again(socket), APIKey)
    assert_type(await auth.again(request, scopes=["items:write"]), APIKey)
    assert_type(
        auth.while_valid(request, feed, scopes=["items:read"], every=1.0), AsyncIterator[User]
    )
    async for text in auth.while_valid(socket, socket.iter_text()):
        assert_type(text, str)
    assert_type(await verify_again(socket.scope, auth.keys), APIKey)


def closed(error: ClosedError) -> None:
    """A WebSocket that cannot be answered."""
    assert_type((error.error, error.code), tuple[AuthenticationError | UnavailableError, int])
    assert_type(error.detail, str)


def logs(record: logging.LogRecord, event: dict[str, Any]) -> None:
    """What is masked."""
    assert_type(install(), None)
    assert_type(install("", "uvicorn.access"), None)
    assert_type(MaskTokens().filter(record), bool)
    assert_type(mask_tokens(None, "info", event), MutableMapping[str, Any])


async def asgi(keys: APIKeys, scope: Scope, receive: Receive, send: Send) -> None:
    """What stands around an application."""
    FastAPI().add_middleware(
        APIKeyMiddleware, keys=keys, exclude=["/health"], cookie="key", query="key"
    )
    outside = APIKeyMiddleware(FastAPI(), keys, scopes=["items:read"], rate_limit=limit_of)
    assert_type(await outside(scope, receive, send), None)
    assert_type(outside.scopes, frozenset[str])
    assert_type(outside.leaves_open("/items/{id}"), bool)
    assert_type(verified_key(scope, keys), APIKey | None)


def prometheus(keys: APIKeys) -> None:
    """What Prometheus scrapes."""
    collector = HealthCollector(keys, name="partners")
    assert_type(collector.collect(), Iterator[Metric])
    REGISTRY.register(collector)
