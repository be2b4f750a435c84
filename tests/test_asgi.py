"""Whole applications behind the middleware: what passes, what is answered, what stays open."""

import asyncio
import json
import logging
import traceback
from datetime import timedelta
from typing import Annotated

import pytest
from canaries import PACKAGE, Canaries
from connections import CAN_ANSWER, talk
from fastapi import FastAPI, Security, WebSocket
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.handlers import asgi as litestar_asgi
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from subject import as_elsewhere

from keylatch import APIKey, APIKeys, SecretRing, Token, parse
from keylatch.asgi import APIKeyMiddleware, verified_key
from keylatch.errors import (
    ConfigurationError,
    MissingKeyError,
    RateLimitedError,
    UnavailableError,
)
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    """What a middleware does is the same with every store."""
    return MemoryStore()


@pytest.fixture
async def token(keys: APIKeys) -> str:
    """A token that may pass."""
    return (await keys.create(name="ci", scopes=["a"])).token


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def api_key(token: str, name: bytes = b"x-api-key") -> list[tuple[bytes, bytes]]:
    """Another header that does."""
    return [(name, token.encode())]


async def bare(scope, receive, send) -> None:
    """An application that answers everything with what it was asked for."""
    body = f"{scope['type']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def mirror(keys: APIKeys):
    """A Starlette endpoint that tells whose key passed."""

    async def endpoint(request) -> PlainTextResponse:
        key = verified_key(request.scope, keys)
        return PlainTextResponse(key.id if key else "nobody")

    return endpoint


def starlette(keys: APIKeys, **options):
    """Starlette, with the middleware as its own."""
    app = Starlette(routes=[Route("/", mirror(keys)), Route("/health", mirror(keys))])
    app.add_middleware(APIKeyMiddleware, keys=keys, **options)
    return app


def fastapi(keys: APIKeys, **options):
    """FastAPI, with the middleware as its own."""
    app = FastAPI(openapi_url=None)
    app.add_route("/", mirror(keys))
    app.add_route("/health", mirror(keys))
    app.add_middleware(APIKeyMiddleware, keys=keys, **options)
    return app


def litestar_routes(keys: APIKeys):
    """The same in Litestar."""

    @litestar_get(["/", "/health"], media_type="text/plain")
    async def endpoint(request: LitestarRequest) -> str:
        key = verified_key(request.scope, keys)
        return key.id if key else "nobody"

    return [endpoint]


def litestar(keys: APIKeys, **options):
    """Litestar, with the middleware as its own, which it puts behind its router."""
    middleware = DefineMiddleware(APIKeyMiddleware, keys=keys, **options)
    return Litestar(litestar_routes(keys), middleware=[middleware], openapi_config=None)


def around_litestar(keys: APIKeys, **options):
    """Litestar, with the middleware around all of it."""
    return APIKeyMiddleware(Litestar(litestar_routes(keys), openapi_config=None), keys, **options)


in_each_framework = pytest.mark.parametrize(
    "build", [starlette, fastapi, litestar, around_litestar], ids=lambda build: build.__name__
)


@in_each_framework
async def test_a_right_key_passes_and_is_at_hand(keys, token, ask, build):
    """The application runs, and can have the key, whichever framework it is made with."""
    app = build(keys, scopes=["a"])
    for headers in (bearer(token), api_key(token)):
        answer = await ask(app, headers)
        assert (answer.status, answer.body.decode()) == (200, (await keys.verify(token)).id)


@in_each_framework
async def test_a_wrong_key_is_refused_before_the_application(keys, token, ask, build):
    """The application is not reached, on an excluded path it is, and has no key then."""
    app = build(keys, exclude=["/health"])
    for headers in ([], bearer("nonsense"), bearer(token) * 2):
        assert (await ask(app, headers)).status in (400, 401)
        answer = await ask(app, headers, path="/health")
        assert (answer.status, answer.body) == (200, b"nobody")


