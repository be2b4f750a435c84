"""The applications under load: an open route, and the same route behind each of what is compared.

Uvicorn serves it, and `driver.py` calls it. The environment names the database and a key.
"""

import hmac
import os
from collections.abc import Callable
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader, SecurityScopes
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.requests import HTTPConnection

from keylatch import APIKey, APIKeys
from keylatch.fastapi import APIKeyAuth

try:
    from keylatch.asgi import APIKeyMiddleware
except ImportError:  # the case is left out
    APIKeyMiddleware = None

ITEMS = {"items": ["one", "two", "three"]}
# The one key of the application that has no database.
HARD_CODED = f"Bearer {os.environ['BENCH_TOKEN']}"

engine = create_async_engine(os.environ["BENCH_DATABASE"])
keys = APIKeys(engine, prefix="acme_live")
auth = APIKeyAuth(keys)
header = APIKeyHeader(name="Authorization", auto_error=False)
queries = {"all": 0, "lookups": 0}


@sa.event.listens_for(engine.sync_engine, "before_cursor_execute")
def _count(connection, cursor, statement, *_):
    queries["all"] += 1
    queries["lookups"] += "JOIN api_keys ON" in statement


async def nothing() -> None:
    """A dependency that does nothing: what FastAPI takes for any."""


async def nothing_scoped(connection: HTTPConnection, scopes: SecurityScopes) -> None:
    """The same, for one that is given what keylatch's is given."""


async def hard_coded(given: Annotated[str | None, Security(header)]) -> None:
    """What a tutorial does."""
    if given is None or not hmac.compare_digest(given.encode(), HARD_CODED.encode()):
        raise HTTPException(401, "Not authenticated")


async def refusing() -> None:
    """Refuses whoever asks: what FastAPI takes for a refusal."""
    raise HTTPException(401, "Not authenticated")


async def open_route():
    """Whoever asks."""
    return ITEMS


async def floor_route(_: Annotated[None, Depends(nothing)]):
    """What a dependency costs that does nothing."""
    return ITEMS


async def scoped_floor_route(
    _: Annotated[None, Security(nothing_scoped, scopes=["items:read"])],
):
    """What FastAPI does for keylatch before keylatch does anything."""
    return ITEMS


async def refused_route(_: Annotated[None, Depends(refusing)]):
    """Nobody."""
    return ITEMS


async def hard_coded_route(_: Annotated[None, Depends(hard_coded)]):
    """One key in the source, no scopes, nothing to revoke."""
    return ITEMS


async def key_route(key: Annotated[APIKey, Security(auth, scopes=["items:read"])]):
    """With a key of keylatch."""
    return ITEMS


async def queries_route():
    """What this process has asked the database so far."""
    return queries


def application(route: Callable[..., Any]) -> FastAPI:
    """One whose first route this is: each that stands before another makes it slower."""
    app = FastAPI(lifespan=keys.lifespan)
    app.get("/items")(route)
    app.get("/open")(open_route)
    app.get("/queries")(queries_route)
    return app


open_app = application(open_route)
floor_app = application(floor_route)
scoped_floor_app = application(scoped_floor_route)
refusing_app = application(refused_route)
hard_coded_app = application(hard_coded_route)
key_app = application(key_route)
guarded = APIKeyMiddleware and APIKeyMiddleware(application(open_route), keys=keys)
