"""No way up and none across: random lives of keys that make and change keys over HTTP.

``KEYLATCH_SOAK=1`` tries forty times as many lives.
"""

import asyncio
import os
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import Clock
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from routes import ADMIN, BOTH, READS, WRITES, Client, application, said

from keylatch import APIKey, APIKeys, SecretRing
from keylatch.memory import MemoryStore

EXAMPLES = 30 * (80 if os.environ.get("KEYLATCH_SOAK") else 1)
OURS = ("acme_live", "acme_test")
HOUR = timedelta(hours=1)

scopes = st.lists(st.sampled_from([READS, WRITES, "a", "b", "A", ADMIN]), max_size=7)
owners = st.sampled_from(["u1", "u2", "U1", "u1 ", None])
prefixes = st.sampled_from([*OURS, "partner"])
hours = st.sampled_from([None, 1, 2, 5])
place = st.integers(0, 9)


def call(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A request by some key about some key, with some of its arguments."""
    return st.tuples(st.just(name), place, place, st.fixed_dictionaries({}, optional=arguments))


lives = st.lists(
    st.one_of(
        call("create", owner=owners, scopes=scopes, expires_in=hours, prefix=prefixes),
        call("update", scopes=scopes, expires_at=hours),
        call("rotate", expires_in=hours),
        call("revoke"),
        call("show"),
        call("events"),
        call("list", owner=owners, prefix=prefixes),
        call("wait"),
    ),
    min_size=4,
    max_size=16,
)
# Those that may do much are the more likely ones to find a way.
able = scopes.map(lambda names: [*names, *BOTH])
beginnings = st.lists(
    st.fixed_dictionaries(
        {
            "owner": st.sampled_from(["u1", "u1", "u2", "U1", None]),
            "scopes": st.one_of(able, able, scopes),
            "prefix": st.sampled_from([*OURS, *OURS, "partner"]),
            "hours": hours,
        }
    ),
    min_size=2,
    max_size=4,
)


class World:
    """Keys of two collections in one store, tokens of theirs, and requests."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.clock, self.store = Clock(), MemoryStore()
        shared = {"secret": SecretRing.generate(), "clock": self.clock}
        self.every = APIKeys(self.store, prefix=[*OURS, "partner"], **shared)
        keys = APIKeys(self.store, prefix=OURS, **shared)
        self.client = Client(ask, application(keys))
        self.begin_anew()

    def begin_anew(self) -> None:
        """With no keys."""
        self.store.__init__()
        self.clock.now = Clock.now
        self.tokens: list[str] = []

    def keys(self) -> dict[str, APIKey]:
        """All that there are."""
        return {key_id: record.key for key_id, record in self.store._records.items()}

    async def begin(self, owner, scopes, prefix, hours) -> None:
        """Makes a key as an operator does."""
        lasting = None if hours is None else hours * HOUR
        new = await self.every.create(
            name="ci", owner=owner, scopes=scopes, prefix=prefix, expires_in=lasting
        )
        self.tokens.append(new.token)

    async def take(self, name: str, by: int, about: int, arguments: dict[str, Any]) -> None:
        """Sends a request, and looks at what became of everything."""
        if name == "wait":
            self.clock.advance(hours=1)
            return
        token = self.tokens[by % len(self.tokens)]
        before = deepcopy(self.keys())
        caller = before[token.rsplit("_", 2)[1]]
        target = before[self.tokens[about % len(self.tokens)].rsplit("_", 2)[1]]
        method, path, body = self.request(name, target, arguments)
        if method == "GET":
            given = {name: value for name, value in body.items() if value is not None}
            answer = await self.client.by(token)(method, path, query=urlencode(given))
        else:
            answer = await self.client.by(token)(method, path, body)
        after = self.keys()
        assert_nothing_beyond(caller, before, after)
        assert_nothing_seen(caller, after, answer)
        refusals = self.refusals(name, caller, target, arguments)
        assert answer.status in (refusals or {200, 201}), (refusals, answer)
        if answer.status == 201:
            self.tokens.append(said(answer)["token"])
        if refusals:
            assert before == after

    def request(self, name: str, target: APIKey, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """Method, path and body of a request."""
        body = dict(arguments)
        if body.get("expires_in") is not None:
            body["expires_in"] *= 3600
        if body.get("expires_at") is not None:
            body["expires_at"] = (self.clock() + body["expires_at"] * HOUR).isoformat()
        path = f"/{target.id}"
        match name:
            case "create":
                return "POST", "", {"name": "ci"} | body
            case "update":
                return "PATCH", path, {"name": "renamed"} | body
            case "rotate" | "revoke":
                return "POST", f"{path}/{name}", {"grace": 3600} | body if name == "rotate" else {}
            case "list":
                return "GET", "", body
            case _:
                return "GET", path if name == "show" else f"{path}/events", {}

    def refusals(
        self, name: str, caller: APIKey, target: APIKey, arguments: dict[str, Any]
    ) -> set[int]:
        """What a request may be refused with; nothing if it must be granted."""
        writes = name in ("create", "update", "rotate", "revoke")
        if caller.prefix not in OURS or caller.status(self.clock()) != "active":
            return {401}
        homeless = caller.owner is None and ADMIN not in caller.scopes
        if homeless or (WRITES if writes else READS) not in caller.scopes:
            return {403}
        if name in ("create", "list"):
            foreign = arguments.get("owner") not in (None, caller.owner)
            found = {403} if foreign and ADMIN not in caller.scopes else set()
            return found | self.refusals_to_make(caller, arguments) if name == "create" else found
        if not sees(caller, target):
            return {404}
        if name in ("update", "rotate"):
            return self.refusals_to_change(name, caller, target, arguments)
        return set()

    def refusals_to_make(self, caller: APIKey, arguments: dict[str, Any]) -> set[int]:
        """The same of a new key."""
        end = self.end(arguments.get("expires_in"))
        wrong = arguments.get("prefix", OURS[0]) not in OURS or outlives(caller, end)
        found = {422} if wrong else set()
        return found if set(arguments.get("scopes", ())) <= caller.scopes else found | {403}

    def refusals_to_change(
        self, name: str, caller: APIKey, target: APIKey, arguments: dict[str, Any]
    ) -> set[int]:
        """The same of one that the caller sees."""
        if target.status(self.clock()) != "active" or (name == "rotate" and target.successor):
            return {409}
        found = set()
        if not target.scopes | set(arguments.get("scopes", ())) <= caller.scopes:
            found.add(403)
        if name == "rotate":
            end = self.end(arguments.get("expires_in"))
            if end is None and target.expires_at is not None:
                end = self.clock() + (target.expires_at - target.created_at)
            return found | {422} if outlives(caller, end) else found
        end = self.end(arguments.get("expires_at"))
        if "expires_at" in arguments and later(end, target.expires_at):
            if target.successor:
                found.add(409)
            if outlives(caller, end):
                found.add(422)
        return found

    def end(self, hours: int | None) -> datetime | None:
        """When so many hours are over."""
        return None if hours is None else self.clock() + hours * HOUR


def sees(caller: APIKey, key: APIKey) -> bool:
    """Whether a key is the caller's business."""
    return key.prefix in OURS and (ADMIN in caller.scopes or key.owner == caller.owner is not None)


def later(end: Any, other: Any) -> bool:
    """Whether one end, or none, comes after another."""
    return other is not None and (end is None or end > other)


def outlives(caller: APIKey, end: Any) -> bool:
    """Whether what ends then would go on after the caller, which may not have it."""
    return ADMIN not in caller.scopes and later(end, caller.expires_at)


def assert_nothing_beyond(
    caller: APIKey, before: dict[str, APIKey], after: dict[str, APIKey]
) -> None:
    """Whatever is new or changed is the caller's business, and no more than the caller is."""
    assert before.keys() <= after.keys()
    for key_id, key in after.items():
        old = before.get(key_id)
        if key == old:
            continue
        assert sees(caller, key)
        if old is not None:
            assert (key.owner, key.prefix) == (old.owner, old.prefix)
            if key.revoked_at is not None:
                assert replace(key, revoked_at=None) == old
                continue
        assert key.scopes <= caller.scopes
        if old is None or later(key.expires_at, old.expires_at):
            assert not outlives(caller, key.expires_at)


def assert_nothing_seen(caller: APIKey, after: dict[str, APIKey], answer: Any) -> None:
    """No id of a key that is not the caller's business stands in an answer.

    But an owner may know which key it was that changed its own.
    """
    body = re.sub(rb'"actor":"key:\w+"', b"", answer.body)
    for key in after.values():
        assert sees(caller, key) or key.id.encode() not in body


@pytest.fixture
def world(ask: Callable[..., Any]) -> World:
    """One that all lives are lived in, one after the other: to make one takes as long as a life."""
    return World(ask)


@given(beginnings, lives)
@settings(
    max_examples=EXAMPLES,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_sequence_of_calls_leads_up_or_across(world, beginning, life):
    """Keys that make and change keys end up with nothing that the first ones did not have."""

    async def live() -> None:
        world.begin_anew()
        for arguments in beginning:
            await world.begin(**arguments)
        for step in life:
            await world.take(*step)

    asyncio.run(live())
