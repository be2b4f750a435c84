"""The routes that manage keys: what they answer, and to whom."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import Clock
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from routes import ADMIN, BOTH, READS, WRITES, Client, application, said

from keylatch import APIKeys, SecretRing, Token
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError, UnavailableError
from keylatch.fastapi import APIKeyAuth, RefusedError, keys_router
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

ABSENT = "0123456789abcdef"
ROUTES = [
    ("GET", ""),
    ("POST", ""),
    ("GET", "/{id}"),
    ("PATCH", "/{id}"),
    ("GET", "/{id}/events"),
    ("POST", "/{id}/rotate"),
    ("POST", "/{id}/revoke"),
]
BODIES = {
    ("POST", ""): {"name": "ci"},
    ("PATCH", "/{id}"): {"name": "ci"},
    ("POST", "/{id}/rotate"): {"grace": 60},
}
# Alike to a careless comparison.
LOOKALIKES = ["U1", "u1 ", " u1", "ú1", "u\u0301", "u_", "u%"]


@pytest.fixture
def memory(secret: str, clock: Clock) -> APIKeys:
    """A collection in memory."""
    return APIKeys(MemoryStore(), prefix=["acme_live", "acme_test"], secret=secret, clock=clock)


@pytest.fixture
def client(memory: APIKeys, ask: Callable[..., Any]) -> Client:
    """Asks an application of that collection, with no token yet."""
    return Client(ask, application(memory))


async def test_a_key_lives_over_http_on_every_database(keys, ask, clock):
    """Each route does what the call of its name does, in the name of the key that asks."""
    calling = await keys.create(name="calling", owner="u1", scopes=[*BOTH, "a", "b"])
    client = Client(ask, application(keys)).by(calling)
    wanted = {"name": "ci", "scopes": ["b", "a"], "expires_in": 3600, "metadata": {"n": 1}}
    made = await client("POST", body=wanted)
    assert (made.status, made.header("cache-control")) == (201, "no-store")
    key, token = said(made)["key"], said(made)["token"]
    assert made.header("location") == f"api-keys/{key['id']}"
    assert key == said(await client("GET", f"/{key['id']}"))
    assert (key["owner"], key["scopes"], key["metadata"]) == ("u1", ["a", "b"], {"n": 1})
    assert key["expires_at"] == "2026-01-01T01:00:00Z"
    assert (await keys.verify(token, scopes=["a"])).id == key["id"]

    clock.advance(minutes=1)
    edits = {"scopes": ["a"], "expires_at": None, "metadata": None}
    changed = said(await client("PATCH", f"/{key['id']}", edits))
    assert changed == key | {"scopes": ["a"], "expires_at": None, "metadata": {}}

    rotated = await client("POST", f"/{key['id']}/rotate", {"grace": 60, "expires_in": 120})
    assert (rotated.status, rotated.header("cache-control")) == (201, "no-store")
    successor = said(rotated)["key"]
    assert rotated.header("location") == f"../{successor['id']}"
    assert successor["expires_at"] == "2026-01-01T00:03:00Z"
    await keys.verify(said(rotated)["token"], scopes=["a"])
    again = await client("POST", f"/{key['id']}/rotate", {"grace": 60})
    assert again.status == 409

    clock.advance(seconds=1)
    revoked = await client("POST", f"/{key['id']}/revoke", {"reason": "leaked"})
    assert revoked.status == (await client("POST", f"/{key['id']}/revoke")).status == 200
    assert (await client("PATCH", f"/{key['id']}", {"name": "x"})).status == 409
    events = said(await client("GET", f"/{key['id']}/events"))
    assert [event["action"] for event in events] == ["created", "updated", "rotated", "revoked"]
    assert {event["actor"] for event in events} == {f"key:{calling.key.id}"}
    assert events[-1]["details"] == {"reason": "leaked"}
    assert token not in json.dumps(events)


async def test_other_owners_are_not_there_on_every_database(keys, ask):
    """Their keys answer as ids that do not exist, to the byte, and stand in no list."""
    calling = await keys.create(name="calling", owner="u1", scopes=BOTH)
    client = Client(ask, application(keys)).by(calling)
    for owner in (*LOOKALIKES, None):
        other = await keys.create(name="other", owner=owner)
        for method, path in ROUTES[2:] if owner == "U1" else ROUTES[2:3]:
            body = BODIES.get((method, path))
            answers = [
                await client(method, path.replace("{id}", key_id), body)
                for key_id in (other.key.id, ABSENT)
            ]
            assert answers[0] == answers[1]
            assert answers[0].status == 404
        assert await keys.get(other.key.id) == other.key
        if owner is not None:
            made = await client("POST", body={"name": "ci", "owner": owner})
            assert made.status == 403
    listed = said(await client("GET"))["items"]
    assert [key["id"] for key in listed] == [calling.key.id]


async def test_pages_follow_each_other_and_filters_hold_on_every_database(keys, ask, clock, secret):
    """Paging and filters stay within the owner, whatever cursor comes along."""
    calling = await keys.create(name="calling", owner="u1", scopes=BOTH)
    admin = await keys.create(name="admin", owner="ops", scopes=[*BOTH, ADMIN])
    client = Client(ask, application(keys))
    for number in range(3):
        clock.advance(seconds=1)
        await keys.create(name=f"ci{number}", owner="u1", scopes=["a"])
        await keys.create(name=f"ci{number}", owner="u2", scopes=["a"])
    seen: list[str] = []
    query = "limit=2"
    while query:
        page = said(await client.by(calling)("GET", query=query))
        seen += [key["name"] for key in page["items"]]
        assert {key["owner"] for key in page["items"]} == {"u1"}
        query = page["next_cursor"] and f"limit=2&cursor={page['next_cursor']}"
    assert seen == ["ci2", "ci1", "ci0", "calling"]
    foreign = said(await client.by(admin)("GET", query="limit=1&owner=u2"))["next_cursor"]
    page = said(await client.by(calling)("GET", query=f"cursor={foreign}"))
    assert {key["owner"] for key in page["items"]} == {"u1"}
    for query, count in (("scope=a", 3), ("name=ci1", 1), ("status=revoked", 0), ("owner=u1", 4)):
        assert len(said(await client.by(calling)("GET", query=query))["items"]) == count
    assert (await client.by(calling)("GET", query="owner=u1&owner=u2")).status == 403
    assert len(said(await client.by(admin)("GET"))["items"]) == 8
    assert (await client.by(calling)("GET", query="cursor=x")).status == 422
    assert (await client.by(calling)("GET", query="owners=u2")).status == 422
    for prefix in ("acme_test", "partner"):
        await APIKeys(keys._store, prefix=prefix, secret=secret).create(name=prefix, owner="u1")
    both = APIKeys(keys._store, prefix=["acme_live", "acme_test"], secret=secret, clock=clock)
    for app, count in ((client.app, 8), (application(both), 9)):
        names = [key["name"] for key in said(await Client(ask, app).by(admin)("GET"))["items"]]
        assert (len(names), "partner" in names) == (count, False)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_is_protected(client, memory, method, path):
    """Without a key it is 401, with one that lacks the scope 403; neither is cached."""
    target = (await memory.create(name="target", owner="u1")).key
    path, body = path.replace("{id}", target.id), BODIES.get((method, path))
    wrong = READS if method != "GET" else WRITES
    for new, status in ((None, 401), (await memory.create(name="x", owner="u1"), 403)):
        answer = await client.by(new)(method, path, body)
        assert (answer.status, answer.header("cache-control")) == (status, "no-store")
        assert answer.header("www-authenticate") is not None
    other = await memory.create(name="x", owner="u1", scopes=[wrong, ADMIN])
    assert (await client.by(other)(method, path, body)).status == 403
    assert await memory.get(target.id) == target


@pytest.mark.parametrize("auth", [None, "auth", APIKeyAuth, lambda: None, object()])
def test_routes_are_never_made_without_protection(auth):
    """There is no way to leave it out, by mistake or by a test's stand-in."""
    with pytest.raises(ConfigurationError, match="never mounted without protection"):
        keys_router(auth)


