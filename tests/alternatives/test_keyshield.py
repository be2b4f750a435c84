"""keyshield's column of the README's table beside other libraries.

With the cheapest Argon2 and without its random sleep, for the sake of time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiocache import SimpleMemoryCache
from argon2 import PasswordHasher
from claims import Claims, bearer, mistyped, rows, speaks_of, statements, tables
from fastapi import Depends, FastAPI, Security
from keyshield import ApiKeyService
from keyshield.api import create_api_keys_router, create_depends_api_key
from keyshield.hasher.argon2 import Argon2ApiKeyHasher
from keyshield.repositories.sql import SqlAlchemyApiKeyRepository
from keyshield.services.cached import CachedApiKeyService
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

pytestmark = pytest.mark.anyio

shows = Claims("keyshield")

HASHER = Argon2ApiKeyHasher(
    pepper="pepper", password_hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
)


class Shield:
    """A process that uses keyshield, with a cache or without."""

    def __init__(self, path: Path, cache: SimpleMemoryCache | None = None) -> None:
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self.cache = cache
        self.app = FastAPI()
        self.app.include_router(create_api_keys_router(self.service))
        valid = create_depends_api_key(self.service)

        @self.app.get("/")
        async def items(key=Security(valid)) -> str:  # noqa: B008 - as its documentation has it
            return key.name

    async def service(self) -> AsyncIterator[ApiKeyService]:
        """A service with a transaction of its own."""
        options = {"hasher": HASHER, "min_delay": 0, "max_delay": 0}
        async with AsyncSession(self.engine) as session, session.begin():
            repo = SqlAlchemyApiKeyRepository(session)
            if self.cache is None:
                yield ApiKeyService(repo, **options)
            else:
                yield CachedApiKeyService(repo, cache=self.cache, **options)

    async def create(self, **options: Any) -> tuple[Any, str]:
        """A key and its token."""
        async with asynccontextmanager(self.service)() as service:
            return await service.create(**options)


@pytest.fixture
async def shields(path) -> AsyncIterator[tuple[Shield, Shield, Shield]]:
    """One without a cache, and two with one of their own; the same keys in all."""
    all_of_them = Shield(path), Shield(path, SimpleMemoryCache()), Shield(path, SimpleMemoryCache())
    async with AsyncSession(all_of_them[0].engine) as session:
        await SqlAlchemyApiKeyRepository(session).ensure_table(all_of_them[0].engine)
    yield all_of_them
    for shield in all_of_them:
        await shield.engine.dispose()


@shows("what is stored of a key", "Argon2id with a pepper, which has a default and then warns")
async def test_keyshield_stores_argon2id(shields, path):
    """Of the secret and the pepper."""
    _, token = await shields[0].create(name="ci")
    ((stored,),) = rows(path, "SELECT key_hash FROM api_keys")
    assert stored.startswith("$argon2id$")
    assert PasswordHasher().verify(stored, token.rpartition("-")[2] + "pepper")
    with pytest.warns(UserWarning, match="default pepper"):
        Argon2ApiKeyHasher()


@shows("scopes", "yes")
@shows("limits the rate of a key", "no")
async def test_keyshield_has_scopes_and_no_rate_limits(shields, ask):
    """A key without the scope is answered 403, and twenty requests with it 200."""
    app = FastAPI()
    valid = create_depends_api_key(shields[1].service, required_scopes=["b"])
    app.get("/", dependencies=[Depends(valid)])(lambda: "items")
    _, lacking = await shields[0].create(name="ci", scopes=["a"])
    _, having = await shields[0].create(name="ci", scopes=["b"])
    assert (await ask(app, bearer(lacking))).status == 403
    for _ in range(20):
        assert (await ask(app, bearer(having))).status == 200
    words = ("rate_limit", "ratelimit", "throttl", "429")
    assert not [word for word in words if speaks_of("keyshield", word)]


@shows("a key is replaced with an overlap", "no")
@shows("who changed a key is recorded", "no")
async def test_keyshield_has_no_rotation_and_no_trail(shields, path):
    """Its source has no word of it, and it has one table, which names nobody."""
    assert not speaks_of("keyshield", "rotat")
    assert not speaks_of("keyshield", "audit")
    assert tables(path) == {"api_keys"}
    columns = {name for (name,) in rows(path, "SELECT name FROM pragma_table_info('api_keys')")}
    assert not {name for name in columns if "_by" in name or "actor" in name}


@shows("a key that was switched off can be switched on again", "yes")
@shows("routes that manage keys", "open until you protect them")
async def test_keyshield_switches_keys_off_and_on(shields, ask):
    """By routes that ask for no key."""
    shield = shields[0]
    made = await ask(
        shield.app,
        [(b"content-type", b"application/json")],
        path="/api-keys/",
        method="POST",
        body=b'{"name": "ci"}',
    )
    assert made.status == 201
    entity, token = await shield.create(name="ci")
    for action, status in (("deactivate", 403), ("activate", 200)):
        path = f"/api-keys/{entity.id_}/{action}"
        assert (await ask(shield.app, path=path, method="POST")).status == 200
        assert (await ask(shield.app, bearer(token))).status == status


@shows(
    "a key revoked in one process, in another that has used it",
    "refused; if each has a memory cache, accepted and switched on again for all",
)
async def test_keyshield_revives_a_key_that_is_cached(shields, ask):
    """The request that was accepted writes what was cached, and so opens the key everywhere."""
    plain, cached, elsewhere = shields
    entity, token = await elsewhere.create(name="ci")
    for shield in (plain, cached):
        assert (await ask(shield.app, bearer(token))).status == 200
    off = f"/api-keys/{entity.id_}/deactivate"
    assert (await ask(elsewhere.app, path=off, method="POST")).status == 200
    assert (await ask(plain.app, bearer(token))).status == 403
    assert (await ask(cached.app, bearer(token))).status == 200
    assert (await ask(plain.app, bearer(token))).status == 200


@shows("queries of a second request with a key", "2 reads and 1 write; with a cache 1 and 1")
@shows("queries of a mistyped key", "1")
async def test_keyshield_writes_with_each_request(shields, ask):
    """Its cache spares a read, and the hash."""
    _, token = await shields[0].create(name="ci")
    for shield, reads in zip(shields[:2], (2, 1), strict=True):
        assert (await ask(shield.app, bearer(token))).status == 200
        with statements() as counts:
            assert (await ask(shield.app, bearer(token))).status == 200
        assert counts == {"read": reads, "write": 1}
        with statements() as counts:
            assert (await ask(shield.app, bearer(mistyped(token)))).status == 401
        assert counts == {"read": 1}


@shows("a header that stands twice, with two keys", "the first one counts")
async def test_keyshield_takes_the_first_key(shields, ask):
    """Whichever that is."""
    tokens = [(await shields[0].create(name=name))[1] for name in ("one", "two")]
    assert (await ask(shields[0].app, bearer(*tokens))).body == b'"one"'
    assert (await ask(shields[0].app, bearer(*reversed(tokens)))).body == b'"two"'


def test_the_column_says_what_these_tests_show():
    """Of the version that is installed, and nothing else."""
    assert shows.cells == shows.column()
