"""What attackers try on the routes that manage keys: to go up, across, or to break them."""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from conftest import Clock
from routes import ADMIN, BOTH, READS, Client, application, said
from subject import SILENT, as_elsewhere

from keylatch import APIKeys, NewKey
from keylatch.errors import ConfigurationError
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@pytest.fixture
def memory(secret: str, clock: Clock) -> APIKeys:
    """A collection in memory."""
    return APIKeys(MemoryStore(), prefix="acme_live", secret=secret, clock=clock)


@pytest.fixture
def client(memory: APIKeys, ask: Callable[..., Any]) -> Client:
    """Asks an application of that collection, with no token yet."""
    return Client(ask, application(memory))


async def test_a_key_gives_no_scope_that_it_lacks(client, memory):
    """Not on create, update or rotate, not with keys:admin, not in another order or twice."""
    calling = await memory.create(name="ci", owner="u1", scopes=[*BOTH, "a"])
    admin = await memory.create(name="ci", owner="u1", scopes=[*BOTH, ADMIN, "a"])
    strong = await memory.create(name="strong", owner="u1", scopes=["a", "b"])
    path = f"/{strong.key.id}"
    for new in (calling, admin):
        by = client.by(new)
        for names in (["b"], ["a", "b"], ["a", "a", "b"], ["A"], ["keys:write", "b"]):
            answer = await by("POST", body={"name": "ci", "scopes": names})
            assert answer.status == 403
            itself = await by("PATCH", f"/{new.key.id}", {"scopes": names})
            assert itself.status == 403
        for body in ({"name": "x"}, {"scopes": ["a"]}, {"scopes": []}, {"metadata": {"a": 1}}):
            assert (await by("PATCH", path, body)).status == 403
        assert (await by("POST", f"{path}/rotate", {"grace": 0})).status == 403
        assert await memory.get(strong.key.id) == strong.key
        made = await by("POST", body={"name": "ci", "scopes": ["a", "keys:read", "a"]})
        assert said(made)["key"]["scopes"] == ["a", "keys:read"]
    assert (await client.by(calling)("POST", body={"name": "x", "scopes": [ADMIN]})).status == 403
    revoked = await client.by(calling)("POST", f"{path}/revoke")
    assert revoked.status == 200


async def test_a_key_can_always_end_itself(client, memory):
    """And is over with that."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    path = f"/{calling.key.id}"
    assert (await client.by(calling)("POST", f"{path}/revoke")).status == 200
    assert (await client.by(calling)("GET", path)).status == 401


@pytest.mark.parametrize("status", ["revoked", "expired", "lessened", "gone"])
async def test_what_a_cache_has_not_heard_of_lets_nobody_write(secret, ask, clock, status):
    """A key that ended elsewhere makes no successor in the second until its worker hears of it."""
    store = MemoryStore()
    here = APIKeys(store, prefix="acme_live", secret=secret, clock=clock, **SILENT)
    async with as_elsewhere(here):
        calling = await here.create(name="ci", owner="u1", scopes=BOTH)
        other = await here.create(name="ci", owner="u1")
        client = Client(ask, application(here)).by(calling)
        assert (await client("GET")).status == 200
        there = APIKeys(store, prefix="acme_live", secret=secret, clock=clock)
        match status:
            case "revoked":
                await there.revoke(calling.key.id)
            case "expired":
                await there.update(calling.key.id, expires_at=clock() + HOUR)
                clock.advance(hours=1)
            case "lessened":
                await there.update(calling.key.id, scopes=[READS])
            case "gone":
                del store._records[calling.key.id]
        assert (await client("GET")).status == 200  # it goes by what it has cached
        before = deepcopy(store._records)
        for method, path, body in (
            ("POST", "", {"name": "ci"}),
            ("PATCH", f"/{other.key.id}", {"name": "x"}),
            ("POST", f"/{other.key.id}/rotate", {"grace": 0}),
            ("POST", f"/{calling.key.id}/rotate", {"grace": 0}),
            ("POST", f"/{other.key.id}/revoke", {}),
        ):
            answer = await client(method, path, body)
            assert answer.status == (403 if status == "lessened" else 401)
            assert answer.header("www-authenticate") is not None
        assert store._records == before


class Overtaken(MemoryStore):
    """A store where somebody else is faster, between any look at a key and its change."""

    edits: dict[str, Any] | None = None

    async def change(self, key_id: str, decide: Any, **options: Any) -> Any:
        """Changes a key that was just changed by somebody else."""
        record = self._records.get(key_id)
        if self.edits and record is not None:
            self._records[key_id] = replace(record, key=replace(record.key, **self.edits))
        return await super().change(key_id, decide, **options)


@pytest.mark.parametrize(
    ("edits", "status"), [({"scopes": frozenset("b")}, 403), ({"owner": "u2"}, 404)]
)
async def test_what_changes_between_look_and_change_counts(secret, ask, edits, status):
    """The rules are applied to the key as it is when nobody else can change it any more."""
    store = Overtaken()
    keys = APIKeys(store, prefix="acme_live", secret=secret)
    calling = await keys.create(name="ci", owner="u1", scopes=[*BOTH, "a"])
    client = Client(ask, application(keys)).by(calling)
    for method, end, body in (
        ("PATCH", "", {"name": "renamed"}),
        ("POST", "/rotate", {"grace": 0}),
    ):
        other = await keys.create(name="other", owner="u1", scopes=["a"])
        store.edits = edits
        answer = await client(method, f"/{other.key.id}{end}", body)
        store.edits = None
        assert answer.status == status
        after = await keys.get(other.key.id)
        assert (after.name, after.successor) == ("other", None)


async def test_a_caller_that_is_revoked_meanwhile_changes_nothing(keys, ask, monkeypatch):
    """Between the look at it and the change, which may have waited long for the key's lock."""
    other = await keys.create(name="other", owner="u1")
    change = keys._store.change
    for method, end, body in (
        ("PATCH", "", {"name": "renamed"}),
        ("POST", "/rotate", {"grace": 0}),
        ("POST", "/revoke", {}),
    ):
        calling = await keys.create(name="ci", owner="u1", scopes=BOTH)

        async def overtaken(*args: Any, caller: str = calling.key.id, **options: Any) -> Any:
            monkeypatch.undo()
            await keys.revoke(caller)
            return await change(*args, **options)

        monkeypatch.setattr(keys._store, "change", overtaken)
        answer = await Client(ask, application(keys)).by(calling)(
            method, f"/{other.key.id}{end}", body
        )
        assert answer.status == 401
        assert await keys.get(other.key.id) == other.key