async def test_what_includes_the_routes_cannot_open_them(memory, ask):
    """No option of include_router and no order of routers takes the protection away."""
    app, auth = FastAPI(), APIKeyAuth(memory)
    app.include_router(keys_router(auth), prefix="/{tenant}/api-keys", dependencies=[])
    app.mount("/mounted", application(memory))
    for path in ("/u1/api-keys", "/mounted/api-keys"):
        assert (await ask(app, path=path)).status == 401
    admin = await memory.create(name="admin", owner="ops", scopes=[*BOTH, ADMIN])
    headers = [(b"x-api-key", admin.token.encode()), (b"content-type", b"application/json")]
    for path in ("/mounted/api-keys", "/ü\r\n:?#/api-keys"):
        answer = await ask(app, headers, method="POST", path=path, body=b'{"name":"ci"}')
        assert answer.status == 201
        assert answer.header("location") == f"api-keys/{said(answer)['key']['id']}"


async def test_a_test_may_put_another_key_in_the_place_of_the_dependency(memory, ask):
    """As FastAPI has it; what writes still needs a key that is there, and may."""
    app, auth = FastAPI(), APIKeyAuth(memory)
    app.include_router(keys_router(auth), prefix="/api-keys")
    real = (await memory.create(name="ci", owner="u1", scopes=BOTH)).key
    client = Client(ask, app)
    app.dependency_overrides[auth] = lambda: real
    assert len(said(await client("GET"))["items"]) == 1
    assert (await client("POST", body={"name": "ci"})).status == 201
    app.dependency_overrides.clear()
    assert (await client("GET")).status == 401