@in_each_framework
async def test_what_no_route_answers_is_protected(keys, ask, build):
    """Nobody learns which paths there are, unless a framework's router comes first."""
    status = 404 if build is litestar else 401
    assert (await ask(build(keys), path="/nothing")).status == status


def dependency(keys: APIKeys, **options):
    """A FastAPI application that is protected by the dependency, to compare with."""
    scopes = options.pop("scopes", [])
    app = FastAPI()

    @app.get("/")
    async def route(
        key: Annotated[APIKey, Security(APIKeyAuth(keys, **options), scopes=scopes)],
    ) -> str:
        return key.id

    return app


async def assert_same_refusal(ask, one, other, headers, status, **request) -> None:
    """Checks that two applications refuse with the same bytes."""
    answer = await ask(one, headers, **request)
    assert answer == await ask(other, headers, **request)
    assert answer.status == status


@pytest.mark.parametrize(
    "options",
    [
        {"scopes": ["b:write", "a:read"]},
        {"scopes": ["b"], "realm": "acme (1)"},
        {"scopes": ["b"], "bearer": False, "headers": ["X-Acme-Key"]},
        {"scopes": ["b"], "headers": []},
    ],
    ids=str,
)
async def test_refusals_are_those_of_the_dependency_to_the_byte(
    keys, clock, ask, wrong_secret, options
):
    """Every row of the table: status, headers in their order, and body."""
    revoked, expired, lacking, other = [
        await keys.create(name="ci", expires_in=duration)
        for duration in (None, timedelta(hours=1), None, None)
    ]
    await keys.revoke(revoked.key.id)
    clock.advance(hours=1)

    def carry(token: str) -> list[tuple[bytes, bytes]]:
        return bearer(token) if options.get("bearer", True) else api_key(token, b"x-acme-key")

    ring = keys._ring
    cases = [
        ([], 401),
        ([(b"authorization", b"Basic dTpw")], 401),
        (carry("nonsense"), 401),
        (carry(Token.mint("acme_live", ring).reveal()), 401),
        (carry(Token.mint("acme_test", ring).reveal()), 401),
        (carry(wrong_secret(lacking.token)), 401),
        (carry(revoked.token), 401),
        (carry(expired.token), 401),
        (carry(lacking.token), 403),
        (carry(lacking.token) + carry(other.token), 400),
    ]
    middleware, compared = APIKeyMiddleware(bare, keys, **options), dependency(keys, **options)
    for headers, status in cases:
        await assert_same_refusal(ask, middleware, compared, headers, status)


class BrokenStore(MemoryStore):
    """A store whose database is down."""

    async def load(self, key_id: str) -> None:
        """Fails."""
        raise UnavailableError("connection to db.internal refused", retry_after=7)


async def test_a_broken_database_is_503_and_never_401(ask, secret):
    """In doubt the answer is: try again. What failed is not told."""
    keys = APIKeys(BrokenStore(), prefix="acme", secret=secret)
    middleware, compared = APIKeyMiddleware(bare, keys), dependency(keys)
    headers = bearer(Token.mint("acme", SecretRing(secret)).reveal())
    await assert_same_refusal(ask, middleware, compared, headers, 503)
    answer = await ask(middleware, headers)
    assert (answer.header("retry-after"), answer.header("www-authenticate")) == ("7", None)
    assert b"db.internal" not in answer.body
    assert [message["code"] for message in await talk(middleware, headers)] == [1013]


async def test_a_limited_key_is_429(keys, token, ask, monkeypatch):
    """A limit answers when to come back."""

    async def limited(*_: object, **__: object) -> None:
        raise RateLimitedError(30)

    monkeypatch.setattr(keys, "authenticate", limited)
    middleware, compared = APIKeyMiddleware(bare, keys), dependency(keys)
    await assert_same_refusal(ask, middleware, compared, bearer(token), 429)


