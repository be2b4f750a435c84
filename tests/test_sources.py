"""Keys in cookies and query strings: read strictly, by explicit choice, and nowhere shown."""

import asyncio
import inspect
import json
import re
import traceback
from http.cookies import SimpleCookie
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode

import pytest
import uvicorn
import websockets
from canaries import PACKAGE, Canaries
from fastapi import FastAPI, Security, WebSocket
from hypothesis import example, given
from hypothesis import strategies as st

from keylatch import APIKey, APIKeys, SecretRing, Token, mint, parse
from keylatch._native import TokenHeaders
from keylatch.asgi import APIKeyMiddleware, verified_key
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ConfigurationError,
    InvalidKeyError,
    InvalidTokenError,
    MissingKeyError,
)
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

RING = SecretRing(SecretRing.generate())
TOKEN, OTHER = mint("acme", RING), mint("acme", RING)
EVERYWHERE = {"cookie": "k", "query": "k"}
ALONE = {"bearer": False, "headers": []}
NATIVE = {"bearer": False, "names": []}


@pytest.fixture
def store() -> MemoryStore:
    """Where a token stands has nothing to do with stores."""
    return MemoryStore()


@pytest.fixture
async def token(keys: APIKeys) -> str:
    """A token that may pass."""
    return (await keys.create(name="ci")).token