async def test_behind_the_middleware_the_key_is_verified_once(memory, ask):
    """The routes act for the key that the middleware has let pass."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    app = APIKeyMiddleware(application(memory), memory)
    async with memory:
        made = await Client(ask, app).by(calling)("POST", body={"name": "ci"})
        assert (made.status, said(made)["key"]["owner"]) == (201, "u1")
        assert memory.health().hits + memory.health().misses == 1
    assert (await Client(ask, app)("GET")).status == 401


async def test_keys_of_other_prefixes_are_not_there(secret, ask):
    """A collection of partners' keys in the same tables stays out of reach, for everybody."""
    store = MemoryStore()
    inner = APIKeys(store, prefix=["acme_live", "acme_test"], secret=secret)
    partner = await APIKeys(store, prefix="partner", secret=secret).create(name="p", owner="u1")
    admin = await inner.create(name="admin", owner="u1", scopes=[*BOTH, ADMIN])
    second = await inner.create(name="second", owner="u2", prefix="acme_test")
    client = Client(ask, application(inner)).by(admin)
    for method, path in ROUTES[2:]:
        body = BODIES.get((method, path))
        answer = await client(method, path.replace("{id}", partner.key.id), body)
        assert answer == await client(method, path.replace("{id}", ABSENT), body)
    listed = {key["id"] for key in said(await client("GET"))["items"]}
    assert listed == {admin.key.id, second.key.id}
    assert said(await client("GET", query="prefix=partner"))["items"] == []
    assert len(said(await client("GET", query="prefix=acme_test"))["items"]) == 1
    assert (await client("POST", body={"name": "ci", "prefix": "partner"})).status == 422


async def test_a_key_without_owner_needs_keys_admin(client, memory):
    """Nobody's keys are not everybody's."""
    nobody = await memory.create(name="ci", scopes=BOTH)
    for method, path in ROUTES:
        body = BODIES.get((method, path))
        answer = await client.by(nobody)(method, path.replace("{id}", nobody.key.id), body)
        assert answer.status == 403
        assert 'scope="keys:admin"' in answer.header("www-authenticate")
    admin = await memory.create(name="ci", scopes=[*BOTH, ADMIN])
    made = said(await client.by(admin)("POST", body={"name": "ci", "owner": "u9"}))["key"]
    assert made["owner"] == "u9"
    assert (
        said(await client.by(admin)("POST", body={"name": "ci", "owner": None}))["key"]["owner"]
        is None
    )


class BrokenStore(MemoryStore):
    """A store whose database fails as soon as it is told to."""

    broken = False

    async def change(self, *args: Any, **options: Any) -> Any:
        """Fails, perhaps."""
        if self.broken:
            raise UnavailableError("connection to db.internal refused", retry_after=7)
        return await super().change(*args, **options)