async def test_an_error_of_the_application_is_its_own(keys, token, ask):
    """What the application raises, also for other keys it looks at, is not answered here."""

    async def app(scope, receive, send) -> None:
        raise MissingKeyError

    with pytest.raises(MissingKeyError):
        await ask(APIKeyMiddleware(app, keys), bearer(token))


# Together with the dependency.


async def uses(keys: APIKeys, token: str) -> int:
    """How often a token was used, as the database has it."""
    await keys.flush()
    return (await keys.get(parse(token).key_id)).use_count


def both(keys: APIKeys, auth: APIKeyAuth, **options) -> FastAPI:
    """A FastAPI application with the middleware and the dependency, also in a mounted one."""
    app, mounted = FastAPI(), FastAPI()

    async def route(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    async def scoped(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> str:
        return key.id

    for each in (app, mounted):
        each.get("/")(route)
        each.get("/scoped")(scoped)
    app.mount("/sub", mounted)
    app.add_middleware(APIKeyMiddleware, keys=keys, **options)
    return app


@pytest.mark.parametrize("path", ["/", "/scoped", "/sub/", "/sub/scoped"])
async def test_a_use_is_counted_once(keys, token, ask, path):
    """What the middleware has verified the dependency does not verify again, mounted or not."""
    app = both(keys, APIKeyAuth(keys))
    asked = keys.health()
    answer = await ask(app, bearer(token), path=path)
    assert json.loads(answer.body) == (await keys.verify(token)).id
    assert await uses(keys, token) == 1 + 1  # and the one above
    assert keys.health().misses == asked.misses + 1  # read once, and verified out of the cache


async def test_scopes_are_looked_at_all_the_same(keys, ask):
    """A key that passed the middleware lacks what a route asks for: refused, and noted."""
    new = await keys.create(name="ci", scopes=["b"])
    app, compared = both(keys, APIKeyAuth(keys), scopes=["b"]), dependency(keys, scopes=["a"])
    assert (await ask(app, bearer(new.token))).status == 200
    refused = await ask(compared, bearer(new.token))
    before = keys.health().refusals["insufficient_scope"]
    for path in ("/scoped", "/sub/scoped"):
        assert await ask(app, bearer(new.token), path=path) == refused
    assert refused.status == 403
    assert keys.health().refusals["insufficient_scope"] == before + 2


async def test_another_collection_verifies_for_itself(keys, token, ask, secret):
    """Even with the same store, server secret and prefix: what counts is the collection."""
    async with APIKeys(keys._store, prefix="acme_live", secret=secret) as twin:
        assert (await ask(both(keys, APIKeyAuth(twin)), bearer(token))).status == 200
        as_elsewhere(keys)
        await twin.revoke(parse(token).key_id)
        # The middleware's collection has not heard of it; the dependency's has.
        assert (await ask(APIKeyMiddleware(bare, keys), bearer(token))).status == 200
        assert (await ask(both(keys, APIKeyAuth(twin)), bearer(token))).status == 401
    async with APIKeys(MemoryStore(), prefix="acme_other", secret=secret) as stranger:
        app = both(keys, APIKeyAuth(stranger, bearer=False))
        assert (await ask(app, bearer(token))).status == 401
        theirs = (await stranger.create(name="theirs")).token
        both_keys = bearer(token) + api_key(theirs)
        app = both(keys, APIKeyAuth(stranger, bearer=False), headers=[])
        answer = await ask(app, both_keys)
        assert json.loads(answer.body) == parse(theirs).key_id


async def test_other_headers_are_verified_for_themselves(keys, token, ask):
    """A route that asks for a key in a header of its own is not content with another one."""
    admin = APIKeyAuth(keys, bearer=False, headers=["X-Admin-Key"])
    app = both(keys, admin)
    assert (await ask(app, bearer(token))).status == 401
    other = (await keys.create(name="admin")).token
    answer = await ask(app, bearer(token) + api_key(other, b"x-admin-key"))
    assert json.loads(answer.body) == parse(other).key_id
    # Of two keys the middleware takes the one that it was told to; the dependency is in doubt.
    app = both(keys, APIKeyAuth(keys), headers=[])
    assert (await ask(app, bearer(token) + api_key(other))).status == 400


async def test_the_order_and_the_case_of_header_names_are_no_difference(keys, token, ask):
    """The same headers are the same headers."""
    auth = APIKeyAuth(keys, headers=["X-B", "x-a"])
    assert (await ask(both(keys, auth, headers=["X-A", "x-b"]), bearer(token))).status == 200
    assert await uses(keys, token) == 1


class Rewriting:
    """A middleware that hands on other headers."""

    def __init__(self, app, rewrite, *, in_place: bool) -> None:
        self.app, self.rewrite, self.in_place = app, rewrite, in_place

    async def __call__(self, scope, receive, send) -> None:
        """Hands the request on."""
        if self.in_place:
            scope["headers"][:] = self.rewrite(scope["headers"])
        else:
            scope = {**scope, "headers": self.rewrite(scope["headers"])}
        await self.app(scope, receive, send)


@pytest.mark.parametrize("in_place", [True, False])
async def test_it_holds_for_the_credential_that_was_verified_only(keys, token, ask, in_place):
    """A request of the application's own, with a copied scope and other keys, is another one."""
    other = (await keys.create(name="other")).token
    for headers, status in (
        (bearer(other), 200),
        (bearer("nonsense"), 401),
        ([], 401),
        (bearer(token) + api_key(other), 400),
    ):
        inner = Rewriting(dependency(keys), lambda _, to=headers: list(to), in_place=in_place)
        answer = await ask(APIKeyMiddleware(inner, keys), bearer(token))
        assert answer.status == status
        if status == 200:
            assert json.loads(answer.body) == parse(other).key_id


async def test_headers_that_are_none_are_an_error_of_whoever_made_them(keys, token, ask):
    """Nothing is taken for verified, and the error says what is wrong."""
    for wrong in ([*bearer(token), None], [*bearer(token), (1, 2)]):
        inner = Rewriting(dependency(keys), lambda _, to=wrong: to, in_place=False)
        with pytest.raises(TypeError):
            await ask(APIKeyMiddleware(inner, keys), bearer(token))


async def test_a_header_that_is_added_on_the_way_is_no_difference(keys, token, ask):
    """Such as an id that a middleware gives each request."""

    async def identify(scope, receive, send) -> None:
        MutableHeaders(scope=scope)["X-Request-ID"] = "1"
        await dependency(keys)(scope, receive, send)

    assert (await ask(APIKeyMiddleware(identify, keys), bearer(token))).status == 200
    assert await uses(keys, token) == 1


async def test_middlewares_stack(keys, token, ask, secret):
    """Each of one collection and headers verifies once; every collection's key is at hand."""
    async with APIKeys(MemoryStore(), prefix="partner", secret=secret) as partners:
        partner = (await partners.create(name="theirs", scopes=["p"])).token
        seen = []

        async def app(scope, receive, send) -> None:
            seen.extend([verified_key(scope, keys), verified_key(scope, partners)])
            await dependency(keys)(scope, receive, send)

        app = APIKeyMiddleware(app, keys, scopes=["a"])
        app = APIKeyMiddleware(app, partners, bearer=False, headers=["X-Partner"], scopes=["p"])
        app = APIKeyMiddleware(app, keys)
        headers = bearer(token) + api_key(partner, b"x-partner")
        assert (await ask(app, headers)).status == 200
        assert [key.id for key in seen] == [parse(token).key_id, parse(partner).key_id]
        assert await uses(keys, token) == await uses(partners, partner) == 1
        assert (await ask(app, bearer(token))).status == 401
        lacking = (await keys.create(name="lacking")).token
        answer = await ask(app, bearer(lacking) + api_key(partner, b"x-partner"))
        assert answer.status == 403


@pytest.mark.parametrize(
    "forged", [None, "acme", {"key": "x"}, [["x"]], (1,), True, {"keys": {"id": "x"}}], ids=repr
)
async def test_nobody_puts_anything_there(keys, ask, forged):
    """No value that could come out of a request counts, wherever it is put."""
    for app in (dependency(keys), APIKeyMiddleware(bare, keys)):
        for scope in ({"keylatch": forged}, {"state": {"keylatch": forged}}):
            assert (await ask(app, **scope)).status == 401
    assert verified_key({"type": "http", "headers": [], "keylatch": forged}, keys) is None
    forging = [(b"keylatch", b"x"), (b"x-keylatch", b"x"), (b"state", b"keylatch")]
    assert (await ask(both(keys, APIKeyAuth(keys)), forging, query="keylatch=x")).status == 401


async def test_requests_at_once_do_not_see_each_others_keys(keys, ask):
    """Each has its own key, or none, however they are mixed."""
    tokens = [(await keys.create(name=str(number))).token for number in range(20)]
    app = both(keys, APIKeyAuth(keys))
    sent = [bearer(token) for token in tokens] + [bearer("nonsense"), []]
    answers = await asyncio.gather(*(ask(app, headers) for headers in sent * 10))
    ids = [json.dumps(parse(token).key_id).encode() for token in tokens]
    for number, answer in enumerate(answers):
        if number % len(sent) < len(ids):
            assert (answer.status, answer.body) == (200, ids[number % len(sent)])
        else:
            assert answer.status == 401
    assert {await uses(keys, token) for token in tokens} == {10}


# What stays open.

EXCLUDE = ["/health", "/public/*", "/exact/"]


@pytest.mark.parametrize(
    "path", ["/health", "/public/", "/public/a", "/public/a/b.css", "/public/a/", "/exact/"]
)
async def test_excluded_paths_stay_open(keys, ask, path):
    """A whole path, or all that lies below one, for every method and for WebSockets."""
    app = APIKeyMiddleware(bare, keys, exclude=EXCLUDE)
    for method in ("GET", "HEAD", "POST"):
        answer = await ask(app, path=path, method=method)
        assert answer.body.decode() == f"http {path}"
    assert (await ask(app, path=path, raw_path=None)).status == 200
    assert len(await talk(app, path=path)) == 2


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/", None),
        ("", None),
        ("*", None),
        ("health", None),
        ("/health/", None),
        ("/Health", None),
        ("/HEALTH", None),
        ("/health.json", None),
        ("/health/x", None),
        ("/healthx", None),
        ("//health", None),
        ("/health//", None),
        ("/./health", None),
        ("/x/../health", None),
        ("/health/..", None),
        ("/health;x", None),
        ("/health\x00", None),
        ("/health ", None),
        ("/health\n", None),
        ("/health?x", None),
        ("/health#x", None),
        ("/health", b"/healt%68"),
        ("/health", b"/%68ealth"),
        ("/health", b"/x/%2e%2e/health"),
        ("/health", b"/admin/health"),
        ("/health", b"//health"),
        ("/exact", None),
        ("/exact/x", None),
        ("/public", None),
        ("/publicx", None),
        ("/Public/x", None),
        ("//public/x", None),
        ("/public//", None),
        ("/public//x", None),
        ("/public//admin", None),
        ("/public/..", None),
        ("/public/.", None),
        ("/public/../admin", None),
        ("/public/./x", None),
        ("/public/x/..", None),
        ("/public/x/../../admin", None),
        ("/public/../admin", b"/public/..%2fadmin"),
        ("/public/../admin", b"/public/%2e%2e/admin"),
        ("/public/..\\admin", b"/public/..%5cadmin"),
        ("/public/%2e%2e/admin", b"/public/%252e%252e/admin"),
        ("/public/..%2fadmin", b"/public/..%252fadmin"),
        ("/public/x/y", b"/public/x%2fy"),
        ("/public/x", b"/admin/public/x"),
        ("/public/..;/admin", None),
        ("/public/;x/../admin", None),
        ("/public/x\x00", b"/public/x%00"),
        ("/public/x\r\ny", b"/public/x%0d%0ay"),
        ("/public/\u2025/admin", "/public/\u2025/admin".encode()),
        ("/public/\uff0e\uff0e/admin", b"/public/%ef%bc%8e%ef%bc%8e/admin"),
        ("/public/\udcff", b"/public/\xff"),
        ("http://x/health", None),
        ("/http://x/health", None),
    ],
)
async def test_whatever_is_odd_about_a_path_is_protected(keys, ask, path, raw):
    """A path that some framework could take for another one needs a key."""
    app = APIKeyMiddleware(bare, keys, exclude=EXCLUDE)
    for root in ("", "/root"):
        sent = path.encode() if raw is None else raw
        scope = {"path": root + path, "raw_path": root.encode() + sent, "root_path": root}
        assert (await ask(app, **scope)).status == 401
        assert [message["type"] for message in await talk(app, **scope)] == ["websocket.close"]


