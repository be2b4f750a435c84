"""What a route can ask for beside the key itself: a key if there is one."""

import json
from typing import Annotated

import pytest
from fastapi import FastAPI, HTTPException, Response, Security
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from keylatch import APIKey
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth, RefusedError, problem_handler

pytestmark = pytest.mark.anyio


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.fixture
def auth(keys) -> APIKeyAuth:
    """The dependency."""
    return APIKeyAuth(keys)


@pytest.fixture
def app(auth) -> FastAPI:
    """An application whose routes need no key."""
    app = FastAPI()

    @app.get("/")
    async def route(key: Annotated[APIKey | None, Security(auth.optional)]) -> str:
        return "nobody" if key is None else key.id

    @app.get("/scoped")
    async def scoped(key: Annotated[APIKey | None, Security(auth.optional, scopes=["a"])]) -> str:
        return "nobody" if key is None else key.id

    return app


async def test_an_optional_key_may_be_missing(app, keys, ask):
    """Without one the route is told so; with one it gets it."""
    new = await keys.create(name="ci", scopes=["a"])
    for path in ("/", "/scoped"):
        answer = await ask(app, path=path)
        assert (answer.status, answer.body) == (200, b'"nobody"')
        answer = await ask(app, bearer(new.token), path=path)
        assert (answer.status, json.loads(answer.body)) == (200, new.key.id)


async def test_an_optional_key_may_not_be_wrong(app, keys, ask):
    """Whoever sends one that opens nothing is told so, not served as nobody."""
    new = await keys.create(name="ci")
    revoked = await keys.create(name="ci")
    await keys.revoke(revoked.key.id)
    for token in ("junk", new.token[:-1], revoked.token):
        assert (await ask(app, bearer(token))).status == 401
    both = [*bearer(new.token), (b"x-api-key", revoked.token.encode())]
    assert (await ask(app, both)).status == 400
    assert (await ask(app, bearer(new.token), path="/scoped")).status == 403


async def test_an_optional_key_is_documented_as_such(keys, ask):
    """No key is one of the ways to ask; where another dependency needs one, it is not."""
    auth = APIKeyAuth(keys)
    app = FastAPI(lifespan=keys.lifespan)

    @app.get("/")
    async def route(key: Annotated[APIKey | None, Security(auth.optional, scopes=["a"])]) -> None:
        """With a key or without."""

    @app.get("/both", dependencies=[Security(auth)])
    async def both(key: Annotated[APIKey | None, Security(auth.optional, scopes=["a"])]) -> None:
        """With one."""

    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    assert set(document["components"]["securitySchemes"]) == {"APIKey", "APIKey-X-API-Key"}
    assert document["paths"]["/"]["get"]["security"] == [
        {"APIKey": ["a"]},
        {"APIKey-X-API-Key": ["a"]},
        {},
    ]
    assert document["paths"]["/both"]["get"]["security"] == [
        {"APIKey": []},
        {"APIKey-X-API-Key": []},
    ]


async def test_the_refusals_of_a_protected_route_are_documented(keys, ask):
    """With the lifespan alone; what the application says of an answer itself stays."""
    auth = APIKeyAuth(keys)
    app = FastAPI(lifespan=keys.lifespan)

    @app.get("/open")
    async def open_route() -> None: ...

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth)]) -> None: ...

    @app.get("/scoped", responses={401: {"description": "Mine"}})
    async def scoped(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> None: ...

    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    answers = {path: each["get"]["responses"] for path, each in document["paths"].items()}
    assert set(answers["/open"]) == {"200"}
    assert set(answers["/"]) == {"200", "400", "401", "503"}
    assert set(answers["/scoped"]) == {"200", "400", "401", "403", "503"}
    assert answers["/scoped"]["401"] == {"description": "Mine"}
    assert set(answers["/"]["401"]["headers"]) == {"WWW-Authenticate"}
    assert set(answers["/"]["503"]["headers"]) == {"Retry-After"}
    schema = answers["/"]["401"]["content"]["application/json"]["schema"]["$ref"]
    written = document["components"]["schemas"][schema.rpartition("/")[2]]
    answer = json.loads((await ask(app)).body)
    assert set(answer) == set(written["properties"]) == set(written["required"])


async def test_an_application_answers_with_problems_if_it_says_so(keys, ask):
    """As RFC 9457 has them, with the headers of ever, from dependencies, routes and middleware."""
    auth = APIKeyAuth(keys)
    app = FastAPI(lifespan=keys.lifespan)
    app.add_exception_handler(RefusedError, problem_handler)
    app.add_exception_handler(UnavailableError, problem_handler)
    guarded = APIKeyMiddleware(FastAPI(), keys, scopes=["a"], problem_json=True)

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> None: ...

    @app.get("/fault")
    async def fault() -> None:
        raise UnavailableError("the database failed", retry_after=7)

    new = await keys.create(name="ci")
    for target in (app, guarded):
        for headers, status, title, code in (
            ([], 401, "Unauthorized", "missing_key"),
            (bearer("junk"), 401, "Unauthorized", "invalid_key"),
            (bearer(new.token), 403, "Forbidden", "insufficient_scope"),
            (
                [*bearer(new.token), (b"x-api-key", b"x")],
                400,
                "Bad Request",
                "ambiguous_credentials",
            ),
        ):
            answer = await ask(target, headers)
            problem = json.loads(answer.body)
            assert answer.header("content-type") == "application/problem+json"
            assert answer.header("www-authenticate").startswith("Bearer realm")
            assert problem.pop("detail")
            expected = {"type": "about:blank", "title": title, "status": status, "code": code}
            assert (answer.status, problem) == (status, expected)
    answer = await ask(app, path="/fault")
    assert (answer.status, answer.header("retry-after")) == (503, "7")
    assert "database" not in answer.body.decode()
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    written = document["paths"]["/"]["get"]["responses"]["401"]["content"]
    assert set(written) == {"application/problem+json"}
    fields = document["components"]["schemas"]["APIKeyRefusal"]["properties"]
    assert set(fields) == {"type", "title", "status", "detail", "code"}


class OnlyAtHome(APIKeyAuth):
    """What an application may make of the dependency: no key opens anything from elsewhere."""

    async def __call__(
        self, connection: HTTPConnection, scopes: SecurityScopes, response: Response = None
    ) -> APIKey:
        """Looks at the client, and then at the key."""
        if connection.headers.get("x-place") != "home":
            raise HTTPException(403, "not from here")
        return await super().__call__(connection, scopes, response)


async def test_what_an_application_adds_to_the_dependency_holds_for_all_that_stand_beside_it(
    keys, ask
):
    """An optional key, that of an owner, and either of two schemes are asked for by it, too."""
    auth = OnlyAtHome(keys)
    app = FastAPI()

    def other() -> None:
        """Another scheme that knows nobody."""

    def user(owner: str) -> str:
        return owner

    for path, dependency in {
        "/": auth,
        "/optional": auth.optional,
        "/owner": auth.owner(user),
        "/either": auth.either(other),
    }.items():
        app.get(path, dependencies=[Security(dependency)])(lambda: "in")
    headers = bearer((await keys.create(name="ci", owner="u1")).token)
    for path in ("/", "/optional", "/owner", "/either"):
        assert (await ask(app, headers, path=path)).status == 403
        assert (await ask(app, [*headers, (b"x-place", b"home")], path=path)).status == 200
