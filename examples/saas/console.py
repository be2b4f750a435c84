"""What people do, once they have logged in: they look after their organisation, and after its keys.

No plan has the scope `keys:write`. So no key makes others, and what is made is counted here.
"""

from datetime import datetime
from typing import Annotated, Literal

from accounts import (
    PLANS,
    SESSION_SECONDS,
    Cookie,
    Database,
    Login,
    Organisation,
    Person,
    User,
    digest,
    engine,
    hashed,
    log_in,
    new_id,
)
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from keylatch import APIKey, APIKeys
from keylatch.errors import UnknownKeyError

# An organisation is the owner of its keys: they stay when the person who made them leaves.
keys = APIKeys(engine, prefix="saas")
router = APIRouter(prefix="/console", tags=["console"])

Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
Email = Annotated[str, Field(pattern=r"^[^@\s\x00]{1,90}@[^@\s\x00]{1,90}$")]
Password = Annotated[str, Field(min_length=8, max_length=100)]


class Credentials(BaseModel):
    """With what somebody logs in."""

    email: Email
    password: Password


class SignUp(Credentials):
    """A new organisation, and the first of its people."""

    organisation: Text


class Subscription(BaseModel):
    """What an organisation has bought."""

    plan: Literal["free", "pro"]


class WantedKey(BaseModel):
    """A key to be made. Whose it will be is not among what is asked."""

    name: Text
    scopes: list[str]
    expires_at: AwareDatetime | None = None


class Key(BaseModel):
    """A key, as people see it."""

    id: str
    name: str
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, key: APIKey) -> "Key":
        """What is shown of a key."""
        scopes = sorted(key.scopes)
        return cls(
            id=key.id,
            name=key.name,
            scopes=scopes,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
        )


class MadeKey(BaseModel):
    """A new key, with its token, which is shown this once."""

    key: Key
    token: str


@router.post("/signup", status_code=204)
async def sign_up(wanted: SignUp, db: Database) -> None:
    """Adds an organisation on the free plan, with its first user. Open to everybody."""
    organisation = Organisation(name=wanted.organisation)
    db.add(organisation)
    await db.flush()
    await add_user(wanted, organisation.id, db)


@router.post("/members", status_code=204)
async def add_member(wanted: Credentials, person: Person, db: Database) -> None:
    """Adds a colleague."""
    await add_user(wanted, person.organisation_id, db)


async def add_user(wanted: Credentials, organisation_id: str, db: AsyncSession) -> None:
    """Adds a user to an organisation."""
    password = await hashed(wanted.password, bytes.fromhex(new_id()))
    db.add(User(email=wanted.email, password=password, organisation_id=organisation_id))
    try:
        await db.commit()
    except IntegrityError:
        raise HTTPException(409, "There is an account with this e-mail address") from None


@router.post("/login", status_code=204)
async def login(given: Credentials, request: Request, response: Response, db: Database) -> None:
    """Starts a session. Its cookie goes along with requests of this site only."""
    response.set_cookie(
        "session",
        await log_in(given.email, given.password, db),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.post("/logout", status_code=204)
async def logout(cookie: Cookie, response: Response, db: Database) -> None:
    """Ends the session."""
    await db.execute(delete(Login).where(Login.digest == digest(cookie or "")))
    await db.commit()
    response.delete_cookie("session")


@router.put("/plan", status_code=204)
async def subscribe(wanted: Subscription, person: Person) -> None:
    """Changes the plan, where a payment would come in. Keys lose at once what it does not cover."""
    async with AsyncSession(engine) as db, db.begin():
        organisation = await locked(person.organisation_id, db)
        limit = PLANS[wanted.plan].keys
        if await living(organisation, db, limit + 1) > limit:
            raise HTTPException(409, f"The plan {wanted.plan} has {limit} keys: revoke some first")
        organisation.plan = wanted.plan


@router.post("/keys", status_code=201)
async def make_key(wanted: WantedKey, person: Person, response: Response) -> MadeKey:
    """Makes a key for the organisation, within its plan."""
    async with AsyncSession(engine) as db, db.begin():
        organisation = await locked(person.organisation_id, db)
        plan = PLANS[organisation.plan]
        if not plan.scopes.issuperset(wanted.scopes):
            scopes = ", ".join(sorted(plan.scopes))
            raise HTTPException(403, f"The plan {organisation.plan} has the scopes {scopes}")
        if await living(organisation, db, plan.keys) >= plan.keys:
            raise HTTPException(409, f"The plan {organisation.plan} has {plan.keys} keys")
        try:
            new = await keys.create(
                name=wanted.name,
                owner=organisation.id,
                scopes=wanted.scopes,
                expires_at=wanted.expires_at,
                actor=f"user:{person.id}",
                connection=db,
            )
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
    response.headers["Cache-Control"] = "no-store"
    return MadeKey(key=Key.of(new.key), token=new.token)


async def locked(organisation_id: str, db: AsyncSession) -> Organisation:
    """The organisation as it is, while nobody else changes its plan or makes it a key."""
    own = Organisation.id == organisation_id
    await db.execute(update(Organisation).where(own).values(name=Organisation.name))
    return await db.get_one(Organisation, organisation_id)


async def living(organisation: Organisation, db: AsyncSession, limit: int) -> int:
    """How many living keys an organisation has, up to a limit."""
    page = await keys.list(owner=organisation.id, status="active", limit=limit, connection=db)
    return len(page.items)


@router.get("/keys")
async def list_keys(person: Person) -> list[Key]:
    """The organisation's living keys, the newest first."""
    page = await keys.list(owner=person.organisation_id, status="active")
    return [Key.of(key) for key in page.items]


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, person: Person) -> None:
    """Revokes a key of the organisation, for good, whoever made it."""
    try:
        owner = (await keys.get(key_id)).owner
    except UnknownKeyError:
        owner = None
    if owner != person.organisation_id:
        raise HTTPException(404, "Your organisation has no such key")
    await keys.revoke(key_id, actor=f"user:{person.id}")
