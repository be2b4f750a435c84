"""The application under load: one open route, and the same route behind what is compared.

Uvicorn serves it, and `driver.py` calls it. The environment names the database and a key.
"""

import hmac
import os
from typing import Annotated

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
app = FastAPI(lifespan=keys.lifespan)
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


@app.get("/open")
async def open_route():
    """Whoever asks."""
    return ITEMS


@app.get("/floor")
async def floor_route(_: Annotated[None, Depends(nothing)]):
    """What a dependency costs that does nothing."""
    return ITEMS


@app.get("/scoped-floor")
async def scoped_floor_route(
    _: Annotated[None, Security(nothing_scoped, scopes=["items:read"])],
):
    """What FastAPI does for keylatch before keylatch does anything."""
    return ITEMS


@app.get("/hard-coded")
async def hard_coded_route(_: Annotated[None, Depends(hard_coded)]):
    """One key in the source, no scopes, nothing to revoke."""
    return ITEMS


@app.get("/key")
async def key_route(key: Annotated[APIKey, Security(auth, scopes=["items:read"])]):
    """With a key of keylatch."""
    return ITEMS


@app.get("/queries")
async def queries_route():
    """What this process has asked the database so far."""
    return queries


guarded = APIKeyMiddleware and APIKeyMiddleware(app, keys=keys)