async def test_a_broken_database_is_503_without_any_handler_of_the_application(secret, ask):
    """And what failed is not told. The application may still answer in its own style."""
    store = BrokenStore()
    keys = APIKeys(store, prefix="acme", secret=secret)
    calling = await keys.create(name="ci", owner="u1", scopes=BOTH)
    client = Client(ask, application(keys)).by(calling)
    store.broken = True
    for method, path in (("POST", ""), ("PATCH", "/{id}"), ("POST", "/{id}/rotate")):
        body = BODIES[method, path]
        answer = await client(method, path.replace("{id}", calling.key.id), body)
        assert (answer.status, answer.header("retry-after")) == (503, "7")
        assert said(answer) == {"detail": "API keys cannot be checked right now: try again"}

    async def handle(request, refused: RefusedError) -> JSONResponse:
        return JSONResponse({"error": refused.error.code}, refused.status_code)

    app = application(keys, exception_handlers={RefusedError: handle})
    answer = await Client(ask, app).by(calling)("POST", body={"name": "ci"})
    assert said(answer) == {"error": "unavailable"}


async def test_times_ends_and_durations_mean_what_they_say(client, memory, clock):
    """Seconds, or a moment with a zone, and not both; never in the past."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    client = client.by(calling)
    for end, status in (
        ({"expires_at": "2026-01-02T00:00:00+02:00"}, 201),
        ({"expires_in": 60}, 201),
        ({"expires_at": "2026-01-02T00:00:00"}, 422),
        ({"expires_at": "2026-01-02"}, 422),
        ({"expires_at": 1_900_000_000}, 422),
        ({"expires_at": "2025-12-31T00:00:00Z"}, 422),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, 422),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, 422),
        ({"expires_in": 0}, 422),
        ({"expires_in": 10**15}, 422),
        ({"expires_in": True}, 422),
        ({"expires_in": 60, "expires_at": "2026-01-02T00:00:00Z"}, 422),
    ):
        assert (await client("POST", body={"name": "ci"} | end)).status == status, end
    path = f"/{calling.key.id}"
    for body in ({}, {"name": None}, {"scopes": None}, {"owner": "u2"}, {"id": ABSENT}):
        assert (await client("PATCH", path, body)).status == 422
    clock.advance(seconds=1)
    assert (await client("POST", f"{path}/rotate", {"grace": -1})).status == 422
    assert (await client("POST", f"{path}/rotate", {})).status == 422
    assert await memory.get(calling.key.id) == calling.key


async def test_tokens_of_other_keys_are_no_ids(client, memory, secret):
    """A whole token in the place of an id, or any other text, is a key that is not there."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    unknown = Token.mint("acme_live", SecretRing(secret)).reveal()
    absent = await client.by(calling)("GET", f"/{ABSENT}")
    upper = calling.key.id.upper()
    for text in (calling.token, unknown, upper, "%", "*", "..", "\x00", "ü", " ", "0" * 10_000):
        assert await client.by(calling)("GET", f"/{text}") == absent
    assert (await client.by(calling)("GET", f"/{calling.key.id}/")).status in (307, 404)


async def test_a_longer_life_than_ones_own_needs_keys_admin(client, memory, clock):
    """A key that ends makes, rotates and prolongs none that ends later, itself included."""
    day = timedelta(days=1)
    brief = await memory.create(name="ci", owner="u1", scopes=BOTH, expires_in=day)
    admin = await memory.create(name="ci", owner="u1", scopes=[*BOTH, ADMIN], expires_in=day)
    other = await memory.create(name="ci", owner="u1", expires_in=day / 2)
    clock.advance(hours=1)
    calls = [
        ("POST", "", {"name": "ci"}),
        ("POST", "", {"name": "ci", "expires_in": 86_400}),
        ("PATCH", f"/{brief.key.id}", {"expires_at": None}),
        ("PATCH", f"/{other.key.id}", {"expires_at": "2026-01-02T00:00:01Z"}),
        ("POST", f"/{brief.key.id}/rotate", {"grace": 0}),
        ("POST", f"/{other.key.id}/rotate", {"grace": 0, "expires_in": 86_400}),
    ]
    for call in calls:
        answer = await client.by(brief)(*call)
        assert answer.status == 422, call
        assert "ends no later" in said(answer)["detail"][0]["msg"]
    assert (await client.by(brief)("POST", "", {"name": "ci", "expires_in": 82_800})).status == 201
    for call in calls:
        assert (await client.by(admin)(*call)).status in (200, 201), call