def cookie(text: str) -> list[tuple[bytes, bytes]]:
    """The header that has the cookies."""
    return [(b"cookie", text.encode("latin-1"))]


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token by itself."""
    return [(b"authorization", f"Bearer {token}".encode())]


async def bare(scope, receive, send) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def dependency(keys: APIKeys, **options) -> FastAPI:
    """An application with a protected route and WebSocket."""
    app, auth = FastAPI(), APIKeyAuth(keys, **options)

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        await websocket.send_text(key.id)
        await websocket.close()

    return app


def outcome(given_headers, given_query, /, **options):
    """The token, or the kind of error."""
    try:
        return TokenHeaders(**options).extract(given_headers, given_query).reveal()
    except AuthenticationError as error:
        return type(error)


def one_of(values):
    """What is to be said of all the values that were found, written plainly."""
    found = {value for value in values if value}
    if len(found) > 1:
        return AmbiguousCredentialsError
    for value in found:
        try:
            return parse(value).reveal()
        except InvalidTokenError:
            return InvalidKeyError
    return MissingKeyError


PAIRS = st.lists(
    st.tuples(
        st.sampled_from(["k", "K", "kk", "", "x", "%6b", "k%", "k+"]),
        st.sampled_from(["", "x", TOKEN, TOKEN, OTHER, "%", "%2B", '"']),
    ),
    max_size=4,
)


@given(pairs=PAIRS)
@example(pairs=[("k", TOKEN), ("%6b", OTHER)])
def test_a_query_string_is_read_as_python_and_fastapi_read_it(pairs):
    """Whoever else reads the request sees the same parameter; malformed escapes are refused."""
    query = "&".join(f"{name}={value}" for name, value in pairs)
    values = [value for name, value in parse_qsl(query) if name == "k"]
    expected = one_of(values)
    assert outcome([], query.encode(), query="k", **NATIVE) == expected


@given(pairs=PAIRS)
def test_cookies_are_read_as_rfc_6265_has_them(pairs):
    """Those of that very name, which end at each semicolon, with or without quotes."""
    headers = cookie("; ".join(f"{name}={value}" for name, value in pairs))
    values = [value for name, value in pairs if name == "k"]
    assert outcome(headers, None, cookie="k", **NATIVE) == one_of(values)


def test_what_others_write_is_read():
    """Cookies and query strings as the standard library writes them, and as browsers do."""
    jar = SimpleCookie({"a": "b", "k": TOKEN, "c": 'quoted; "value"'})
    written = jar.output([], header="", sep=";").strip()
    assert outcome(cookie(written), None, cookie="k", **NATIVE) == TOKEN
    query = urlencode({"a": "b c", "k": TOKEN, "d": "ä&="}).encode()
    assert outcome([], query, query="k", **NATIVE) == TOKEN
    escaped = "".join(f"%{ord(letter):02X}" for letter in TOKEN)
    assert outcome([], f"k={escaped}".encode(), query="k", **NATIVE) == TOKEN


def test_what_was_not_asked_for_is_not_read():
    """Neither is ever a source by default, nor under another name."""
    query = f"k={TOKEN}&X-API-Key={TOKEN}".encode()
    headers = cookie(f"k={TOKEN}; X-API-Key={TOKEN}")
    assert outcome(headers, query) is MissingKeyError
    assert outcome(headers, query, cookie="K", query="K") is MissingKeyError
    for options in (NATIVE | {"cookie": "k"}, NATIVE | {"query": "k"}):
        assert outcome([*bearer(OTHER), (b"x-api-key", b"x"), *headers], query, **options) == TOKEN


@pytest.mark.parametrize("query", ["k=x", 1, [b"k=x"], bytearray(b"k=x")], ids=repr)
def test_a_query_string_that_is_no_bytes_is_refused(query):
    """What no ASGI server sends is a TypeError, without what it holds."""
    with pytest.raises(TypeError) as caught:
        TokenHeaders(query="k").extract([], query)
    assert "k=x" not in str(caught.value)


# What a request with a right token in each of these places is answered: {t} is the token, {o}
# another one that is right, too.
REQUESTS = [
    ("k={t}", "", 200),
    ('a=b; k="{t}"', "", 200),
    ("k={t}; k={t}", "k={t}", 200),
    ("", "a=b&k={t}", 200),
    ("", "%6b={t}&k={t}", 200),
    ("k={t}; k={o}", "", 400),
    ("k={t}", "k={o}", 400),
    ("", "k={t}&k={o}", 400),
    ("", "k={t}&%6b={o}", 400),
    ("k={t}", "k=%", 400),
    ("", "k={t}%", 401),
    ("", "k={t}+", 401),
    ("", "k=" + "a" * 5000, 401),
    ("k=" + "a" * 5000, "", 401),
    ("k={t} x", "", 401),
    ("K={t}", "K={t}", 401),
    ("a=b", "a=" + "b" * 5000, 401),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
async def test_requests_are_answered_alike_by_dependency_and_middleware(keys, token, ask, request_):
    """Each place is read as strictly as a header, and together with the headers."""
    cookies, query, status = request_
    other = (await keys.create(name="other")).token
    cookies, query = (each.format(t=token, o=other) for each in (cookies, query))
    headers = cookie(cookies) if cookies else []
    protected = dependency(keys, **EVERYWHERE)
    behind = APIKeyMiddleware(bare, keys, **EVERYWHERE)
    answer = await ask(protected, headers, query=query)
    assert answer.status == status
    if status == 200:
        assert json.loads(answer.body) == parse(token).key_id
        assert (await ask(behind, headers, query=query)).status == 200
        assert (await ask(protected, [*headers, *bearer(token)], query=query)).status == 200
        assert (await ask(protected, [*headers, *bearer(other)], query=query)).status == 400
    else:
        assert answer == await ask(behind, headers, query=query)
    assert (await ask(dependency(keys), headers, query=query)).status == 401


@pytest.mark.parametrize("place", ["cookie", "query"])
async def test_a_place_may_be_the_only_one(keys, token, ask, place):
    """Then a header opens nothing, and the document says where the token stands."""
    protected = dependency(keys, **ALONE, **{place: "k"})
    carried = {"headers": cookie(f"k={token}")} if place == "cookie" else {"query": f"k={token}"}
    assert (await ask(protected, **carried)).status == 200
    missing = await ask(protected, bearer(token))
    assert (missing.status, missing.header("www-authenticate")) == (401, 'APIKey realm="api"')
    document = json.loads((await ask(protected, path="/openapi.json")).body)
    assert document["components"]["securitySchemes"] == {
        "APIKey": {"type": "apiKey", "in": place, "name": "k"}
    }


async def test_the_document_shows_each_place_as_an_alternative(keys, ask):
    """Also where a cookie, a parameter and headers are called alike."""
    app = FastAPI(lifespan=keys.lifespan)
    auth = APIKeyAuth(keys, headers=["k", "k!", "k#", "optional"], cookie="k", query="q")

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> None: ...

    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    schemes = document["components"]["securitySchemes"]
    assert "the cookie `k`" in schemes["APIKey"]["description"]
    assert "the query parameter `q`" in schemes.pop("APIKey")["description"]
    assert {(each["in"], each["name"]) for each in schemes.values()} == {
        *(("header", name) for name in ("k", "k!", "k#", "optional")),
        ("cookie", "k"),
        ("query", "q"),
    }
    security = document["paths"]["/"]["get"]["security"]
    assert security == [{name: ["a"]} for name in ("APIKey", *schemes)]


def test_a_token_is_put_where_it_is_looked_for(keys_of_nobody):
    """In the first place that a client can fill in, for tests and examples."""
    places = [
        ({}, {"Authorization": "Bearer t"}, {}),
        (EVERYWHERE, {"Authorization": "Bearer t"}, {}),
        ({"bearer": False, **EVERYWHERE}, {"X-API-Key": "t"}, {}),
        (ALONE | EVERYWHERE, {"Cookie": "k=t"}, {}),
        (ALONE | {"query": "k"}, {}, {"k": "t"}),
    ]
    for options, headers, query in places:
        auth = APIKeyAuth(keys_of_nobody, **options)
        for each in (auth, auth.over(keys_of_nobody)):
            assert (each.headers_of("t"), each.query_of("t")) == (headers, query)


@pytest.mark.parametrize(
    ("place", "dangers"),
    [
        ("cookie", ["CSRF", "WebSocket", "SameSite", "HttpOnly", "Secure", "__Host-", "Origin"]),
        ("query", ["access logs", "browser histories", "Referer", "copy", "minutes"]),
    ],
)
def test_who_opens_a_place_is_warned(place, dangers):
    """Both are off, and the documentation of the argument names what they bring."""
    for opens in (APIKeyAuth, APIKeyMiddleware):
        assert inspect.signature(opens).parameters[place].default is None
    said = inspect.getdoc(APIKeyAuth).partition(f"    {place}: ")[2]
    words = " ".join(re.split(r"\n    \w+: ", said)[0].split())
    assert "WARNING: " in words
    assert [danger for danger in dangers if danger not in words] == []


@pytest.fixture
def keys_of_nobody(secret) -> APIKeys:
    """A collection that is not started."""
    return APIKeys(MemoryStore(), prefix="acme", secret=secret)


@pytest.mark.parametrize("place", ["cookie", "query"])
def test_the_plugins_client_holds_a_key_there(keys_of_nobody, keylatch_client, place):
    """For HTTP and WebSockets, whatever the application asks for."""
    app, auth = FastAPI(), APIKeyAuth(keys_of_nobody, **ALONE, **{place: "k"})

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["a"])], n: int = 0) -> int:
        return n

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        await websocket.send_text("in")

    client = keylatch_client(app, auth, "a")
    assert client.get("/", params={"n": 7}).json() == 7
    with client.websocket_connect("/ws") as connection:
        assert connection.receive_text() == "in"
    assert keylatch_client(app, auth).get("/").status_code == 403


# Behind a middleware, and through an application itself.


async def test_a_use_is_counted_once(keys, token, ask):
    """What the middleware has verified in such a place the dependency does not verify again."""
    app = dependency(keys, **EVERYWHERE)
    app.add_middleware(APIKeyMiddleware, keys=keys, **EVERYWHERE)
    assert (await ask(app, cookie(f"k={token}"))).status == 200
    assert (await ask(app, query=f"k={token}")).status == 200
    await keys.flush()
    assert (await keys.get(parse(token).key_id)).use_count == 2


@pytest.mark.parametrize("within", [{}, {"cookie": "k"}, {"query": "k"}, {"query": "q"}])
async def test_a_key_from_elsewhere_does_not_count_as_verified(keys, token, ask, within):
    """A route that reads fewer places, or others, means it."""
    app = APIKeyMiddleware(
        dependency(keys, **ALONE, **({"cookie": "x"} | within)), keys, **EVERYWHERE
    )
    for carried in ({"headers": cookie(f"k={token}")}, {"query": f"k={token}"}):
        names = {"cookie": "headers", "query": "query"}
        meant = any(names[place] in carried for place, name in within.items() if name == "k")
        assert (await ask(app, **carried)).status == (200 if meant else 401)


@pytest.mark.parametrize(
    "changed",
    [
        ({"query_string": b""}, 401),
        ({"query_string": b"k=x"}, 401),
        ({"query_string": b"k={o}"}, 200),
        ({"query_string": None}, 401),
        ({"headers": [(b"cookie", b"k={o}")]}, 400),
        ({"headers": [(b"cookie", b"k={o}")], "query_string": b""}, 200),
        ({"headers": [(b"cookie", b"k=x")], "query_string": b""}, 401),
    ],
)
async def test_what_was_verified_holds_for_that_credential_only(keys, token, ask, changed):
    """A request that an application sends through itself with another query or cookie is new."""
    change, status = changed
    other = (await keys.create(name="other")).token
    inner = dependency(keys, **EVERYWHERE)

    def filled(value):
        if isinstance(value, bytes):
            return value.replace(b"{o}", other.encode())
        return value and [(name, filled(each)) for name, each in value]

    def rewriting(*, in_place):
        async def rewrite(scope, receive, send) -> None:
            scope = scope if in_place else dict(scope)
            scope.update({name: filled(value) for name, value in change.items()})
            await inner(scope, receive, send)

        return APIKeyMiddleware(rewrite, keys, **EVERYWHERE)

    for in_place in (True, False):
        answer = await ask(rewriting(in_place=in_place), query=f"k={token}")
        assert answer.status == status
        if status == 200:
            assert json.loads(answer.body) == parse(other).key_id
    answer = await ask(APIKeyMiddleware(inner, keys, **EVERYWHERE), cookie(f"k={token}"))
    assert json.loads(answer.body) == parse(token).key_id


async def test_the_key_of_a_query_string_is_at_hand(keys, token, ask):
    """Behind the middleware, and gone where the query string is another one."""
    seen = []

    async def app(scope, receive, send) -> None:
        other = dict(scope) | {"query_string": b""}
        seen.extend([verified_key(scope, keys), verified_key(other, keys)])
        await bare(scope, receive, send)

    await ask(APIKeyMiddleware(app, keys, query="k"), query=f"k={token}")
    assert seen[0].id == parse(token).key_id
    assert seen[1] is None


async def test_websockets_in_a_real_server(keys, token, free_port):
    """As browsers open them, which can send no header: by a cookie, or by the query string."""
    config = uvicorn.Config(dependency(keys, **EVERYWHERE), port=free_port, log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        url = f"ws://127.0.0.1:{free_port}/ws"
        for target, headers in (
            (f"{url}?a=b&k={quote(token)}", {}),
            (url, {"Cookie": f'a=b; k="{token}"'}),
        ):
            async with websockets.connect(target, additional_headers=headers) as connection:
                assert await connection.recv() == parse(token).key_id
        for target, headers, status in (
            (url, {}, 401),
            (f"{url}?k={token[:-1]}", {}, 401),
            (f"{url}?k={token}", {"Cookie": "k=x"}, 400),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(target, additional_headers=headers)
            assert refused.value.response.status_code == status
    finally:
        server.should_exit = True
        await serving


# How it is set up, and what nobody sees.


@pytest.mark.parametrize(
    "options",
    [
        {"cookie": ""},
        {"cookie": "a b"},
        {"cookie": "a;b"},
        {"cookie": "ä"},
        {"cookie": "\ud800"},
        {"cookie": "k" * 65},
        {"query": ""},
        {"query": "a b"},
        {"query": "a&b"},
        {"query": "a%20"},
        {"query": "k" * 65},
        {"headers": ["Cookie"]},
        {"headers": ["COOKIE"], "cookie": "k"},
        ALONE,
    ],
    ids=ascii,
)
async def test_a_wrong_setup_is_refused_at_once(keys, options):
    """A name that could not be sent, or would need escapes, is an error when it is written."""
    for make in (APIKeyAuth, lambda keys, **options: APIKeyMiddleware(bare, keys, **options)):
        with pytest.raises(ConfigurationError, match="cookie"):
            make(keys, **options)


@pytest.fixture
def canaries(secret, token) -> Canaries:
    """Watches for the token and the server secret."""
    canaries = Canaries(secret)
    canaries.add(token)
    return canaries


@pytest.mark.parametrize("fault", ["the store", "the headers", "the query"])
@pytest.mark.parametrize("guard", [APIKeyMiddleware, None])
async def test_no_error_shows_a_token(keys, canaries, ask, guard, fault):
    """Errors pass through our frames, which hold neither cookies nor query strings."""
    token = canaries.token()

    async def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    headers, query = cookie(f"k={token}"), f"k={token}"
    others = {}
    if fault == "the store":
        keys._store.load = bug
    elif fault == "the headers":
        headers = [*headers, None]
    else:
        others = {"query_string": query}  # which is no bytes
    app = dependency(keys, **EVERYWHERE)
    app = guard(app, keys, **EVERYWHERE) if guard else app
    with pytest.raises((RuntimeError, TypeError)) as caught:
        await ask(app, headers, query=query, **others)
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        if frame.f_code.co_filename.startswith(PACKAGE):
            canaries.assert_absent(frame.f_code.co_qualname, repr(frame.f_locals))
    canaries.assert_absent("the message", f"{caught.value!r} {vars(caught.value)}")


async def test_what_lies_in_a_scope_shows_no_token(keys, canaries, token, ask):
    """Neither what has passed nor the dependencies show one."""
    scopes = []

    async def app(scope, receive, send) -> None:
        scopes.append(scope)
        await bare(scope, receive, send)

    await ask(APIKeyMiddleware(app, keys, **EVERYWHERE), query=f"k={token}")
    for value in (scopes[0]["keylatch"], APIKeyAuth(keys, **EVERYWHERE)):
        canaries.assert_absent("a repr", f"{value!r} {value}")


async def test_unknown_and_wrong_tokens_get_the_same_bytes(keys, token, ask, secret, wrong_secret):
    """Wherever they stand."""
    app = dependency(keys, **EVERYWHERE)
    sent = [Token.mint("acme_live", SecretRing(secret)).reveal(), wrong_secret(token), "x", "%"]
    answers = {repr(await ask(app, query=f"k={each}")) for each in sent}
    answers |= {repr(await ask(app, cookie(f"k={each}"))) for each in sent}
    assert len(answers) == 1
