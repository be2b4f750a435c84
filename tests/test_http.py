"""What a protected FastAPI route answers, to the byte."""

import json
from datetime import timedelta
from typing import Annotated

import pytest
from fastapi import FastAPI, Security
from fastapi.responses import JSONResponse

from keylatch import APIKey, APIKeys, SecretRing, Token
from keylatch.errors import ConfigurationError, RateLimitedError, UnavailableError
from keylatch.fastapi import APIKeyAuth, RefusedError
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

# code: status, WWW-Authenticate, body
TABLE = {
    "missing_key": (401, 'Bearer realm="api"', "API key missing: send one with the request"),
    "invalid_key": (
        401,
        'Bearer realm="api", error="invalid_token"',
        "API key invalid: check that it was copied whole",
    ),
    "expired_key": (
        401,
        (
            'Bearer realm="api", error="invalid_token", '
            'error_description="API key expired: use a new one"'
        ),
        "API key expired: use a new one",
    ),
    "revoked_key": (
        401,
        (
            'Bearer realm="api", error="invalid_token", '
            'error_description="API key revoked: use a new one"'
        ),
        "API key revoked: use a new one",
    ),
    "insufficient_scope": (
        403,
        'Bearer realm="api", error="insufficient_scope", scope="items:read items:write"',
        "API key lacks a scope: use a key with items:write",
    ),
    "ambiguous_credentials": (
        400,
        'Bearer realm="api", error="invalid_request"',
        "More than one API key: send exactly one, once",
    ),
}


@pytest.fixture
def app(keys: APIKeys) -> FastAPI:
    """An application with an open route, a protected one, and one that needs scopes."""
    auth = APIKeyAuth(keys)
    app = FastAPI()

    @app.get("/open")
    async def open_route() -> str:
        return "open"

    @app.get("/")
    async def protected(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    @app.get("/scoped")
    async def scoped(
        key: Annotated[APIKey, Security(auth, scopes=["items:write", "items:read"])],
    ) -> str:
        return key.id

    return app


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def assert_refused(answer, code: str) -> None:
    """Checks status, headers and body against the table."""
    status, challenge, detail = TABLE[code]
    body = json.dumps({"detail": detail}, separators=(",", ":")).encode()
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers == [
        (b"www-authenticate", challenge.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
    ]


async def test_a_right_key_passes(app, keys, ask):
    """The route runs, and has the key."""
    new = await keys.create(name="ci")
    answer = await ask(app, bearer(new.token))
    assert (answer.status, answer.body) == (200, f'"{new.key.id}"'.encode())


async def test_unknown_wrong_and_malformed_are_identical_bytes(
    app, keys, ask, secret, wrong_secret
):
    """Nobody learns from an answer whether a key exists."""
    new = await keys.create(name="ci")
    ring = SecretRing(secret)
    sent = [
        Token.mint("acme_live", ring).reveal(),  # minted here, and unknown
        wrong_secret(new.token),
        Token.mint("acme_test", ring).reveal(),  # of another collection
        Token.mint("acme_live", SecretRing(SecretRing.generate())).reveal(),  # minted elsewhere
        "nonsense",
        new.token[:-1],
    ]
    answers = {repr(await ask(app, bearer(token))) for token in sent}
    assert len(answers) == 1
    assert_refused(await ask(app, bearer(sent[0])), "invalid_key")


async def test_dead_keys_say_so_after_the_right_secret_only(app, keys, clock, ask, wrong_secret):
    """Expired and revoked are told to the holder of the key, and to nobody else."""
    revoked = await keys.create(name="ci")
    await keys.revoke(revoked.key.id)
    expired = await keys.create(name="ci", expires_in=timedelta(hours=1))
    clock.advance(hours=1)
    for new, code in ((revoked, "revoked_key"), (expired, "expired_key")):
        assert_refused(await ask(app, bearer(new.token)), code)
        assert_refused(await ask(app, bearer(wrong_secret(new.token))), "invalid_key")


async def test_a_lacking_scope_is_forbidden(app, keys, ask):
    """A route's scopes are all needed."""
    both = await keys.create(name="both", scopes=["items:read", "items:write"])
    one = await keys.create(name="one", scopes=["items:read"])
    assert (await ask(app, bearer(both.token), path="/scoped")).status == 200
    assert_refused(await ask(app, bearer(one.token), path="/scoped"), "insufficient_scope")


async def test_a_dead_key_without_scope_is_dead_first(app, keys, ask):
    """Scopes are looked at last."""
    new = await keys.create(name="ci")
    await keys.revoke(new.key.id)
    assert_refused(await ask(app, bearer(new.token), path="/scoped"), "revoked_key")


class BrokenStore(MemoryStore):
    """A store whose database is down."""

    async def load(self, key_id: str) -> None:
        """Fails."""
        raise UnavailableError("connection to db.internal refused", retry_after=7)


async def test_a_broken_database_is_503_and_never_401(ask, secret):
    """In doubt the answer is: try again. What failed is not told."""
    keys = APIKeys(BrokenStore(), prefix="acme", secret=secret)
    app = FastAPI()

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(APIKeyAuth(keys))]) -> str:
        return key.id

    token = Token.mint("acme", SecretRing(secret)).reveal()
    answer = await ask(app, bearer(token))
    assert answer.status == 503
    assert answer.header("retry-after") == "7"
    assert answer.header("www-authenticate") is None
    assert json.loads(answer.body) == {"detail": "API keys cannot be checked right now: try again"}
    assert (await ask(app)).status == 401


