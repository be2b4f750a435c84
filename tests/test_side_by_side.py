"""Two collections in one application: partners' keys and our own, each with routes of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Security, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse

from keylatch import APIKey, APIKeys, SecretRing
from keylatch.asgi import APIKeyMiddleware, verified_key
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth, keys_router
from keylatch.memory import MemoryStore
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

MANAGES = ["keys:read", "keys:write"]


@pytest.fixture(params=["own databases", "one database", "one database and secret"])
def both(request, tmp_path, secret) -> tuple[APIKeys, APIKeys]:
    """A collection for partners and an internal one."""
    apart = request.param == "own databases"
    stores = [
        SQLAlchemyStore(f"sqlite+aiosqlite:///{tmp_path}/{name}.db")
        for name in (("partner", "internal") if apart else ("keys", "keys"))
    ]
    same = request.param == "one database and secret"
    other = secret if same else SecretRing.generate("k2")
    partner = APIKeys(stores[0], prefix="partner", secret=secret, allow_missing_secrets=True)
    internal = APIKeys(stores[1], prefix="internal", secret=other, allow_missing_secrets=True)
    return partner, internal


def application(partner: APIKeys, internal: APIKeys, **options) -> FastAPI:
    """One with a route, a WebSocket and management for each."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with partner.lifespan(app), internal.lifespan(app):
            yield

    app = FastAPI(lifespan=lifespan)
    auths = {
        "partner": APIKeyAuth(partner, scheme_name="Partner", realm="partner"),
        "internal": APIKeyAuth(internal, **({"scheme_name": "Internal"} | options)),
    }

    def add(name: str, auth: APIKeyAuth) -> None:
        @app.get(f"/{name}")
        async def route(key: Annotated[APIKey, Security(auth)]) -> str:
            return key.id

        @app.websocket(f"/{name}/ws")
        async def socket(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
            await websocket.accept()
            await websocket.send_text(key.id)

        app.include_router(keys_router(auth), prefix=f"/{name}/api-keys")

    for name, auth in auths.items():
        add(name, auth)
    return app


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def refusal(client: TestClient, path: str, headers: dict[str, str]) -> WebSocketDenialResponse:
    """The answer that a WebSocket gets instead of being accepted."""
    with pytest.raises(WebSocketDenialResponse) as refused:
        client.websocket_connect(path, headers=headers).__enter__()
    return refused.value


async def test_a_key_of_one_never_opens_a_route_of_the_other(both, ask):
    """Neither routes nor management, before it was cached and after, with one lifespan for all."""
    partner, internal = both
    app = application(partner, internal)
    async with app.router.lifespan_context(app):
        assert partner.health().started
        assert internal.health().started
        tokens = {
            name: (await keys.create(name="ci", owner="u1", scopes=MANAGES)).token
            for name, keys in (("partner", partner), ("internal", internal))
        }
        for _ in range(2):
            for name in tokens:
                for whose, token in tokens.items():
                    for path in (f"/{name}", f"/{name}/api-keys"):
                        status = (await ask(app, bearer(token), path=path)).status
                        assert status == (200 if whose == name else 401)
        answer = await ask(app, bearer(tokens["internal"]), path="/partner")
        assert answer.header("www-authenticate").startswith('Bearer realm="partner"')
    assert not partner.health().started
    assert not internal.health().started


async def test_each_manages_its_own_keys(both, ask):
    """Under a path of its own: neither lists nor changes what the other has."""
    partner, internal = both
    app = application(partner, internal)
    async with app.router.lifespan_context(app):
        ours, theirs = [
            await keys.create(name="ci", owner="u1", scopes=MANAGES) for keys in (internal, partner)
        ]
        answer = await ask(app, bearer(ours.token), path="/internal/api-keys")
        assert [each["id"] for each in json.loads(answer.body)["items"]] == [ours.key.id]
        for method, path, body in (
            ("GET", "", {}),
            ("PATCH", "", {"name": "x"}),
            ("POST", "/revoke", {}),
            ("POST", "/rotate", {"grace": 0}),
        ):
            answer = await ask(
                app,
                [*bearer(ours.token), (b"content-type", b"application/json")],
                path=f"/internal/api-keys/{theirs.key.id}{path}",
                method=method,
                body=json.dumps(body).encode(),
            )
            assert answer.status == 404, (method, path)
        assert await partner.get(theirs.key.id) == theirs.key


def test_each_opens_its_own_websockets(both):
    """Before they are accepted."""
    app = application(*both)
    with TestClient(app) as client:
        tokens = {
            name: client.portal.call(lambda keys=keys: keys.create(name="ci")).token
            for name, keys in zip(("partner", "internal"), both, strict=True)
        }
        for name in tokens:
            for whose, token in tokens.items():
                headers = {"Authorization": f"Bearer {token}"}
                if whose == name:
                    with client.websocket_connect(f"/{name}/ws", headers=headers) as connection:
                        assert len(connection.receive_text()) == 16
                else:
                    assert refusal(client, f"/{name}/ws", headers).status_code == 401


@pytest.fixture
def pair(secret) -> tuple[APIKeys, APIKeys]:
    """The same without a database."""
    return tuple(APIKeys(MemoryStore(), prefix=name, secret=secret) for name in ("partner", "own"))


async def test_both_are_documented_by_their_names(pair, ask):
    """Each route shows its own, with every place that the token may stand in."""
    app = application(*pair, headers=["X-Internal-Key"], cookie="k")
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    names = {
        "partner": {"Partner", "Partner-X-API-Key"},
        "internal": {"Internal", "Internal-X-Internal-Key", "Internal-k"},
    }
    assert set(document["components"]["securitySchemes"]) == names["partner"] | names["internal"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            shown = {name for each in operation["security"] for name in each}
            assert shown == names[path.split("/")[1]]


@pytest.mark.parametrize("where", ["a route", "an optional key", "a router", "either", "keys"])
async def test_two_of_one_name_do_not_start(pair, where):
    """The document would show one for the other; a clear error says what to do."""
    partner, internal = pair
    app = FastAPI(lifespan=partner.lifespan)
    app.get("/partner", dependencies=[Security(APIKeyAuth(partner))])(lambda: None)
    auth = APIKeyAuth(internal)
    if where == "keys":
        app.include_router(keys_router(auth), prefix="/keys")
    elif where == "a router":
        router = APIRouter(dependencies=[Security(auth)])
        router.get("/")(lambda: None)
        app.include_router(router)
    else:
        asked = {
            "a route": auth,
            "an optional key": auth.optional,
            "either": auth.either(lambda: None),
        }[where]
        app.get("/", dependencies=[Security(asked)])(lambda: None)
    with pytest.raises(ConfigurationError, match="scheme_name of its own"):
        async with app.router.lifespan_context(app):
            pass


async def test_two_of_one_name_start_where_nothing_is_hidden(pair):
    """Of the same keys and places, in applications of their own, or without a document."""
    partner, internal = pair
    auths = [APIKeyAuth(partner), APIKeyAuth(partner, realm="other"), APIKeyAuth(internal)]
    alike, other, hidden = (FastAPI(lifespan=partner.lifespan) for _ in range(3))
    hidden.openapi_url = None
    for app, its in ((alike, auths[:2]), (other, auths[2:]), (hidden, auths)):
        for number, auth in enumerate(its):
            app.get(f"/{number}", dependencies=[Security(auth)])(lambda: None)
    other.mount("/alike", alike)  # which has a document of its own
    for app in (alike, other, hidden):
        async with app.router.lifespan_context(app):
            assert partner.health().started


async def test_two_middlewares_guard_two_applications(pair, ask):
    """Each around its own, or one around the other, with places of their own."""
    partner, internal = pair
    tokens = [(await keys.create(name="ci")).token for keys in pair]
    seen = []

    async def inner(scope, receive, send) -> None:
        seen.append([key and key.prefix for key in (verified_key(scope, keys) for keys in pair)])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = FastAPI()
    app.mount("/partner", APIKeyMiddleware(inner, partner))
    app.mount("/internal", APIKeyMiddleware(inner, internal))
    for path, opens in (("/partner/x", [200, 401]), ("/internal/x", [401, 200])):
        assert [(await ask(app, bearer(each), path=path)).status for each in tokens] == opens
    assert seen == [["partner", None], [None, "own"]]
    nested = APIKeyMiddleware(
        APIKeyMiddleware(inner, internal, bearer=False, headers=["X-Internal-Key"]), partner
    )
    both = [*bearer(tokens[0]), (b"x-internal-key", tokens[1].encode())]
    assert (await ask(nested, both)).status == 200
    assert seen[-1] == ["partner", "own"]
    for headers in (both[:1], both[1:], bearer(tokens[1])):
        assert (await ask(nested, headers)).status == 401


# Scopes, of one collection.


@pytest.fixture
def nested(pair) -> FastAPI:
    """An application that asks for a scope at each level."""
    auth = APIKeyAuth(pair[0])

    async def deepest(key: Annotated[APIKey, Security(auth, scopes=["deepest"])]) -> APIKey:
        return key

    async def dependency(
        key: Annotated[APIKey, Security(deepest, scopes=["dependency"])],
    ) -> APIKey:
        return key

    app = FastAPI(lifespan=pair[0].lifespan, dependencies=[Security(auth, scopes=["app"])])
    outer = APIRouter(dependencies=[Security(auth, scopes=["outer"])])
    inner = APIRouter(dependencies=[Security(auth, scopes=["inner"])])

    @inner.get("/", dependencies=[Security(auth, scopes=["decorator"])])
    async def route(key: Annotated[APIKey, Security(dependency, scopes=["route"])]) -> str:
        return key.id

    @inner.websocket("/ws", dependencies=[Security(auth, scopes=["decorator"])])
    async def socket(
        websocket: WebSocket, key: Annotated[APIKey, Security(dependency, scopes=["route"])]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(key.id)

    outer.include_router(inner)
    app.include_router(outer)
    return app


LEVELS = ["app", "outer", "inner", "decorator", "route", "dependency", "deepest"]


def test_scopes_of_all_levels_add_up(pair, nested):
    """Over HTTP and WebSockets a key needs each of them; the lack of any one closes the door."""
    keys = pair[0]
    with TestClient(nested) as client:
        for lacking in (None, *LEVELS):
            scopes = [level for level in LEVELS if level != lacking]
            new = client.portal.call(lambda scopes=scopes: keys.create(name="ci", scopes=scopes))
            headers = {"Authorization": f"Bearer {new.token}"}
            answer = client.get("/", headers=headers)
            if lacking is None:
                assert answer.json() == new.key.id
                with client.websocket_connect("/ws", headers=headers) as connection:
                    assert connection.receive_text() == new.key.id
            else:
                assert (answer.status_code, lacking in answer.json()["detail"]) == (403, True)
                assert refusal(client, "/ws", headers).json() == answer.json()


def test_each_key_of_a_request_is_used(pair):
    """A second one that a route asks for in another place is another key."""
    keys = pair[0]
    app = FastAPI(lifespan=keys.lifespan)
    admin = APIKeyAuth(keys, bearer=False, headers=["X-Admin-Key"], scheme_name="Admin")

    @app.get(
        "/",
        dependencies=[Security(APIKeyAuth(keys)), Security(admin), Security(admin, scopes=["a"])],
    )
    async def route() -> None:
        pass

    with TestClient(app) as client:
        own, other = (
            client.portal.call(lambda: keys.create(name="ci", scopes=["a"])) for _ in range(2)
        )
        headers = {"Authorization": f"Bearer {own.token}", "X-Admin-Key": other.token}
        assert client.get("/", headers=headers).status_code == 200
        client.portal.call(keys.flush)
        for new in (own, other):
            assert client.portal.call(keys.get, new.key.id).use_count == 1


def test_a_request_is_one_use_however_often_it_asks(pair, nested):
    """Each of seven levels has the key looked at; a request that follows is another use."""
    keys = pair[0]
    with TestClient(nested) as client:
        new = client.portal.call(lambda: keys.create(name="ci", scopes=LEVELS))
        headers = {"Authorization": f"Bearer {new.token}"}
        for _ in range(3):
            assert client.get("/", headers=headers).status_code == 200
        with client.websocket_connect("/ws", headers=headers) as connection:
            connection.receive_text()
        client.portal.call(keys.flush)
        assert client.portal.call(keys.get, new.key.id).use_count == 4
