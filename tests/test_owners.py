"""Whom a key belongs to, as an application has them: found by what the application hands in."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import pytest
from connections import talk
from fastapi import Depends, FastAPI, HTTPException, Security, WebSocket

from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


@dataclass
class User:
    """A user of the application."""

    name: str


USERS = {"u1": User("Ada")}


async def async_user(owner: str) -> User | None:
    """As most applications find one."""
    return USERS.get(owner)


def user(owner: str) -> User | None:
    """As those find one whose database blocks."""
    return USERS.get(owner)


done: list[str] = []


async def async_generator(owner: str) -> AsyncIterator[User | None]:
    """As those find one that have something to close."""
    try:
        yield USERS.get(owner)
    except HTTPException as error:
        done.append(str(error.status_code))
        raise
    finally:
        done.append("closed")


def generator(owner: str) -> Iterator[User | None]:
    """The same where that blocks."""
    try:
        yield USERS.get(owner)
    except HTTPException as error:
        done.append(str(error.status_code))
        raise
    finally:
        done.append("closed")


class Generating:
    """The same of those that keep an object for it."""

    async def __call__(self, owner: str) -> AsyncIterator[User | None]:
        """Finds one."""
        async with asynccontextmanager(async_generator)(owner) as found:
            yield found


class GeneratingInAThread:
    """The same where that blocks."""

    def __call__(self, owner: str) -> Iterator[User | None]:
        """Finds one."""
        yield from generator(owner)


async def keeping(owner: str) -> AsyncIterator[User | None]:
    """As those find one that keep every error to themselves."""
    with suppress(HTTPException):
        yield USERS.get(owner)
    done.append("closed")


class Users:
    """As those find one that keep an object for it."""

    async def __call__(self, owner: str) -> User | None:
        """Finds one."""
        return USERS.get(owner)


@pytest.fixture
def store() -> MemoryStore:
    """What a database does is the same for every owner."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    """What was done after requests is of this test."""
    done.clear()


@pytest.fixture
def auth(keys) -> APIKeyAuth:
    """The dependency."""
    return APIKeyAuth(keys)


def of_owner(auth, load, **options) -> FastAPI:
    """An application whose route says who calls it."""
    app = FastAPI()

    @app.get("/")
    async def route(found: Annotated[User, Security(auth.owner(load), **options)]) -> str:
        return found.name

    return app


@pytest.mark.parametrize(
    "load",
    [
        async_user,
        user,
        Users(),
        partial(user),
        partial(async_user),
        lambda owner: async_user(str(owner)),
    ],
)
async def test_a_key_leads_to_its_owner(auth, keys, ask, load):
    """Whatever kind of callable finds it."""
    app = of_owner(auth, load)
    new = await keys.create(name="ci", owner="u1")
    answer = await ask(app, bearer(new.token))
    assert (answer.status, answer.body) == (200, b'"Ada"')
    assert (await ask(app)).status == 401


async def test_a_key_without_an_owner_is_as_an_invalid_one(auth, keys, ask):
    """Also one whose owner is gone: nobody is let in as nobody."""
    app = of_owner(auth, async_user)
    invalid = await ask(app, bearer("junk"))
    for owner in (None, "gone"):
        new = await keys.create(name="ci", owner=owner)
        answer = await ask(app, bearer(new.token))
        assert (answer.status, answer.body) == (401, invalid.body)
        assert answer.header("www-authenticate") == invalid.header("www-authenticate")


async def test_an_owner_is_asked_for_with_scopes(auth, keys, ask):
    """They are the key's to have, before its owner is looked for."""
    asked = []

    async def load(owner: str) -> User | None:
        asked.append(owner)
        return USERS.get(owner)

    app = of_owner(auth, load, scopes=["a"])
    new = await keys.create(name="ci", owner="u1")
    assert (await ask(app, bearer(new.token))).status == 403
    assert asked == []
    new = await keys.create(name="ci", owner="u1", scopes=["a"])
    assert (await ask(app, bearer(new.token))).status == 200


async def test_what_finds_an_owner_has_dependencies(auth, keys, ask):
    """Such as the session of a database; and parameters of the request, as ever."""
    app = FastAPI()

    def session() -> dict[str, User]:
        return USERS

    async def load(
        owner: str, users: Annotated[dict, Depends(session)], greeting: str = "Hello"
    ) -> User:
        return User(f"{greeting} {users[owner].name}")

    @app.get("/")
    async def route(found: Annotated[User, Depends(auth.owner(load))]) -> str:
        return found.name

    new = await keys.create(name="ci", owner="u1")
    answer = await ask(app, bearer(new.token))
    assert (answer.status, answer.body) == (200, b'"Hello Ada"')
    assert (await ask(app)).status == 401


