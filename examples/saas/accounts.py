"""Who uses the service: organisations, their plans, their people, and how these log in.

The service had all this before it had API keys: nothing here knows of them.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, HTTPException, Security
from fastapi.security import APIKeyCookie
from sqlalchemy import ForeignKey, LargeBinary, String, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SESSION_SECONDS = 8 * 3600

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///saas.db"))
# An id is never given again, so that nobody inherits what belonged to somebody else.
new_id = partial(secrets.token_hex, 16)


@dataclass(frozen=True)
class Plan:
    """What an organisation has bought: how many living keys, and what these may do."""

    keys: int
    scopes: frozenset[str]


PLANS = {
    "free": Plan(keys=2, scopes=frozenset({"notes:read", "notes:write"})),
    "pro": Plan(
        keys=20, scopes=frozenset({"notes:read", "notes:write", "stats:read", "keys:read"})
    ),
}


class Base(DeclarativeBase):
    """The tables of the service."""


class Organisation(Base):
    """A customer."""

    __tablename__ = "organisations"
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    plan: Mapped[str] = mapped_column(String(10), default="free")


class User(Base):
    """Somebody of an organisation."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    email: Mapped[str] = mapped_column(String(200), unique=True)
    password: Mapped[bytes] = mapped_column(LargeBinary(80))


class Login(Base):
    """A session of a user's, by the digest of what their cookie holds."""

    __tablename__ = "logins"
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    ends_at: Mapped[float]


async def session() -> AsyncIterator[AsyncSession]:
    """A session of the database for each request."""
    async with AsyncSession(engine, expire_on_commit=False) as db:
        yield db


Database = Annotated[AsyncSession, Depends(session)]


async def hashed(password: str, salt: bytes) -> bytes:
    """What is kept of a password. People choose them, so this is slow, and done in a thread."""
    derive = partial(hashlib.scrypt, n=2**14, r=8, p=1, salt=salt)
    return salt + await asyncio.to_thread(derive, password.encode())


async def log_in(email: str, password: str, db: AsyncSession) -> str:
    """Starts a session of whom these belong to; the text is for a cookie."""
    user = await db.scalar(select(User).where(User.email == email))
    kept = bytes(80) if user is None else user.password  # as slow if there is no such user
    given = await hashed(password, kept[:16])
    if user is None or not hmac.compare_digest(given, kept):
        raise HTTPException(401, "Wrong e-mail address or password")
    cookie = secrets.token_urlsafe(32)
    ends_at = time.time() + SESSION_SECONDS
    db.add(Login(digest=digest(cookie), user_id=user.id, ends_at=ends_at))
    await db.commit()
    return cookie


def digest(cookie: str) -> bytes:
    """What is kept of a session's random text: a stolen database opens no session."""
    return hashlib.sha256(cookie.encode()).digest()


Cookie = Annotated[
    str | None, Security(APIKeyCookie(name="session", scheme_name="Session", auto_error=False))
]


async def logged_in(cookie: Cookie, db: Database) -> User:
    """The user whose session it is."""
    user = await db.scalar(
        select(User)
        .join(Login, Login.user_id == User.id)
        .where(Login.digest == digest(cookie or ""), Login.ends_at > time.time())
    )
    if user is None:
        raise HTTPException(401, "Log in first")
    return user


Person = Annotated[User, Depends(logged_in)]