@pytest.mark.parametrize(
    ("root", "path", "status"),
    [
        ("/api", "/api/health", 200),  # the server puts the root before the path
        ("/api", "/health", 200),  # a proxy cuts it off
        ("/api/", "/api//health", 200),
        ("", "/api/health", 401),
        ("/api", "/api", 401),
        ("/api", "/apihealth", 401),
        ("/api", "/api/api/health", 401),
        ("/api", "/x/api/health", 401),
        ("/api", "/public/api/admin", 401),  # Litestar would go to /admin
        ("/api", "/public/apiadmin", 401),
        ("/api", "/api/public/../admin", 401),
        ("/health", "/health", 401),
        ("/public", "/public/admin", 401),
        ("/pub", "/public/x", 401),
    ],
)
async def test_paths_are_those_of_the_routes_without_the_root(keys, ask, root, path, status):
    """Where frameworks cut a root off differently, the path is protected."""
    app = APIKeyMiddleware(bare, keys, exclude=EXCLUDE)
    assert (await ask(app, path=path, root_path=root)).status == status


async def test_a_mounted_application_excludes_its_own_paths(keys, ask):
    """It need not know where it is mounted, and opens nothing beside itself."""
    for mounting in (Starlette, FastAPI):
        routes = [Mount("/sub", app=starlette(keys, exclude=["/health"]))]
        app = mounting(routes=[*routes, Route("/health", mirror(keys))])
        assert (await ask(app, path="/sub/health")).status == 200
        for path in ("/sub/", "/sub/sub/health", "/sub//health", "/sub/./health"):
            assert (await ask(app, path=path)).status == 401


