"""Users, and API keys that belong to them: the article's app on keylatch. See README.md."""

import os
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response, Security
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from keylatch import APIKey, APIKeys, NewKey
from keylatch.errors import UnavailableError, UnknownKeyError
from keylatch.fastapi import APIKeyAuth, unavailable_error_handler

# One database and one engine: the app's users in it, and keylatch's keys beside them.
engine = create_async_engine(
    os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///article.db"), hide_parameters=True
)
# The server secret comes from the environment: KEYLATCH_SECRET.
# Tokens of the article's own app may have been imported: see README.md.
keys = APIKeys(engine, prefix="MV_SECRET", imported_tokens=True)
# Takes the key from `Authorization: Bearer`, and only from there.
api_key_header = APIKeyAuth(keys, headers=())


class Base(DeclarativeBase):
    """The app's own tables. keylatch keeps its own apart, in api_keys and api_key_events."""


class Users(Base):
    """A user. Keys name their user by `id`, which nobody else is ever given.

    It is random, but of those who had a key of the article's own app: that key names their user_id.
    """

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String(255), primary_key=True, default=lambda: uuid.uuid4().hex)
    user_id: Mapped[str] = mapped_column(String(255), unique=True)
    first_name: Mapped[str] = mapped_column(String(255), default="")
    last_name: Mapped[str] = mapped_column(String(255), default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


async def get_db() -> AsyncIterator[AsyncSession]:
    """A session for each request."""
    async with AsyncSession(engine) as db:
        yield db


Database = Annotated[AsyncSession, Depends(get_db)]


async def generate_api_key(
    user: Users,
    *,
    name: str,
    scopes: Iterable[str] = (),
    expires_at: datetime | None = None,
    actor: str,
    db: AsyncSession | None = None,
) -> NewKey:
    """Makes a key of this user's, and saves its hash. Its token is not kept: show it once."""
    return await keys.create(
        name=name, owner=user.id, scopes=scopes, expires_at=expires_at, actor=actor, connection=db
    )


async def save_generated_key(user_id: str, db: AsyncSession, *, name: str, actor: str) -> NewKey:
    """Gives the user of this name a key that may make others, once the session is committed.

    For manage.py: no route does it.
    """
    user = (await db.scalars(select(Users).where(Users.user_id == user_id))).one()
    return await generate_api_key(user, name=name, scopes=["keys:write"], actor=actor, db=db)


async def verify_api_key(key: Annotated[APIKey, Security(api_key_header)], db: Database) -> Users:
    """From the key, verified by now, to its user."""
    user = await db.scalar(select(Users).where(Users.id == key.owner))
    if user is None:
        challenge = 'Bearer realm="api", error="invalid_token"'
        raise HTTPException(401, "This key has no user", {"WWW-Authenticate": challenge})
    return user


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Makes the tables that are missing, and starts and ends keylatch with the app."""
    async with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            # Not create_all: it looks first, so that two processes would both create.
            await connection.execute(CreateTable(table, if_not_exists=True))
    async with keys.lifespan(app):
        yield
    await engine.dispose()


app = FastAPI(title="The article's app, on keylatch", lifespan=lifespan)
app.add_exception_handler(UnavailableError, unavailable_error_handler)


class User(BaseModel):
    """What is told about a user."""

    user_id: str
    first_name: str
    last_name: str


@app.get("/user")
async def get_current_user(user: Annotated[Users, Depends(verify_api_key)]) -> User:
    """The user of the key. Any key of theirs will do."""
    return User.model_validate(user, from_attributes=True)


class KeyRequest(BaseModel):
    """What a user may choose about a new key. Whose it will be is not among it."""

    name: str
    scopes: list[str] = []
    expires_at: AwareDatetime | None = None


class CreatedKey(BaseModel):
    """A new key, with its token, which is shown this once."""

    id: str
    token: str
    expires_at: datetime | None


# Both depend on the same scopes, so FastAPI has the key verified once for the two of them.
KeyMaker = Annotated[APIKey, Security(api_key_header, scopes=["keys:write"])]
KeyMakersUser = Annotated[Users, Security(verify_api_key, scopes=["keys:write"])]


@app.post("/user/keys", status_code=201)
async def create_key(
    wanted: KeyRequest, key: KeyMaker, user: KeyMakersUser, response: Response
) -> CreatedKey:
    """Makes another key for the caller: no wider than the one it is made with, and no longer."""
    if not key.scopes.issuperset(wanted.scopes):
        raise HTTPException(403, "A key can only hand on scopes that it has")
    ends = min((end for end in (wanted.expires_at, key.expires_at) if end), default=None)
    try:
        new = await generate_api_key(
            user, name=wanted.name, scopes=wanted.scopes, expires_at=ends, actor=key.id
        )
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    response.headers["Cache-Control"] = "no-store"
    return CreatedKey(id=new.key.id, token=new.token, expires_at=new.key.expires_at)


@app.delete("/user/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, key: KeyMaker) -> None:
    """Revokes a key of the caller's, for good."""
    try:
        owner = (await keys.get(key_id)).owner
    except UnknownKeyError:
        owner = None
    if owner != key.owner:
        raise HTTPException(404, "You have no such key")
    await keys.revoke(key_id, actor=key.id)
