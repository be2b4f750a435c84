"""An app that was there before its keys: synchronous routes and sessions, and tables of its own.

Below stands what it had; what keylatch adds begins at `keys`.
"""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

from anyio import from_thread
from fastapi import Depends, FastAPI, HTTPException, Response, Security
from pydantic import BaseModel, Field
from sqlalchemy import ForeignKey, String, create_engine, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keylatch import APIKeys
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, keys_router, unavailable_error_handler
from keylatch.sqlalchemy import metadata as tables_of_keys

engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///existing.db"))


class Base(DeclarativeBase):
    """The app's own tables."""


class User(Base):
    """Somebody who signed up. An id is never given again, so that nobody inherits keys."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(
        String(32), primary_key=True, default=partial(secrets.token_hex, 16)
    )
    name: Mapped[str] = mapped_column(String(50), unique=True)


class Task(Base):
    """What a user wants done."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    text: Mapped[str] = mapped_column(String(200))


def session() -> Iterator[Session]:
    """A session for each request."""
    with Session(engine) as db:
        yield db


Database = Annotated[Session, Depends(session)]

# The same engine, synchronous as it is: keys stand in the same database, and in its transactions.
keys = APIKeys(engine, prefix="tasks")
auth = APIKeyAuth(keys)


def find_user(owner: str, db: Database) -> User | None:
    """From a key, verified by now, to its user."""
    return db.get(User, owner)


Reader = Annotated[User, Security(auth.owner(find_user), scopes=["tasks:read"])]
Writer = Annotated[User, Security(auth.owner(find_user), scopes=["tasks:write"])]
Leaver = Annotated[User, Security(auth.owner(find_user), scopes=["account:delete"])]
EVERYTHING = ["account:delete", "keys:read", "keys:write", "tasks:read", "tasks:write"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Makes the tables that are missing, and starts and ends keylatch with the app."""
    for metadata in (Base.metadata, tables_of_keys):  # or Alembic, with both as target_metadata
        metadata.create_all(engine)
    async with keys.lifespan(app):
        yield
    engine.dispose()


app = FastAPI(title="An existing app", lifespan=lifespan)
app.add_exception_handler(UnavailableError, unavailable_error_handler)
app.include_router(keys_router(auth), prefix="/keys")


class NewUser(BaseModel):
    """Who signs up."""

    name: str = Field(pattern="^[a-z0-9-]{1,50}$")


class FirstKey(BaseModel):
    """A user's first key, with its token, which is shown this once."""

    user_id: str
    token: str


class NewTask(BaseModel):
    """What is to be done."""

    text: str = Field(pattern=r"^[^\x00]{1,200}$")


@app.post("/users", status_code=201)
def sign_up(wanted: NewUser, db: Database, response: Response) -> FirstKey:
    """Adds a user and their first key: both or neither. Open to everybody."""
    user = User(name=wanted.name)
    db.add(user)
    try:
        db.flush()
    except IntegrityError:
        raise HTTPException(409, "The name is taken: choose another one") from None
    # This runs in a thread, and keylatch in the event loop; the session is used by one at a time.
    create = partial(keys.create, name="first", owner=user.id, scopes=EVERYTHING, connection=db)
    new = from_thread.run(create)
    db.commit()
    response.headers["Cache-Control"] = "no-store"
    return FirstKey(user_id=user.id, token=new.token)


@app.get("/tasks")
def list_tasks(user: Reader, db: Database) -> list[str]:
    """The tasks of the key's user, the oldest first."""
    tasks = select(Task.text).where(Task.user_id == user.id).order_by(Task.id)
    return list(db.scalars(tasks))


@app.post("/tasks", status_code=201)
def add_task(wanted: NewTask, user: Writer, db: Database) -> None:
    """Adds a task for the key's user."""
    db.add(Task(user_id=user.id, text=wanted.text))
    db.commit()


@app.delete("/users/me", status_code=204)
def leave(user: Leaver, db: Database) -> None:
    """Removes the user with all tasks, and ends all keys: everything or nothing."""
    from_thread.run(partial(keys.revoke_all, owner=user.id, reason="left", connection=db))
    db.execute(delete(Task).where(Task.user_id == user.id))
    db.delete(user)
    db.commit()
