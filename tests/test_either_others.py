"""What may stand beside a key: whatever FastAPI calls, decorated or not. None opens by itself."""

import functools
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBearer, OAuth2PasswordBearer
from starlette.requests import HTTPConnection

from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore
from keylatch.routes import survey

pytestmark = pytest.mark.anyio

oauth2 = OAuth2PasswordBearer(tokenUrl="token", auto_error=False)
done: list[str] = []


def known(token: str | None) -> str | None:
    """Whom a token is of."""
    return "ada" if token == "right" else None


def traced(call: Any) -> Any:
    """A decorator as those have it that measure what a function takes."""

    @functools.wraps(call)
    def traced(*values: Any, **named: Any) -> Any:
        return call(*values, **named)

    return traced


async def found(token: Annotated[str | None, Depends(oauth2)]) -> str | None:
    """Returns whom it finds."""
    return known(token)


async def generator(token: Annotated[str | None, Depends(oauth2)]):
    """Yields whom it finds."""
    yield known(token)
    done.append("closed")


def blocking_generator(token: Annotated[str | None, Depends(oauth2)]):
    """The same where that blocks."""
    yield known(token)
    done.append("closed")


async def forgetful(token: Annotated[str | None, Depends(oauth2)]) -> Any:
    """Forgets to await."""
    return found(token)


async def forgetful_generator(token: Annotated[str | None, Depends(oauth2)]) -> Any:
    """Forgets it as well."""
    yield found(token)


class Generating:
    """An object that yields, with a decorator."""

    @traced
    async def __call__(self, token: Annotated[str | None, Depends(oauth2)]):
        """Yields whom it finds."""
        yield known(token)


class Scheme(HTTPBearer):
    """A scheme that has something to do after the request."""

    async def __call__(self, connection: HTTPConnection):  # type: ignore[override]
        """Yields whom it finds."""
        token = (connection.headers.get("authorization") or "").removeprefix("Bearer ")
        yield known(token)
        done.append("closed")


def given(token: Annotated[str | None, Depends(oauth2)]) -> Any:
    """Does not say that it yields."""
    return generator(token)


def blocking_given(token: Annotated[str | None, Depends(oauth2)]) -> Any:
    """Does not say so either."""
    return blocking_generator(token)


async def of_another(who: Annotated[Any, Depends(traced(generator))]) -> Any:
    """Leaves it to another one, and trusts what is not None."""
    return None if who is None else str(who)


OTHERS = [
    traced(found),
    traced(generator),
    traced(blocking_generator),
    functools.partial(traced(generator)),
    functools.partial(Generating()),
    Generating(),
    Scheme(),
    of_another,
    forgetful,
    forgetful_generator,
]


@pytest.fixture
def store() -> MemoryStore:
    """What stands beside a key has nothing to do with stores."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    """Nothing was closed."""
    done.clear()


def application(auth: APIKeyAuth, other: Any) -> FastAPI:
    """One whose route takes a key or whatever the other gives."""
    app, caller = FastAPI(), auth.either(other)

    @app.get("/")
    async def route(who: Annotated[Any, Security(caller)]) -> str:
        return who if isinstance(who, str) else who.id

    return app


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.mark.parametrize("other", OTHERS)
async def test_only_who_is_found_gets_in(keys, ask, other):
    """However it is written: with nothing, or with something wrong, nobody does."""
    app = application(APIKeyAuth(keys), other)
    new = await keys.create(name="ci")
    assert (await ask(app, bearer("right"))).body == b'"ada"'
    assert (await ask(app, bearer(new.token))).body == f'"{new.key.id}"'.encode()
    for headers in ([], bearer("wrong"), bearer(new.token[:-1])):
        assert (await ask(app, headers)).status == 401
    assert not [route.path for route in survey(app) if route.open and route.path == "/"]


@pytest.mark.parametrize("other", [traced(generator), traced(blocking_generator), Scheme()])
async def test_what_yields_goes_on_after_the_request(keys, ask, other):
    """Decorated or not, and a scheme, too."""
    app = application(APIKeyAuth(keys), other)
    assert (await ask(app, bearer("right"))).status == 200
    assert done == ["closed"]


@pytest.mark.parametrize(
    "other",
    [
        given,
        blocking_given,
        asynccontextmanager(generator),
        contextmanager(blocking_generator),
    ],
)
async def test_what_is_not_finished_is_nobody(keys, ask, other):
    """The generator of a function that does not say that it yields is an error, and nobody."""
    app = application(APIKeyAuth(keys), other)
    for headers in ([], bearer("right"), bearer("wrong")):
        # An older FastAPI stumbles over it later, and says so in other words.
        with pytest.raises((TypeError, AttributeError), match=r"yield|iterator|throw"):
            await ask(app, headers)