async def test_what_finds_no_owner_is_refused(auth):
    """A function that takes none would be given one."""
    for load in (lambda: None, lambda *, _: None):
        with pytest.raises(TypeError, match="first argument"):
            auth.owner(load)


YIELDING = [
    async_generator,
    generator,
    Generating(),
    GeneratingInAThread(),
    partial(async_generator),
    partial(generator),
    keeping,
]


@pytest.mark.parametrize("load", YIELDING)
async def test_an_owner_may_be_yielded(auth, keys, ask, load):
    """What yields them goes on after the request; nobody is let in where it yields None."""
    app = FastAPI()

    @app.get("/")
    async def route(found: Annotated[User, Security(auth.owner(load))]) -> str:
        done.append("routed")
        return found.name

    new = await keys.create(name="ci", owner="u1")
    answer = await ask(app, bearer(new.token))
    assert (answer.status, answer.body, done) == (200, b'"Ada"', ["routed", "closed"])
    done.clear()
    invalid = await ask(app, bearer("junk"))
    for owner in (None, "gone"):
        new = await keys.create(name="ci", owner=owner)
        answer = await ask(app, bearer(new.token))
        assert (answer.status, answer.body) == (401, invalid.body)
    assert "routed" not in done
    assert done.count("closed") == 1, "it is not asked about a key without an owner"


async def test_what_yields_an_owner_hears_of_errors(auth, keys, ask):
    """Of the refusal, and of the route's own, as FastAPI has it."""
    app = FastAPI()

    @app.get("/")
    async def route(found: Annotated[User, Security(auth.owner(async_generator))]) -> None:
        raise HTTPException(418)

    for owner, status in (("u1", 418), ("gone", 401)):
        new = await keys.create(name="ci", owner=owner)
        assert (await ask(app, bearer(new.token))).status == status
        assert done == [str(status), "closed"]
        done.clear()


async def test_what_yields_an_owner_has_dependencies(auth, keys, ask):
    """Such as the session of a database."""
    app = FastAPI()

    async def session() -> AsyncIterator[dict[str, User]]:
        yield USERS
        done.append("session closed")

    async def load(
        owner: str, users: Annotated[dict, Depends(session)]
    ) -> AsyncIterator[User | None]:
        yield users.get(owner)
        done.append("closed")

    @app.get("/")
    async def route(found: Annotated[User, Security(auth.owner(load), scopes=["a"])]) -> str:
        return found.name

    new = await keys.create(name="ci", owner="u1", scopes=["a"])
    assert (await ask(app, bearer(new.token))).body == b'"Ada"'
    assert done == ["closed", "session closed"]
    lacking = await keys.create(name="ci", owner="u1")
    assert (await ask(app, bearer(lacking.token))).status == 403


@pytest.mark.parametrize("load", [async_generator, generator])
async def test_an_owner_may_be_yielded_to_a_socket(auth, keys, load):
    """It goes on once the WebSocket has ended."""
    app = FastAPI()

    @app.websocket("/")
    async def route(
        websocket: WebSocket, found: Annotated[User, Security(auth.owner(load))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(found.name)
        done.append("routed")

    new = await keys.create(name="ci", owner="u1")
    said = await talk(app, bearer(new.token))
    assert [each.get("text") for each in said if each["type"] == "websocket.send"] == ["Ada"]
    assert done == ["routed", "closed"]
    for owner in (None, "gone"):
        new = await keys.create(name="ci", owner=owner)
        assert await talk(app, bearer(new.token)) == [
            {"type": "websocket.close", "code": 1008, "reason": ""}
        ]


@pytest.mark.parametrize(
    "load",
    [
        lambda owner: generator(owner),  # noqa: PLW0108 - says less than the function itself
        lambda owner: async_generator(owner),  # noqa: PLW0108
        contextmanager(generator),
        asynccontextmanager(async_generator),
    ],
)
async def test_a_generator_is_nobody(auth, keys, ask, load):
    """Of a function that does not say that it yields: an error, not an owner."""
    new = await keys.create(name="ci", owner="gone")
    # An older FastAPI stumbles over it later, and says so in other words.
    with pytest.raises((TypeError, AttributeError), match=r"yield|iterator|throw"):
        await ask(of_owner(auth, load), bearer(new.token))