async def test_a_limited_key_is_429(keys):
    """A limit answers when to come back, and asks for no other credential."""
    refused = APIKeyAuth(keys).refusal(RateLimitedError(30))
    assert (refused.status_code, refused.headers) == (429, {"Retry-After": "30"})


async def test_the_openapi_document_shows_the_scheme_and_the_scopes(app, ask):
    """The Authorize button knows what to send, and each route what it needs."""
    document = json.loads((await ask(app, path="/openapi.json")).body)
    assert document["components"]["securitySchemes"] == {
        "APIKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, as `Authorization: Bearer`, or as the value of "
            "`X-API-Key`.",
        }
    }
    security = {
        path: operations["get"].get("security") for path, operations in document["paths"].items()
    }
    assert security == {
        "/open": None,
        "/": [{"APIKey": []}],
        "/scoped": [{"APIKey": ["items:write", "items:read"]}],
    }


async def test_a_started_application_documents_every_header(keys, ask):
    """With keys.lifespan either header is a scheme of its own, and either of them will do."""
    app = FastAPI(lifespan=keys.lifespan)
    auth = APIKeyAuth(keys, headers=["X-API-Key", "X-Acme!Key"], scheme_name="Partner")

    @app.get("/open")
    async def open_() -> None: ...

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> None: ...

    for _ in range(2):  # a test client, for one, starts an application more than once
        async with app.router.lifespan_context(app):
            document = json.loads((await ask(app, path="/openapi.json")).body)
        schemes = document["components"]["securitySchemes"]
        assert schemes.pop("Partner")["scheme"] == "bearer"
        assert schemes == {
            "Partner-X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "Partner-X-Acme_Key": {"type": "apiKey", "in": "header", "name": "X-Acme!Key"},
        }
        assert "security" not in document["paths"]["/open"]["get"]
        assert document["paths"]["/"]["get"]["security"] == [
            {"Partner": ["a"]},
            {"Partner-X-API-Key": ["a"]},
            {"Partner-X-Acme_Key": ["a"]},
        ]


async def test_an_application_without_routes_of_ours_is_documented_as_it_was(keys, ask):
    """The lifespan adds no scheme that no route uses."""
    app = FastAPI(lifespan=keys.lifespan)
    APIKeyAuth(keys)
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    assert "components" not in document


async def test_a_header_alone_can_carry_the_token(keys, ask):
    """Without Bearer the scheme is the header, in the document and in the challenge."""
    app = FastAPI()
    auth = APIKeyAuth(keys, bearer=False, headers=["X-Acme-Key"], realm="acme")

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    new = await keys.create(name="ci")
    assert (await ask(app, [(b"X-ACME-KEY", new.token.encode())])).status == 200
    missing = await ask(app, bearer(new.token))
    assert missing.status == 401
    assert missing.header("www-authenticate") == 'APIKey realm="acme"'
    document = json.loads((await ask(app, path="/openapi.json")).body)
    assert document["components"]["securitySchemes"] == {
        "APIKey": {"type": "apiKey", "in": "header", "name": "X-Acme-Key"}
    }


async def test_scopes_of_all_levels_add_up(keys, ask):
    """A router's scopes and a route's are both needed."""
    auth = APIKeyAuth(keys)
    app = FastAPI(dependencies=[Security(auth, scopes=["a"])])

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["b"])]) -> str:
        return key.id

    for scopes, status in ((["a", "b"], 200), (["b"], 403), (["a"], 403)):
        new = await keys.create(name="ci", scopes=scopes)
        assert (await ask(app, bearer(new.token))).status == status


async def test_a_handler_of_the_application_takes_the_answers_over(app, keys, ask):
    """The refusal carries its reason, so that answers can look like the rest of the application."""

    @app.exception_handler(RefusedError)
    async def handle(request, refused: RefusedError) -> JSONResponse:
        return JSONResponse({"error": refused.error.code}, refused.status_code)

    answer = await ask(app)
    assert (answer.status, answer.body) == (401, b'{"error":"missing_key"}')


async def test_a_malformed_scope_on_a_route_is_the_developers_error(keys, ask):
    """A route that asks for a scope that cannot exist fails loudly, not by refusing everybody."""
    app = FastAPI()

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(APIKeyAuth(keys), scopes=["a b"])]) -> str:
        return key.id

    with pytest.raises(ValueError, match="a scope is 1 to 64 characters"):
        await ask(app)


@pytest.mark.parametrize(
    "options",
    [
        {"bearer": False, "headers": []},
        {"headers": ["X-API-Key", "x-api-key"]},
        {"headers": ["Authorization"]},
        {"headers": ["X API Key"]},
        {"headers": [""]},
        {"headers": ["Schlüssel"]},
        {"headers": [f"X-{number}" for number in range(9)]},
        {"realm": 'a"b'},
        {"realm": "a\r\nb"},
        {"realm": ""},
    ],
)
async def test_a_wrong_setup_is_refused_at_once(keys, options):
    """What no request could satisfy, or would break a header, is an error when it is written."""
    with pytest.raises(ConfigurationError):
        APIKeyAuth(keys, **options)