async def test_what_litestar_mounts_does_not_open_by_its_remaining_path(keys, ask):
    """Litestar leaves of a mounted path what stands behind, which may look like an open one."""

    @litestar_asgi("/admin", is_mount=True, copy_scope=True)
    async def mounted(scope: dict, receive: object, send: object) -> None:
        await bare(scope, receive, send)

    middleware = DefineMiddleware(APIKeyMiddleware, keys=keys, exclude=["/public/*", "/health"])
    app = Litestar([mounted], middleware=[middleware], openapi_config=None)
    for path in ("/admin/public/x", "/admin/health", "/admin/health/", "//admin/public/x"):
        assert (await ask(app, path=path)).status == 401
    outside = APIKeyMiddleware(
        Litestar([mounted], openapi_config=None), keys, exclude=["/admin/public/*"]
    )
    assert (await ask(outside, path="/admin/public/x")).status == 200


@pytest.mark.parametrize("build", [starlette, fastapi, litestar, around_litestar])
@pytest.mark.parametrize(
    "path", ["/health/../", "//", "/health//..//", "/./", "/health/%2e%2e/", "/health/..;/"]
)
async def test_no_way_around_leads_to_a_protected_route(keys, ask, build, path):
    """No spelling of the root that a framework's own router accepts is open."""
    answer = await ask(build(keys, exclude=["/health", "/health/*"]), path=path)
    assert answer.status in (401, 404)
    assert b"nobody" not in answer.body


