"""A small service with an API: what programs do with a key of their organisation.

Its console, where people make these keys, is in `console.py`; who they are, in `accounts.py`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import console
from accounts import PLANS, Base, Database, Organisation, engine
from fastapi import FastAPI, HTTPException, Security
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, keys_router, unavailable_error_handler

auth = APIKeyAuth(console.keys)


class Note(Base):
    """What an organisation keeps here."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    text: Mapped[str] = mapped_column(String(100))


async def organisation(owner: str, needed: SecurityScopes, db: Database) -> Organisation | None:
    """From a key, verified by now, to its organisation, whose plan has to cover the route as well.

    So a key that was made on a better plan does less from the moment on that this one ends.
    """
    found = await db.get(Organisation, owner)
    if found is not None and not PLANS[found.plan].scopes.issuperset(needed.scopes):
        raise HTTPException(403, f"The plan {found.plan} does not have {needed.scope_str}")
    return found


caller = auth.owner(organisation)
Reader = Annotated[Organisation, Security(caller, scopes=["notes:read"])]
Writer = Annotated[Organisation, Security(caller, scopes=["notes:write"])]
Analyst = Annotated[Organisation, Security(caller, scopes=["stats:read"])]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Makes the tables that are missing, and starts and ends keylatch with the app."""
    async with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            # Not create_all: it looks first, so that two workers would both create.
            await connection.execute(CreateTable(table, if_not_exists=True))
    async with console.keys.lifespan(app):
        yield
    await engine.dispose()


app = FastAPI(title="A small SaaS", lifespan=lifespan)
app.add_exception_handler(UnavailableError, unavailable_error_handler)
app.include_router(console.router)
# On the plan pro programs may watch the keys: list them, show them, read what happened to them.
app.include_router(
    keys_router(auth), prefix="/v1/keys", dependencies=[Security(caller, scopes=["keys:read"])]
)


class NewNote(BaseModel):
    """What to keep."""

    text: console.Text


@app.post("/v1/notes", status_code=201)
async def add_note(note: NewNote, organisation: Writer, db: Database) -> None:
    """Keeps a note for the key's organisation."""
    db.add(Note(organisation_id=organisation.id, text=note.text))
    await db.commit()


@app.get("/v1/notes")
async def list_notes(organisation: Reader, db: Database) -> list[str]:
    """The latest notes of the key's organisation."""
    own = select(Note.text).where(Note.organisation_id == organisation.id)
    return list(await db.scalars(own.order_by(Note.id.desc()).limit(100)))


@app.get("/v1/stats")
async def stats(organisation: Analyst, db: Database) -> dict[str, int]:
    """Counts the notes of the key's organisation: on the plan pro only."""
    own = select(func.count()).where(Note.organisation_id == organisation.id)
    return {"notes": await db.scalar(own) or 0}