async def test_an_incident_ends_what_is_made_meanwhile_on_every_database(keys, ask):
    """After revoke_all no key of the owner is left, however busily its keys make others."""
    callings = [await keys.create(name="ci", owner="u1", scopes=BOTH) for _ in range(3)]
    client = Client(ask, application(keys))

    async def busy(new: NewKey) -> list[int]:
        return [(await client.by(new)("POST", body={"name": "more"})).status for _ in range(4)]

    async def incident() -> None:
        await asyncio.sleep(0.01)
        await keys.revoke_all(owner="u1")

    *statuses, _ = await asyncio.gather(*map(busy, callings), incident())
    assert set(chain.from_iterable(statuses)) <= {201, 401, 503}
    assert (await keys.list(owner="u1", status="active")).items == []


async def test_no_answer_grows_with_what_a_key_did_before(client, memory):
    """Of a trail of any length the latest entries are shown, 50 or as many as are asked for."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    client, path = client.by(calling), f"/{calling.key.id}"
    for number in range(600):
        await memory.update(calling.key.id, metadata={"n": number})
    for query, count in (("", 50), ("latest=1", 1), ("latest=500", 500)):
        events = said(await client("GET", f"{path}/events", query=query))
        assert len(events) == count
        assert events[-1]["details"]["metadata"]["to"] == {"n": 599}
    for query in ("latest=0", "latest=501", "latest=x", "limit=5"):
        assert (await client("GET", f"{path}/events", query=query)).status == 422


async def test_nothing_that_was_sent_is_sent_back(client, memory):
    """A token that was pasted into the wrong place stands in no answer that refuses it."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    client, token = client.by(calling), calling.token
    names = ("name", "owner", "scopes", "expires_in", "expires_at", "metadata", "prefix", token)
    values = (token, [token], {token: token}, [token] * 65, token * 9)
    bodies = [{name: value, "wrong": token} for name in names for value in values]
    path = f"/{calling.key.id}"
    places = [("POST", ""), ("PATCH", path), ("POST", f"{path}/rotate"), ("POST", f"{path}/revoke")]
    queries = [f"{name}={token}" for name in ("cursor", "scope", "status", "limit", token)]
    requests = [client(*place, body) for place in places for body in (*bodies, token, [token])]
    requests += [client("GET", query=query) for query in queries]
    for request in requests:
        answer = await request
        assert answer.status == 422
        assert token.encode() not in answer.body
        assert b'"input"' not in answer.body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"a","metadata":' + b'{"a":' * 17 + b"1" + b"}" * 18,
        b'{"name":"a","metadata":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"name":' + b"[" * 200_000,
        b'{"name":"a","metadata":{"a":' + b"1" * 5000 + b"}}",
        b'{"name":"a","metadata":{"a":NaN}}',
        b'{"name":"a","metadata":{"a":1e999}}',
        b'{"name":"a","metadata":{"\\ud800":1}}',
        b'{"name":"a","\\ud800":1}',
        b'{"name":"\\ud800"}',
        b'{"name":"a\\u0000"}',
        b'{"name":"a\\u2028b"}',
        b'{"name":"a","metadata":{"a":"' + b"x" * 8192 + b'"}}',
        b'{"name":"a","id":"0123456789abcdef"}',
        b'{"name":"a","use_count":5,"successor":null,"hash":"x"}',
        b'{"name":"a","actor":"root"}',
        b'{"name":"a"',
        b'{"name":"\xff"}',
        b'["name"]',
        b"null",
        b"",
    ],
)
async def test_bodies_that_are_no_keys_are_422(client, memory, raw):
    """However deep, long or odd, and whatever they try to set besides."""
    calling = await memory.create(name="ci", owner="u1", scopes=BOTH)
    answer = await client.by(calling)("POST", raw=raw)
    assert (answer.status, answer.header("cache-control")) == (422, "no-store")
    assert {"type", "loc", "msg"} == set(said(answer)["detail"][0])
    assert len((await memory.list()).items) == 1


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
async def test_other_methods_do_nothing(client, memory, method):
    """Not even for a key that may do everything."""
    admin = await memory.create(name="ci", owner="u1", scopes=[*BOTH, ADMIN])
    for path in ("", f"/{admin.key.id}", f"/{admin.key.id}/revoke"):
        assert (await client.by(admin)(method, path, {})).status == 405
    assert await memory.get(admin.key.id) == admin.key


async def test_a_key_may_do_nothing_else_by_itself(memory):
    """What the rules do not know of is refused, not let through."""
    admin = await memory.create(name="ci", owner="u1", scopes=[*BOTH, ADMIN])
    calls = memory.delegated_to(admin.key)
    with pytest.raises(ConfigurationError, match="may not do this by itself"):
        await calls.revoke_all(owner="u1")
    with pytest.raises(ConfigurationError, match="may not do this by itself"):
        await calls.purge(dead_for=timedelta(hours=1))
