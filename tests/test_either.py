"""A key or a JWT: either will do, and neither saves a request that the other one decides."""

import asyncio
import json
import time
import traceback
from datetime import timedelta
from typing import Annotated

import jwt
import pytest
import uvicorn
import websockets
from canaries import PACKAGE, Canaries
from fastapi import Depends, FastAPI, Header, HTTPException, Security, WebSocket
from fastapi.security import HTTPBearer, OAuth2PasswordBearer, SecurityScopes
from starlette.requests import HTTPConnection

from keylatch import APIKey, APIKeys, SecretRing, Token, parse
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.fastapi import APIKeyAuth, keys_router
from keylatch.memory import MemoryStore
from keylatch.routes import survey

pytestmark = pytest.mark.anyio

SIGNING_KEY = "of the identity provider, 32 bytes"
oauth2 = OAuth2PasswordBearer(tokenUrl="token", auto_error=False, scopes={"a": "All"})
seen: list[str | None] = []


class User(str):
    """A user of the application."""

    __slots__ = ()


def claims(token: Annotated[str | None, Depends(oauth2)]) -> dict | None:
    """What a JWT says, as FastAPI's tutorial reads it: one that is none is refused."""
    seen.append(token)
    if token is None:
        return None
    try:
        return jwt.decode(token, SIGNING_KEY, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        raise HTTPException(401, "no JWT of ours", {"WWW-Authenticate": "Bearer"}) from None


async def user(
    said: Annotated[dict | None, Depends(claims)], scopes: SecurityScopes
) -> User | None:
    """The user of a JWT."""
    if said is None:
        return None
    if not set(scopes.scopes) <= set(said.get("scope", "").split()):
        raise HTTPException(403, "the JWT lacks a scope")
    return User(said["sub"])


def lenient(token: Annotated[str | None, Depends(oauth2)]) -> User | None:
    """As those find one that leave what they cannot read to others."""
    seen.append(token)
    try:
        return User(jwt.decode(token or "", SIGNING_KEY, algorithms=["HS256"])["sub"])
    except jwt.InvalidTokenError:
        return None


async def generator(token: Annotated[str | None, Depends(oauth2)]):
    """As those find one that have something to close."""
    seen.append(token)
    yield lenient(token)
    seen.append("closed")


def blocking_generator(token: Annotated[str | None, Depends(oauth2)]):
    """The same where that blocks."""
    yield lenient(token)
    seen.append("closed")


class Users:
    """As those find one that keep an object for it."""

    async def __call__(self, token: Annotated[str | None, Depends(oauth2)]) -> User | None:
        """Finds one."""
        return lenient(token)


def by_default(token: str | None = Depends(oauth2)) -> User | None:
    """As those ask for it that have been there for long."""
    return lenient(token)


async def bare(connection: HTTPConnection) -> User | None:
    """As those find one that read the request by themselves."""
    return lenient((connection.headers.get("authorization") or "").removeprefix("Bearer "))


def a_jwt(**claims: object) -> str:
    """A JWT as the identity provider signs it."""
    return jwt.encode({"sub": "ada", "exp": time.time() + 60} | claims, SIGNING_KEY, "HS256")


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def api_key(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries nothing but keys."""
    return [(b"x-api-key", token.encode())]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    """No token has been shown to the other scheme."""
    seen.clear()


@pytest.fixture
def store() -> MemoryStore:
    """What stands beside a key has nothing to do with stores."""
    return MemoryStore()


def application(auth: APIKeyAuth, other=user, **options) -> FastAPI:
    """One whose routes take a key or a JWT."""
    app, caller = FastAPI(**options), auth.either(other)

    def told(who: APIKey | User) -> str:
        return f"user {who}" if isinstance(who, User) else f"key {who.id}"

    @app.get("/")
    async def route(who: Annotated[APIKey | User, Security(caller)]) -> str:
        return told(who)

    @app.get("/scoped")
    async def scoped(who: Annotated[APIKey | User, Security(caller, scopes=["a"])]) -> str:
        return told(who)

    @app.websocket("/ws")
    async def socket(
        websocket: WebSocket, who: Annotated[APIKey | User, Security(caller, scopes=["a"])]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(told(who))
        await websocket.close()

    return app


@pytest.fixture
def app(keys) -> FastAPI:
    """The application."""
    return application(APIKeyAuth(keys))


async def test_either_will_do(app, keys, ask):
    """A key gives the key, wherever it stands; a JWT gives the user."""
    new = await keys.create(name="ci", scopes=["a"])
    for path in ("/", "/scoped"):
        for headers in (bearer(new.token), api_key(new.token)):
            answer = await ask(app, headers, path=path)
            assert (answer.status, json.loads(answer.body)) == (200, f"key {new.key.id}")
        answer = await ask(app, bearer(a_jwt(scope="a b")), path=path)
        assert (answer.status, json.loads(answer.body)) == (200, "user ada")


async def test_scopes_are_asked_of_each_in_its_own_way(app, keys, ask):
    """The key's are looked at here; those of the JWT by what reads it."""
    new = await keys.create(name="ci", scopes=["b"])
    for headers, detail in (
        (bearer(new.token), "API key lacks a scope: use a key with a"),
        (bearer(a_jwt(scope="b")), "the JWT lacks a scope"),
    ):
        assert (await ask(app, headers)).status == 200
        answer = await ask(app, headers, path="/scoped")
        assert (answer.status, json.loads(answer.body)["detail"]) == (403, detail)


@pytest.mark.parametrize(
    "other", [lenient, generator, blocking_generator, Users(), by_default, bare, user]
)
async def test_no_key_is_shown_to_the_other(keys, ask, other):
    """A request with one of ours is decided by that: it never calls what reads JWTs."""
    app = application(APIKeyAuth(keys), other)
    new = await keys.create(name="ci", scopes=["a"])
    answer = await ask(app, bearer(new.token))
    assert (answer.status, json.loads(answer.body)) == (200, f"key {new.key.id}")
    assert seen == []
    answer = await ask(app, bearer(a_jwt()))
    assert (answer.status, json.loads(answer.body)) == (200, "user ada")
    assert seen != []


async def test_a_generator_is_ended_as_ever(keys, ask):
    """After the request, and with the error of a route."""
    for other in (generator, blocking_generator):
        app = application(APIKeyAuth(keys), other)
        await ask(app, bearer(a_jwt()))
        assert seen.pop() == "closed"


async def refused_keys(keys, secret, wrong_secret, clock):
    """Tokens of ours that open nothing, and what they are answered."""
    right, revoked = [(await keys.create(name="ci", scopes=["a"])).token for _ in range(2)]
    await keys.revoke(parse(revoked).key_id)
    ring = SecretRing(secret)
    yield Token.mint("acme_live", ring).reveal(), "invalid"
    yield wrong_secret(right), "invalid"
    yield revoked, "revoked"
    for damaged in (right[:-1], right + "x", right + "%22", "acme_live_"):
        yield damaged, "invalid"


async def test_a_key_that_opens_nothing_is_not_saved_by_the_other(
    keys, ask, secret, wrong_secret, clock
):
    """Not by what would let everybody in, nor by a JWT beside it, however damaged the key is."""
    everybody = application(APIKeyAuth(keys), lambda: User("anybody"))
    app = application(APIKeyAuth(keys))
    async for token, reason in refused_keys(keys, secret, wrong_secret, clock):
        for target in (everybody, app):
            answer = await ask(target, bearer(token))
            assert answer.status == 401
            assert json.loads(answer.body)["detail"].startswith(f"API key {reason}")
            assert (await ask(target, api_key(token))).status == 401
            assert (await ask(target, api_key(token) + bearer(a_jwt()))).status == 400
    assert seen == []
    assert (await ask(everybody, api_key("x"))).status == 401  # what stands there is a key
    assert (await ask(everybody, bearer("x"))).status == 200


async def test_a_key_beside_a_jwt_is_ambiguous(app, keys, ask):
    """Which of them counts is not ours to guess."""
    new = await keys.create(name="ci", scopes=["a"])
    assert (await ask(app, api_key(new.token) + bearer(a_jwt()))).status == 400
    assert (await ask(app, bearer(new.token) + bearer(a_jwt()))).status == 400


async def test_who_carries_neither_is_refused_as_ever(keys, ask):
    """With our own answer, if the other one cannot tell; with its own, if it does."""
    auth = APIKeyAuth(keys)
    alone = FastAPI()

    @alone.get("/", dependencies=[Security(auth)])
    async def route() -> None: ...

    app = application(auth, lenient)
    basic = [(b"authorization", b"Basic dTpw")]
    for headers in ([], basic, bearer("x"), bearer(a_jwt(exp=1)), bearer(a_jwt() + "x")):
        answer = await ask(app, headers)
        assert answer == await ask(alone, headers)
        assert answer.status == 401
    answer = await ask(application(auth), bearer(a_jwt(exp=1)))
    assert (answer.status, json.loads(answer.body)["detail"]) == (401, "no JWT of ours")


async def test_a_scheme_that_insists_keeps_no_key_out(keys, ask):
    """It is not asked where a key decides; anybody else gets its own refusal."""

    def strict(credentials: Annotated[object, Depends(HTTPBearer())]) -> User:
        return User("ada")

    app = application(APIKeyAuth(keys), strict)
    new = await keys.create(name="ci")
    for headers in (bearer(new.token), api_key(new.token)):
        assert json.loads((await ask(app, headers)).body) == f"key {new.key.id}"
    assert json.loads((await ask(app)).body) == {"detail": "Not authenticated"}


class BrokenStore(MemoryStore):
    """A store whose database is down."""

    async def load(self, key_id: str) -> None:
        """Fails."""
        raise UnavailableError("connection refused", retry_after=7)


@pytest.mark.parametrize("imported", [False, True])
async def test_a_doubt_is_never_handed_on(ask, secret, imported):
    """While the database is down a key is 503; a JWT is none of its business, unless it may be."""
    keys = APIKeys(BrokenStore(), prefix="acme", secret=secret, imported_tokens=imported)
    app = application(APIKeyAuth(keys), lambda: User("anybody"))
    token = Token.mint("acme", SecretRing(secret)).reveal()
    answer = await ask(app, bearer(token))
    assert (answer.status, answer.header("retry-after")) == (503, "7")
    assert (await ask(app, bearer(a_jwt()))).status == (503 if imported else 200)
    assert (await ask(app)).status == 200


async def test_an_imported_token_is_a_key_if_the_database_knows_it(ask, secret):
    """Whatever it looks like: a dead one is refused, and only what is unknown goes on."""
    async with APIKeys(MemoryStore(), prefix="acme", secret=secret, imported_tokens=True) as keys:
        app = application(APIKeyAuth(keys))
        token = a_jwt(sub="once our own")
        key = await keys.import_token(token, name="old")
        answer = await ask(app, bearer(token))
        assert json.loads(answer.body) == f"key {key.id}"
        assert (await ask(app, bearer(token), path="/scoped")).status == 403
        await keys.revoke(key.id)
        assert (await ask(app, bearer(token))).status == 401
        assert seen == []
        answer = await ask(app, bearer(a_jwt()))
        assert json.loads(answer.body) == "user ada"


async def test_a_jwt_counts_as_no_refused_key(app, keys, ask):
    """Who watches the refusals sees keys only, and a request that nobody let in."""
    await ask(app, bearer(a_jwt()))
    assert set(keys.health().refusals.values()) == {0}
    await ask(app)
    assert keys.health().refusals["missing_key"] == 1


async def test_the_rest_of_the_dependencies_is_as_ever(keys, ask):
    """What does not read a credential is resolved once, and shared with the route."""
    opened = []

    async def session() -> list:
        opened.append([])
        return opened[-1]

    async def load(
        said: Annotated[dict | None, Depends(claims)],
        session: Annotated[list, Depends(session)],
        call: Annotated[str, Header()] = "none",
    ) -> User | None:
        session.append(call)
        return said and User(said["sub"])

    app = FastAPI()

    @app.get("/")
    async def route(
        who: Annotated[APIKey | User, Security(APIKeyAuth(keys).either(load))],
        session: Annotated[list, Depends(session)],
    ) -> list:
        return session

    answer = await ask(app, [*bearer(a_jwt()), (b"call", b"t1")])
    assert json.loads(answer.body) == ["t1"]
    assert len(opened) == 1


async def test_each_of_two_decides_for_its_own_keys(keys, ask, secret):
    """What one has decided says nothing to the other."""
    async with APIKeys(MemoryStore(), prefix="partner", secret=secret) as partners:
        ours, theirs = APIKeyAuth(keys), APIKeyAuth(partners, scheme_name="Partner")
        nested = ours.either(theirs.either(user))
        app = FastAPI()

        @app.get("/")
        async def route(who: Annotated[APIKey | User, Security(nested)]) -> str:
            return who if isinstance(who, User) else who.prefix

        for token, told in (
            ((await keys.create(name="ci")).token, "acme_live"),
            ((await partners.create(name="ci")).token, "partner"),
            (a_jwt(), "ada"),
        ):
            answer = await ask(app, bearer(token))
            assert (answer.status, json.loads(answer.body)) == (200, told)
        both = [APIKeyAuth(keys).either(lenient), theirs.either(lenient), ours.either(user)]
        app = FastAPI(dependencies=[Security(each) for each in both])
        app.get("/")(lambda: None)
        assert (await ask(app, bearer(a_jwt()))).status == 200
        for collection in (keys, partners):
            token = (await collection.create(name="ci")).token
            assert (await ask(app, bearer(token))).status == 401  # of the other collection


async def test_a_key_in_its_grace_says_so(app, keys, ask):
    """Beside another scheme as elsewhere; a JWT has no such thing."""
    new = await keys.create(name="ci")
    await keys.rotate(new.key.id, grace=timedelta(hours=1))
    answer = await ask(app, bearer(new.token))
    assert answer.status == 200
    assert answer.header("sunset").endswith("GMT")
    assert (await ask(app, bearer(a_jwt()))).header("sunset") is None


async def test_behind_a_middleware_a_key_is_verified_once(app, keys, ask):
    """As with the dependency alone."""
    new = await keys.create(name="ci")
    behind = APIKeyMiddleware(app, keys)
    answer = await ask(behind, bearer(new.token))
    assert json.loads(answer.body) == f"key {new.key.id}"
    await keys.flush()
    assert (await keys.get(new.key.id)).use_count == 1


async def test_a_request_through_the_application_itself_is_decided_anew(keys, ask):
    """With a copy of the scope, what the first one was decided by does not count."""
    inner = application(APIKeyAuth(keys))
    app = FastAPI()

    @app.get("/")
    async def route(
        connection: HTTPConnection,
        who: Annotated[APIKey | User, Security(APIKeyAuth(keys).either(user))],
    ) -> list:
        async def send(scope_headers) -> object:
            scope = dict(connection.scope) | {"headers": scope_headers, "path": "/"}
            names = ("type", "method", "path", "headers", "query_string", "keylatch.either")
            kept = {name: scope[name] for name in names if name in scope}
            answer = await ask(inner, **kept)
            return json.loads(answer.body)

        return [await send(bearer(a_jwt(sub="eve"))), await send([]), await send([])]

    new = await keys.create(name="ci")
    answer = json.loads((await ask(app, bearer(new.token))).body)
    assert answer[0] == "user eve"
    assert answer[1] == answer[2] == {"detail": "API key missing: send one with the request"}


async def test_websockets_in_a_real_server(keys, free_port):
    """Either opens one; who has neither is refused before it is accepted."""
    app = application(APIKeyAuth(keys))
    new = await keys.create(name="ci", scopes=["a"])
    lacking = await keys.create(name="ci")
    server = uvicorn.Server(uvicorn.Config(app, port=free_port, log_level="error"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        url = f"ws://127.0.0.1:{free_port}/ws"
        for token, told in ((new.token, f"key {new.key.id}"), (a_jwt(scope="a"), "user ada")):
            headers = {"Authorization": f"Bearer {token}"}
            async with websockets.connect(url, additional_headers=headers) as connection:
                assert await connection.recv() == told
        for token, status in ((lacking.token, 403), (a_jwt(), 403), (new.token[:-1], 401)):
            headers = {"Authorization": f"Bearer {token}"}
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url, additional_headers=headers)
            assert refused.value.response.status_code == status
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url)
        assert refused.value.response.status_code == 401
    finally:
        server.should_exit = True
        await serving


def broken(token: Annotated[str | None, Depends(oauth2)]) -> User:
    """Fails."""
    raise RuntimeError("a bug")


async def broken_too(token: Annotated[str | None, Depends(oauth2)]) -> User:
    """Fails."""
    raise RuntimeError("a bug")


def broken_generator(token: Annotated[str | None, Depends(oauth2)]):
    """Fails."""
    raise RuntimeError("a bug")
    yield


@pytest.mark.parametrize("other", [broken, broken_too, broken_generator])
async def test_an_error_of_the_other_shows_no_credential(keys, ask, secret, other):
    """Not in frames of ours: it may be a key of somebody else."""
    canaries, token = Canaries(secret), Token.mint("partner", SecretRing(secret)).reveal()
    canaries.add(token)
    with pytest.raises(RuntimeError) as caught:
        await ask(application(APIKeyAuth(keys), other), bearer(token))
    frames = [
        frame
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if frame.f_code.co_filename.startswith(PACKAGE)
    ]
    assert frames
    for frame in frames:
        canaries.assert_absent(frame.f_code.co_qualname, repr(frame.f_locals))


# In documents, in tests, and for the command line.


@pytest.mark.parametrize("started", [True, False])
async def test_both_are_documented_as_alternatives(keys, ask, started):
    """With the scopes that are asked of both."""
    app = application(APIKeyAuth(keys), **({"lifespan": keys.lifespan} if started else {}))
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    schemes = document["components"]["securitySchemes"]
    more = {"APIKey-X-API-Key"} if started else set()
    assert set(schemes) == {"APIKey", "OAuth2PasswordBearer"} | more
    assert schemes["OAuth2PasswordBearer"]["flows"]["password"]["tokenUrl"] == "token"
    for path, scopes in (("/", []), ("/scoped", ["a"])):
        operation = document["paths"][path]["get"]
        assert {next(iter(each)) for each in operation["security"]} == set(schemes)
        assert all(list(each.values()) == [scopes] for each in operation["security"])
        if started:
            assert {"400", "401", "503"} <= set(operation["responses"])
        assert not operation.get("parameters")


async def test_tests_put_others_in_their_places(keys, ask):
    """What reads JWTs is overridden as ever, and so is the collection."""
    auth = APIKeyAuth(keys)
    app = application(auth)
    new = await keys.create(name="ci")
    app.dependency_overrides[user] = lambda: User("of a test")
    assert json.loads((await ask(app)).body) == "user of a test"
    assert json.loads((await ask(app, bearer(new.token))).body) == f"key {new.key.id}"
    app.dependency_overrides = {claims: lambda: {"sub": "said"}}
    assert json.loads((await ask(app)).body) == "user said"
    app.dependency_overrides = {oauth2: lambda: a_jwt(sub="handed in")}
    assert json.loads((await ask(app)).body) == "user handed in"


async def test_a_test_cannot_override_by_what_would_not_be_called(app, ask):
    """It is told what to override instead."""

    def other(token: Annotated[str, Header()]) -> User:
        return User(token)

    def generating():
        yield User("x")

    for each in (other, generating):
        app.dependency_overrides = {user: each}
        with pytest.raises(ConfigurationError, match=r"auth\.either"):
            await ask(app)


async def test_who_insists_on_a_jwt_as_well_gets_one(keys, ask):
    """That a key has decided for one dependency is no answer to another one that asks by itself."""
    auth = APIKeyAuth(keys)

    def strict(credentials: Annotated[object, Depends(HTTPBearer())]) -> User:
        return lenient(credentials.credentials) or User("of no JWT")

    app = FastAPI()

    @app.get("/")
    async def route(
        who: Annotated[object, Security(auth.either(strict))],
        user: Annotated[User, Depends(strict)],
    ) -> str:
        return user

    new = await keys.create(name="ci")
    answer = await ask(app, api_key(new.token))
    assert (answer.status, json.loads(answer.body)) == (401, {"detail": "Not authenticated"})
    assert json.loads((await ask(app, bearer(a_jwt()))).body) == "ada"


def test_the_plugins_client_holds_a_key(keylatch_client, keylatch_keys, secret):
    """Its own keys pass, and no other reader is asked about them."""
    auth = APIKeyAuth(APIKeys(BrokenStore(), prefix="acme", secret=secret))
    app = application(auth)
    client = keylatch_client(app, auth, "a")
    assert client.get("/scoped").json().startswith("key ")
    assert seen == []
    assert keylatch_client(app, auth).get("/scoped").status_code == 403
    headers = {"Authorization": f"Bearer {a_jwt(scope='a')}"}
    assert client.get("/scoped", headers=headers).json() == "user ada"
    assert client.get("/", headers={"Authorization": "x"}).status_code == 401


async def test_a_route_counts_as_protected_only_if_it_is(keys, ask):
    """Where what stands beside the key asks for nothing, somebody may get in with nothing."""
    auth = APIKeyAuth(keys)
    app = FastAPI(openapi_url=None)
    replaced = auth.either(lenient)

    def guest() -> User:
        return User("anybody")

    @app.get("/either")
    async def either(who: Annotated[object, Security(auth.either(user), scopes=["a"])]) -> None: ...

    @app.get("/guest")
    async def guests(who: Annotated[object, Security(auth.either(guest))]) -> None: ...

    @app.get("/overridden")
    async def overridden(who: Annotated[object, Security(replaced)]) -> None: ...

    app.include_router(keys_router(auth), prefix="/keys")
    app.dependency_overrides[lenient] = guest
    found = {each.path: each for each in survey(app)}
    told = {path: (each.open, each.schemes, each.scopes, each.note) for path, each in found.items()}
    note = "what stands beside a key asks for nothing"
    assert told["/either"] == (False, ["APIKey", "OAuth2PasswordBearer"], ["a"], "")
    assert told["/guest"] == told["/overridden"] == (True, ["APIKey"], [], note)
    for path in ("/either", "/guest", "/overridden"):
        status = (await ask(app, path=path)).status
        assert (status == 200) is found[path].open
    app.dependency_overrides[auth.carried] = lambda: "anybody"
    assert {each.path for each in survey(app) if each.open} >= {"/either"}
    assert (await ask(app, path="/either")).status == 200
