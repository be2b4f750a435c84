"""A small application whose routes are protected by keylatch. `serve.py` runs it."""

import os
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException, Response, Security
from pydantic import BaseModel

from keylatch import APIKey, APIKeys
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, unavailable_error_handler

# The server secret comes from the environment: KEYLATCH_SECRET.
keys = APIKeys(os.environ["DEMO_DATABASE"], prefix="demo")
auth = APIKeyAuth(keys)
app = FastAPI(title="keylatch demo", lifespan=keys.lifespan)
app.add_exception_handler(UnavailableError, unavailable_error_handler)


class CreatedKey(BaseModel):
    """A new key, with its token, which is shown this once."""

    id: str
    token: str
    scopes: list[str]


@app.get("/")
async def index() -> dict[str, str]:
    """Open to everybody."""
    return {"hello": "world"}


@app.get("/me")
async def me(key: Annotated[APIKey, Security(auth)]) -> dict[str, str | None]:
    """Needs a key, any key."""
    return {"key": key.id, "name": key.name, "owner": key.owner}


@app.get("/reports")
async def reports(key: Annotated[APIKey, Security(auth, scopes=["reports:read"])]) -> list[str]:
    """Needs a key with the scope reports:read."""
    return [f"A report for {key.owner}"]


@app.post("/keys", status_code=201)
async def create_key(
    caller: Annotated[APIKey, Security(auth, scopes=["keys:write"])],
    name: Annotated[str, Body()],
    scopes: Annotated[list[str], Body()],
    response: Response,
) -> CreatedKey:
    """Makes another key for the caller's owner: it may do no more, and lives no longer."""
    if not caller.scopes.issuperset(scopes):
        raise HTTPException(403, "A key can only hand on scopes that it has")
    try:
        new = await keys.create(
            name=name,
            owner=caller.owner,
            scopes=scopes,
            expires_at=caller.expires_at,
            actor=caller.id,
        )
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    response.headers["Cache-Control"] = "no-store"
    return CreatedKey(id=new.key.id, token=new.token, scopes=sorted(new.key.scopes))
