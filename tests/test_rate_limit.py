"""Limits of keys, through applications: who is let through, who waits, and what counts."""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from canaries import Canaries
from connections import CAN_ANSWER, HANDSHAKE, PATIENCE, exchange, serving, talk
from fastapi import APIRouter, Depends, FastAPI, Request, Security, WebSocket
from subject import SILENT

from keylatch import APIKey, APIKeys, Happening, RateLimit, SecretRing, Token
from keylatch.asgi import APIKeyMiddleware, verified_key
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth, RefusedError, keys_router, problem_handler
from keylatch.limits import Limiter
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
THREE = RateLimit(3, per=DAY)


@pytest.fixture
def store() -> MemoryStore:
    """A limit is the same with every store."""
    return MemoryStore()


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


def application(auth: APIKeyAuth) -> FastAPI:
    """Routes that ask in every way that there is."""
    app = FastAPI(lifespan=auth.keys.lifespan)
    router = APIRouter(dependencies=[Security(auth)])

    async def owner(owner: str) -> str:
        return owner

    async def nobody() -> None:
        return None

    @app.get("/")
    async def plain(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    @app.get("/scoped")
    async def scoped(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> str:
        return key.id

    @router.get("/often")
    async def often(  # noqa: PLR0917
        request: Request,
        key: Annotated[APIKey, Security(auth, scopes=["a"])],
        fresh: Annotated[APIKey, Security(auth, use_cache=False)],
        maybe: Annotated[APIKey | None, Security(auth.optional)],
        either: Annotated[APIKey | None, Security(auth.either(nobody))],
        user: Annotated[str, Security(auth.owner(owner))],
    ) -> str:
        assert key == fresh == maybe == either == await auth.again(request)
        return user

    @app.get("/maybe")
    async def optional(key: Annotated[APIKey | None, Security(auth.optional)]) -> str | None:
        return key and key.id

    @app.get("/either")
    async def either(key: Annotated[APIKey, Security(auth.either(nobody))]) -> str:
        return key.id

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, key: Annotated[APIKey, Security(auth)]) -> None:
        await websocket.accept()
        await websocket.close()

    @app.get("/open")
    async def open_route() -> str:
        return "open"

    app.include_router(router)
    app.include_router(keys_router(auth), prefix="/api-keys")
    return app


def limited(keys: APIKeys, **options: Any) -> FastAPI:
    """The same with a limit of three requests a day."""
    return application(APIKeyAuth(keys, rate_limit=THREE, **options))


def counters(auth: APIKeyAuth) -> int:
    """Of how many keys something is counted."""
    limiter = auth.door.gate.limiter
    assert limiter is not None
    return len(limiter._native)


@pytest.fixture
async def token(keys: APIKeys) -> str:
    """Of a key with every scope that is asked for."""
    made = await keys.create(name="ci", owner="u1", scopes=["a", "keys:read", "keys:write"])
    return made.token


@pytest.fixture
def statuses(ask) -> Callable[..., Any]:
    """Sends requests one after the other, and gives their statuses."""

    async def statuses(app: Any, token: str, *paths: str, **options: Any) -> list[int]:
        return [(await ask(app, bearer(token), path=path, **options)).status for path in paths]

    return statuses


async def test_a_request_too_many_is_told_when_to_come_back(keys, token, ask, clock):
    """429 in the manner of other refusals, with whole seconds, and no word of other credentials."""
    app = application(APIKeyAuth(keys, rate_limit=RateLimit(3, timedelta(seconds=10))))
    for _ in range(3):
        assert (await ask(app, bearer(token))).status == 200
    clock.advance(seconds=1.2)
    answer = await ask(app, bearer(token))
    detail = "Too many requests with this API key: try again in 3 s"
    body = json.dumps({"detail": detail}, separators=(",", ":")).encode()
    assert answer.status == 429
    assert answer.body == body
    assert answer.headers == [
        (b"retry-after", b"3"),  # 2.13, rounded up
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
    ]
    clock.advance(seconds=2.1)
    assert (await ask(app, bearer(token))).header("retry-after") == "1"
    clock.advance(seconds=0.1)
    assert (await ask(app, bearer(token))).status == 200


async def test_whoever_waits_as_told_is_let_through(keys, token, ask, clock):
    """Requests come back one by one, and refusals in between take nothing."""
    app = limited(keys)
    seen = []
    for _ in range(6):
        while (answer := await ask(app, bearer(token))).status == 429:
            seen.append(int(answer.header("retry-after")))
            clock.advance(seconds=seen[-1])
    assert seen == [28_800] * 3
    clock.advance(days=1)
    assert [(await ask(app, bearer(token))).status for _ in range(4)] == [200] * 3 + [429]


async def test_a_clock_that_is_centuries_ahead_limits_all_the_same(keys, token, statuses, clock):
    """The year 2554 is as far as nanoseconds since 1970 go in 64 bits."""
    clock.advance(days=365_250)
    assert await statuses(limited(keys), token, *"////") == [200, 200, 200, 429]


async def test_by_default_the_limit_needs_no_clock(secret):
    """In a process that tells the time itself requests come back, too; through a real server."""
    async with APIKeys(MemoryStore(), prefix="acme", secret=secret, **SILENT) as keys:
        headers = bearer((await keys.create(name="ci")).token)
        limit = RateLimit(2, timedelta(seconds=1))
        async with serving(application(APIKeyAuth(keys, rate_limit=limit))) as port:

            async def status() -> int:
                status, head, _ = await exchange(port, headers)
                assert status == 200 or b"retry-after: 1\r\n" in head
                return status

            async with asyncio.timeout(PATIENCE):
                while await status() == 200:
                    pass
                while await status() == 429:  # noqa: ASYNC110 - time is what it waits for
                    await asyncio.sleep(0.05)


async def test_the_answer_has_a_code_where_that_is_wanted(keys, token, statuses, ask):
    """As problem+json, by the dependency and by the middleware."""
    app = limited(keys)
    app.add_exception_handler(RefusedError, problem_handler)
    bare = application(APIKeyAuth(keys))
    guarded = APIKeyMiddleware(bare, keys, rate_limit=THREE, problem_json=True)
    for each in (app, guarded):
        assert await statuses(each, token, *"///") == [200] * 3
        answer = await ask(each, bearer(token))
        assert answer.header("content-type") == "application/problem+json"
        assert answer.header("retry-after") == "28800"
        problem = json.loads(answer.body)
        assert (problem["status"], problem["code"]) == (429, "rate_limited")
        assert problem["title"] == "Too Many Requests"


async def test_each_key_has_a_limit_of_its_own(keys, token, statuses):
    """What one has used up, another one still has."""
    app = limited(keys)
    other = (await keys.create(name="other")).token
    assert await statuses(app, token, *"////") == [200, 200, 200, 429]
    assert await statuses(app, other, *"////") == [200, 200, 200, 429]


async def test_a_request_counts_once_however_often_its_key_is_asked_for(keys, token, statuses):
    """By a router and a route, without FastAPI's cache, optionally, beside others, and again."""
    app = limited(keys)
    assert await statuses(app, token, *["/often"] * 4) == [200, 200, 200, 429]


@pytest.mark.parametrize("path", ["/", "/scoped", "/maybe", "/either", "/api-keys"])
async def test_every_way_to_ask_counts(path, keys, token, statuses):
    """Also the routes that manage keys; and all of them out of one limit."""
    app = limited(keys)
    assert await statuses(app, token, path, path, "/", path, "/open") == [200, 200, 200, 429, 200]


async def test_a_request_without_a_key_is_not_limited(keys, ask):
    """Where a key is optional there is nobody whose limit it were."""
    app = limited(keys)
    for _ in range(5):
        assert (await ask(app, path="/maybe")).status == 200
    assert (await ask(app)).status == 401


async def test_what_is_refused_otherwise_takes_nothing(keys, ask, statuses, secret, wrong_secret):
    """Forgeries, wrong secrets, and ids of others leave no trace, and use up nobody's limit."""
    auth = APIKeyAuth(keys, rate_limit=THREE)
    app = application(auth)
    new = await keys.create(name="ci")
    revoked = await keys.create(name="revoked")
    await keys.revoke(revoked.key.id)
    forged = [Token.mint("acme_live", SecretRing(secret)).reveal() for _ in range(20)]
    sent = [*forged, wrong_secret(new.token), new.token[:-1], "junk", revoked.token]
    for each in sent:
        assert await statuses(app, each, *"////") == [401] * 4
        assert await statuses(app, each, "/either", "/maybe") == [401] * 2
    assert await statuses(app, new.token, *["/scoped"] * 5) == [403] * 5
    twice = [*bearer(new.token), *bearer(forged[0])]
    assert (await ask(app, twice)).status == 400
    assert counters(auth) == 0
    assert await statuses(app, new.token, *"////") == [200, 200, 200, 429]
    assert counters(auth) == 1


async def test_requests_at_once_do_not_slip_through(keys, token, ask):
    """Of fifty that come together, three."""
    app = limited(keys)
    answers = await asyncio.gather(*(ask(app, bearer(token)) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 47


async def test_plans_have_limits_of_their_own(keys, ask, statuses):
    """A function tells each key's, and a change of the key counts at once, without forgetting."""
    plans = {"free": RateLimit(2, DAY), "paid": RateLimit(2000, DAY), "unlimited": None}

    def limit_of(key: APIKey) -> RateLimit | None:
        return plans[key.metadata["plan"]]

    app = application(APIKeyAuth(keys, rate_limit=limit_of))
    new = await keys.create(name="ci", metadata={"plan": "free"})
    free = await keys.create(name="other", metadata={"plan": "unlimited"})
    assert await statuses(app, free.token, *"/" * 50) == [200] * 50
    assert await statuses(app, new.token, *"///") == [200, 200, 429]
    assert (await ask(app, bearer(new.token))).header("retry-after") == "43200"
    await keys.update(new.key.id, metadata={"plan": "paid"})
    assert (await ask(app, bearer(new.token))).header("retry-after") == "44"
    await keys.update(new.key.id, metadata={"plan": "unlimited"})
    assert await statuses(app, new.token, *"/" * 50) == [200] * 50
    await keys.update(new.key.id, metadata={"plan": "free"})
    assert await statuses(app, new.token, "/") == [429]


async def test_a_rule_that_fails_lets_nobody_through_and_shows_nothing(keys, token, ask, secret):
    """Its exception is the application's own; no token stands in our frames."""
    canaries = Canaries(secret)
    canaries.add(token)

    def broken(_: APIKey) -> RateLimit:
        raise LookupError("no such plan")

    for rule, error in (
        (broken, LookupError),
        (lambda _: 5, ConfigurationError),
        (lambda _: RateLimit, ConfigurationError),
    ):
        auth = APIKeyAuth(keys, rate_limit=rule)
        for app in (application(auth), APIKeyMiddleware(FastAPI(), keys, rate_limit=rule)):
            for path in ("/", "/scoped"):
                with pytest.raises(error) as caught:
                    await ask(app, bearer(token), path=path)
                canaries.assert_absent_from_frames(caught.value)


async def test_a_refusal_shows_no_token(keys, token, ask, secret):
    """Neither in its message nor in the frames that it went through."""
    canaries = Canaries(secret)
    canaries.add(token)
    app = limited(keys)
    caught = []

    async def keep(request: Request, error: Exception) -> Any:
        caught.append(error)
        return await problem_handler(request, error)

    app.add_exception_handler(RefusedError, keep)
    for _ in range(4):
        await ask(app, bearer(token))
    [error] = caught
    assert error.error.key.name == "ci"
    canaries.assert_absent_from_error(error.error)


@pytest.mark.parametrize(
    "rule", [3, "3", (3, DAY), RateLimit, object(), DAY], ids=lambda rule: type(rule).__name__
)
def test_what_is_no_limit_is_refused_at_the_start(rule, secret):
    """By the dependency and by the middleware."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=secret)
    with pytest.raises(ConfigurationError, match="RateLimit"):
        APIKeyAuth(keys, rate_limit=rule)
    with pytest.raises(ConfigurationError, match="RateLimit"):
        APIKeyMiddleware(FastAPI(), keys, rate_limit=rule)


class Awaited:
    """A rule that is an object, and would have to be awaited."""

    async def __call__(self, key: APIKey) -> RateLimit:
        """Tells the limit."""
        return THREE


async def awaited(key: APIKey) -> RateLimit:
    """Tells the limit."""
    return THREE


def generated(key: APIKey) -> Iterator[RateLimit]:
    """Tells the limit, to whoever goes through it."""
    yield THREE


@pytest.mark.parametrize("rule", [awaited, Awaited(), generated, partial(awaited)])
def test_a_rule_that_returns_no_limit_of_itself_is_refused_at_the_start(secret, rule):
    """Nobody would await it, or go through it: every request would fail."""
    keys = APIKeys(MemoryStore(), prefix="acme", secret=secret)
    with pytest.raises(ConfigurationError, match="not async"):
        APIKeyAuth(keys, rate_limit=rule)


@pytest.mark.parametrize(
    ("requests", "per"),
    [
        (0, DAY),
        (-1, DAY),
        (1_000_001, DAY),
        (1.5, DAY),
        (True, DAY),
        ("3", DAY),
        (3, timedelta(0)),
        (3, timedelta(microseconds=999_999)),
        (3, DAY + timedelta(microseconds=1)),
        (3, -DAY),
        (3, 60),
        (3, None),
    ],
)
def test_limits_have_bounds(requests, per):
    """Past them it says what to write."""
    with pytest.raises(ConfigurationError, match=r"1,000,000|timedelta"):
        RateLimit(requests, per)


def test_limits_are_values():
    """By position and by name, equal and hashable, and as they were."""
    limit = RateLimit(requests=1_000_000, per=timedelta(seconds=1))
    assert limit == RateLimit(1_000_000, timedelta(seconds=1))
    assert len({limit, RateLimit(1_000_000, timedelta(seconds=1)), RateLimit(1, DAY)}) == 2
    assert repr(RateLimit(1, DAY)) == "RateLimit(requests=1, per=datetime.timedelta(days=1))"
    with pytest.raises(AttributeError):
        limit.requests = 5


async def test_a_middleware_limits_a_whole_application(keys, token, ask, statuses):
    """Its answer is the dependency's to the byte; excluded paths stay open."""
    app, bare = limited(keys), application(APIKeyAuth(keys))
    guarded = APIKeyMiddleware(bare, keys, rate_limit=THREE, exclude=["/open"])
    assert await statuses(guarded, token, "/", "/often", "/scoped", "/open") == [200] * 4
    assert await statuses(app, token, *"///") == [200] * 3
    one, other = await ask(guarded, bearer(token)), await ask(app, bearer(token))
    assert one.status == 429
    assert (one.status, sorted(one.headers), one.body) == (
        other.status,
        sorted(other.headers),
        other.body,
    )
    assert await statuses(guarded, token, "/open") == [200]


async def test_middleware_and_dependency_each_count_once(keys, token, statuses):
    """Of a limit in front and a smaller one of a route, the smaller one counts there."""
    app = application(APIKeyAuth(keys, rate_limit=RateLimit(2, DAY)))
    guarded = APIKeyMiddleware(app, keys, rate_limit=RateLimit(5, DAY))
    assert await statuses(guarded, token, "/often", "/", "/") == [200, 200, 429]
    assert await statuses(guarded, token, *["/open"] * 3) == [200, 200, 429]


async def test_a_refused_request_has_not_passed(keys, token):
    """What stands around the middleware does not take it for one that was let through."""
    scopes = []

    async def around(scope, receive, send) -> None:
        scopes.append(scope)
        await guarded(scope, receive, send)

    guarded = APIKeyMiddleware(limited(keys), keys, rate_limit=RateLimit(1, DAY))
    for _ in range(2):
        await talk(around, bearer(token), path="/socket")
    assert [verified_key(scope, keys) is None for scope in scopes] == [False, True]


async def test_a_request_within_a_request_counts_for_the_key_that_it_carries(
    keys, token, ask, statuses
):
    """With a copy of the scope: the same key is counted once, another one by itself."""
    auth = APIKeyAuth(keys, rate_limit=THREE)
    app = application(auth)
    other = (await keys.create(name="other")).token

    @app.get("/within")
    async def within(request: Request, key: Annotated[APIKey, Security(auth)]) -> list[int]:
        """Sends requests through the application itself."""
        found = []
        for each in (token, other):
            scope = {**request.scope, "path": "/", "raw_path": b"/", "headers": bearer(each)}
            messages: list[dict[str, Any]] = []

            async def send(message: dict[str, Any], into: list = messages) -> None:
                into.append(message)

            await app(scope, request.receive, send)
            found.append(messages[0]["status"])
        return found

    answers = [await ask(app, bearer(token), path="/within") for _ in range(3)]
    assert [json.loads(answer.body) for answer in answers] == [[200, 200]] * 3
    assert await statuses(app, other, "/") == [429]
    assert await statuses(app, token, "/") == [429]


async def test_a_websocket_counts_when_it_comes(keys, token):
    """It is refused as HTTP is, where the server can say so, and else closed for later."""
    auth = APIKeyAuth(keys, rate_limit=RateLimit(1, DAY))
    app = application(auth)
    for each in (app, APIKeyMiddleware(FastAPI(), keys, rate_limit=RateLimit(1, DAY))):
        await talk(each, bearer(token), path="/socket")
        assert [message["code"] for message in await talk(each, bearer(token), path="/socket")] == [
            1013
        ]
        start, body = await talk(each, bearer(token), path="/socket", **CAN_ANSWER)
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        assert (b"retry-after", b"86400") in start["headers"]
        assert b"Too many requests" in body["body"]


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_a_server_answers_a_websocket_that_is_too_many(ws, keys, token):
    """429 before it is accepted, with the time to come back."""
    app = application(APIKeyAuth(keys, rate_limit=RateLimit(1, DAY)))
    async with serving(app, ws=ws) as port:
        headers = [*HANDSHAKE, *bearer(token)]
        status, _, _ = await exchange(port, headers, target="/socket")
        assert status == 101
        status, head, body = await exchange(port, headers, target="/socket")
        assert status == 429
        assert b"retry-after: 86400\r\n" in head
        assert b"Too many requests" in body


async def test_health_and_callbacks_tell_of_limits(keys, token, statuses):
    """Counted by code; and told once, with the key."""
    told: list[Happening] = []
    keys.on_event(told.append, actions=["refused"])
    assert keys.health().refusals["rate_limited"] == 0
    assert await statuses(limited(keys), token, *"/////") == [200, 200, 200, 429, 429]
    assert keys.health().refusals["rate_limited"] == 2
    await keys.flush()
    [event] = told
    assert event.details == {"code": "rate_limited", "count": 2}
    assert event.key.name == "ci"


async def test_use_counts_go_on_under_a_limit(keys, token, statuses):
    """What a limit refuses was a use of the key all the same: its secret was right."""
    assert await statuses(limited(keys), token, *"////") == [200, 200, 200, 429]
    await keys.flush()
    [key] = (await keys.list(owner="u1")).items
    assert key.use_count == 4


def answers_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the document says of each operation, by path and method."""
    return {
        f"{method} {path}": operation["responses"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


@pytest.mark.parametrize("problem", [False, True])
async def test_the_openapi_document_shows_429_where_it_may_be_given(problem, keys, ask):
    """With its schema and its header, and nowhere else: also where two auths are called alike."""
    limiting, plain = APIKeyAuth(keys, rate_limit=THREE), APIKeyAuth(keys)
    other = APIKeyAuth(keys, headers=["X-Other"], scheme_name="Other", rate_limit=THREE)
    app = FastAPI(lifespan=keys.lifespan)
    inner = APIRouter(prefix="/inner", dependencies=[Security(limiting)])
    if problem:
        app.add_exception_handler(RefusedError, problem_handler)

    @app.get("/plain", dependencies=[Security(plain)])
    @app.get("/limited", dependencies=[Security(limiting)])
    @app.get("/both", dependencies=[Security(plain), Security(other)])
    @app.get("/optional", dependencies=[Security(limiting.optional)])
    @app.get("/either", dependencies=[Security(limiting.either(lambda: None))])
    @app.get("/open")
    async def route() -> None:
        pass

    @inner.get("/{name}")
    async def within(name: str) -> None:
        pass

    app.include_router(inner, prefix="/outer")
    app.include_router(keys_router(limiting), prefix="/api-keys")
    app.include_router(keys_router(plain), prefix="/plain-keys")
    async with keys.lifespan(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    answers = answers_of(document)
    assert {name for name in answers if "429" in answers[name]} == {
        "get /limited",
        "get /both",
        "get /optional",
        "get /either",
        "get /outer/inner/{name}",
        *(name for name in answers if " /api-keys" in name),
    }
    assert "503" in answers["get /plain"]
    media_type = "application/problem+json" if problem else "application/json"
    assert answers["get /limited"]["429"] == {
        "description": "Too many requests with this API key",
        "headers": {
            "Retry-After": {
                "description": "Seconds until another attempt makes sense.",
                "schema": {"type": "integer"},
            }
        },
        "content": {media_type: {"schema": {"$ref": "#/components/schemas/APIKeyRefusal"}}},
    }


async def test_another_collection_behind_the_same_auth_has_the_same_limit(keys, token, statuses):
    """And has counted nothing: it is what a test puts in its place."""
    auth = APIKeyAuth(keys, rate_limit=THREE)
    app = application(auth)
    assert await statuses(app, token, *"////") == [200, 200, 200, 429]
    app.dependency_overrides[auth] = auth.over(keys)
    assert await statuses(app, token, *"////") == [200, 200, 200, 429]


def _use_up(connection: Any, limiter: Limiter, key: APIKey) -> None:
    """In a child: how many requests pass."""
    connection.send([limiter.take(key, None) is None for _ in range(4)])
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
async def test_a_forked_worker_counts_for_itself(keys, token):
    """From the beginning, whatever its parent has counted."""
    limiter = Limiter(THREE)
    key = await keys.verify(token)
    assert [limiter.take(key, None) is None for _ in range(4)] == [True, True, True, False]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_use_up, args=(theirs, limiter, key))
    child.start()
    assert ours.recv() == [True, True, True, False]
    child.join(PATIENCE)
    assert child.exitcode == 0


async def test_a_dependency_of_the_host_sees_only_what_passes(keys, token, ask):
    """What a route depends on behind the key is not called for a request that is too many."""
    auth = APIKeyAuth(keys, rate_limit=THREE)
    calls = []

    async def work(key: Annotated[APIKey, Security(auth)]) -> None:
        calls.append(key)

    app = FastAPI()

    @app.get("/", dependencies=[Depends(work)])
    async def route() -> None:
        pass

    for _ in range(5):
        await ask(app, bearer(token))
    assert len(calls) == 3


def test_the_plugin_keeps_what_a_test_has_counted(pytester):
    """Two clients of one test, whose requests come back when its clock is moved."""
    pytester.makepyfile(
        """
        from datetime import timedelta
        from typing import Annotated

        from fastapi import FastAPI, Security
        from keylatch import APIKey, APIKeys, RateLimit, SecretRing
        from keylatch.fastapi import APIKeyAuth
        from keylatch.memory import MemoryStore

        keys = APIKeys(MemoryStore(), prefix="acme", secret=SecretRing.generate())
        auth = APIKeyAuth(keys, rate_limit=RateLimit(2, per=timedelta(minutes=1)))
        app = FastAPI()


        @app.get("/")
        async def route(key: Annotated[APIKey, Security(auth)]):
            return key.name


        def statuses(client):
            return [client.get("/").status_code for _ in range(3)]


        def test_limit(keylatch_client, keylatch_clock):
            one = keylatch_client(app, auth)
            assert statuses(one) == [200, 200, 429]
            two = keylatch_client(app, auth)
            assert statuses(one) == [429, 429, 429]
            assert statuses(two) == [200, 200, 429]
            keylatch_clock.advance(timedelta(seconds=30))
            assert statuses(one) == [200, 429, 429]


        def test_another(keylatch_client):
            assert statuses(keylatch_client(app, auth)) == [200, 200, 429]
        """
    )
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    done.assert_outcomes(passed=2)