async def test_an_excluded_path_may_have_protected_routes(keys, token, ask):
    """The dependency verifies where the middleware did not."""
    app = both(keys, APIKeyAuth(keys), exclude=["/scoped"])
    assert (await ask(app, path="/scoped")).status == 401
    assert (await ask(app, bearer(token), path="/scoped")).status == 200
    assert await uses(keys, token) == 1


async def test_a_preflight_is_answered_by_what_stands_outside(keys, ask):
    """It carries no key: CORSMiddleware outside answers it, and lets browsers read refusals."""
    preflight = [(b"origin", b"https://x"), (b"access-control-request-method", b"GET")]
    app = starlette(keys)
    assert (await ask(app, preflight, method="OPTIONS")).status == 401
    app.middleware_stack = None
    app.add_middleware(CORSMiddleware, allow_origins=["https://x"], allow_headers=["*"])
    assert (await ask(app, preflight, method="OPTIONS")).status == 200
    answer = await ask(app, preflight[:1])
    assert answer.status == 401
    assert answer.header("access-control-allow-origin") == "https://x"


# Other than HTTP.


async def test_a_websocket_is_refused_before_it_is_accepted(keys, token, ask):
    """With the answer that a request gets, if the server can send it; else it is closed."""
    reached = []

    async def app(scope, receive, send) -> None:
        reached.append(verified_key(scope, keys).id)

    app = APIKeyMiddleware(app, keys)
    for headers in ([], bearer("nonsense"), bearer(token) * 2):
        closed = await talk(app, headers)
        assert closed == [{"type": "websocket.close", "code": 1008, "reason": ""}]
        assert await talk(app, headers, extensions=None) == closed
        assert await talk(app, headers, extensions={"tls": {}}) == closed
        answer = await ask(app, headers)
        start, body = await talk(app, headers, **CAN_ANSWER)
        assert start == {
            "type": "websocket.http.response.start",
            "status": answer.status,
            "headers": answer.headers,
        }
        assert body == {
            "type": "websocket.http.response.body",
            "body": answer.body,
            "more_body": False,
        }
    assert reached == []
    await talk(app, bearer(token))
    assert reached == [parse(token).key_id]


