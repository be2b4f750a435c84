"""keyshield's own example for FastAPI and SQLAlchemy, in the variant that the environment names.

`python shielded.py` makes the table and a key, and prints the key. The example makes sure of the
table on every request; here that is done once, in the peer's favour.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiocache
from fastapi import Depends, FastAPI
from keyshield import ApiKey, ApiKeyService
from keyshield.api import create_depends_api_key
from keyshield.hasher.argon2 import Argon2ApiKeyHasher
from keyshield.repositories.in_memory import InMemoryApiKeyRepository
from keyshield.repositories.sql import SqlAlchemyApiKeyRepository
from keyshield.services.cached import CachedApiKeyService
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

ITEMS = {"items": ["one", "two", "three"]}
# default: as the example has it. cached: its cache on and its sleep off. memory: no database.
VARIANT = os.environ["BENCH_VARIANT"]
# In memory each worker makes the key for itself.
KEY = {"key_id": "0123456789abcdef", "key_secret": "s" * 64}

hasher = Argon2ApiKeyHasher(pepper="a pepper of the benchmark")
engine = create_async_engine(os.environ["BENCH_DATABASE"])
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
cache = aiocache.SimpleMemoryCache()
no_sleep = {"min_delay": 0.0, "max_delay": 0.0}
in_memory = CachedApiKeyService(InMemoryApiKeyRepository(), hasher, cache=cache, **no_sleep)


async def create(service: ApiKeyService) -> str:
    """Makes the key."""
    _, token = await service.create(name="ci", scopes=["items:read"], **KEY)
    return token


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Makes the key of a process that has no database."""
    if VARIANT == "memory":
        await create(in_memory)
    yield
    await engine.dispose()


async def session() -> AsyncIterator[AsyncSession]:
    """As in the example."""
    async with sessions() as opened, opened.begin():
        yield opened


async def sql_service(opened: AsyncSession = Depends(session)) -> ApiKeyService:  # noqa: B008
    """As in the example, or with all that makes it fast."""
    repository = SqlAlchemyApiKeyRepository(opened)
    if VARIANT == "default":
        return ApiKeyService(repo=repository, hasher=hasher)
    return CachedApiKeyService(repository, hasher, cache=cache, **no_sleep)


async def memory_service() -> ApiKeyService:
    """The one of this process."""
    return in_memory


service_of = memory_service if VARIANT == "memory" else sql_service
security = create_depends_api_key(service_of, required_scopes=["items:read"])
app = FastAPI(lifespan=lifespan)


@app.get("/open")
async def open_route():
    """Whoever asks."""
    return ITEMS


@app.get("/key")
async def key_route(key: ApiKey = Depends(security)):  # noqa: B008, FAST002
    """With a key of keyshield."""
    return ITEMS


async def prepare() -> None:
    """Makes the table, and a key in it."""
    async with sessions() as opened, opened.begin():
        repository = SqlAlchemyApiKeyRepository(opened)
        await repository.ensure_table(async_engine=engine)
        print(await create(ApiKeyService(repo=repository, hasher=hasher)))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(prepare())