async def test_a_websocket_is_counted_once_with_the_dependency(keys, token):
    """The dependency finds what the middleware has verified there too."""
    app = FastAPI()

    @app.websocket("/")
    async def route(
        websocket: WebSocket, key: Annotated[APIKey, Security(APIKeyAuth(keys))]
    ) -> None:
        await websocket.accept()
        await websocket.close(reason=key.id)

    accepted, closed = await talk(APIKeyMiddleware(app, keys), bearer(token))
    assert accepted["type"] == "websocket.accept"
    assert closed["reason"] == parse(token).key_id
    assert await uses(keys, token) == 1


async def test_lifespan_events_pass(secret):
    """The application starts and ends as without the middleware, and the collection with it."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=secret)
    for app in (
        APIKeyMiddleware(Starlette(lifespan=keys.lifespan), keys),
        APIKeyMiddleware(Litestar([], lifespan=[keys.lifespan], openapi_config=None), keys),
        FastAPI(lifespan=keys.lifespan),
    ):
        if isinstance(app, FastAPI):
            app.add_middleware(APIKeyMiddleware, keys=keys)
        incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent, started = [], []

        async def receive(incoming=incoming, started=started):
            started.append(keys.health().started)
            return next(incoming)

        async def send(message, sent=sent) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert started == [False, True]


@pytest.mark.parametrize("kind", ["webtransport", "HTTP", "", None])
async def test_what_nobody_knows_how_to_protect_is_refused(keys, token, kind):
    """Whatever else a server asks for does not reach the application, key or not."""
    app = APIKeyMiddleware(bare, keys, exclude=["/health"])
    with pytest.raises(ConfigurationError, match="protects http and websocket"):
        await app({"type": kind, "path": "/health", "headers": bearer(token)}, None, None)


# How it is set up.


@pytest.mark.parametrize(
    "options",
    [
        {"bearer": False, "headers": []},
        {"headers": "X-API-Key"},
        {"headers": ["Authorization"]},
        {"realm": 'a"b'},
        {"scopes": ["a b"]},
        {"exclude": "/health"},
        *(
            {"exclude": [path]}
            for path in (
                *("", "*", "/*", "//*", "health", "/health*", "/health/**", "/*/x", "/a/*/b"),
                *("/a//b", "/a/../b", "/./a", "/..", "/a//*", "/a/../*", "/%68ealth", "/a b"),
                *("/ä", "/a\n", "/a?b", "/a;b", "\\a", b"/health", None),
            )
        ),
    ],
    ids=str,
)
async def test_a_wrong_setup_is_refused_at_once(keys, options):
    """What no request could satisfy, or would open more than it says, is an error at once."""
    with pytest.raises(ValueError, match=r"\w"):
        APIKeyMiddleware(bare, keys, **options)


async def test_the_root_is_excluded_by_itself(keys, ask):
    """A slash is one path, not everything below it."""
    app = APIKeyMiddleware(bare, keys, exclude=["/"])
    assert [(await ask(app, path=path)).status for path in ("/", "/x", "//")] == [200, 401, 401]


# What nobody sees.


@pytest.fixture
def canaries(secret: str, token: str) -> Canaries:
    """Watches for the token and the server secret."""
    canaries = Canaries(secret)
    canaries.add(token)
    return canaries


@pytest.mark.parametrize("fault", ["the store", "the application", "the type", "the headers"])
async def test_no_error_shows_a_token(keys, canaries, ask, caplog, fault):
    """Errors pass through our frames, which hold nothing worth stealing."""
    caplog.set_level(logging.DEBUG)
    token = canaries.token()
    headers, others = bearer(token), {}

    async def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    if fault == "the store":
        keys._store.load = bug
    elif fault == "the type":
        others = {"type": "webtransport"}
    elif fault == "the headers":
        headers = [*headers, None]
    inner = bug if fault == "the application" else dependency(keys)
    app = APIKeyMiddleware(inner, keys, exclude=["/health"])
    with pytest.raises((RuntimeError, ConfigurationError, TypeError)) as caught:
        await ask(app, headers, **others)
    frames = [
        frame
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if frame.f_code.co_filename.startswith(PACKAGE)
    ]
    assert frames
    for frame in frames:
        canaries.assert_absent(frame.f_code.co_qualname, repr(frame.f_locals))
    canaries.assert_absent("the message", f"{caught.value!r} {vars(caught.value)}")
    canaries.assert_absent("the logs", caplog.text)


async def test_no_object_shows_a_token(keys, canaries, ask):
    """Neither the middleware nor what it leaves in the scope shows one, and no copy is made."""
    scopes = []

    async def app(scope, receive, send) -> None:
        scopes.append(scope)
        await bare(scope, receive, send)

    app = APIKeyMiddleware(app, keys)
    await ask(app, bearer(canaries.token()))
    passed = scopes[0]["keylatch"]
    for value in (app, app._gate, passed, APIKeyAuth(keys)):
        canaries.assert_absent("a repr", f"{value!r} {value}")
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        passed.__reduce_ex__(4)
