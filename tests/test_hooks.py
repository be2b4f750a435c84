"""Callbacks are told what happens to keys, one event after the other, and no secret with it."""

import asyncio
import copy
import functools
import pickle
import threading
from dataclasses import FrozenInstanceError
from datetime import UTC, timedelta
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Security
from starlette.testclient import TestClient
from subject import SILENT

from keylatch import APIKey, APIKeys, Happening, KeyRequest
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidKeyError,
    MissingKeyError,
    RevokedKeyError,
    UnavailableError,
)
from keylatch.fastapi import APIKeyAuth, keys_router
from keylatch.importing import TokenToImport
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

CHANGES = ("created", "imported", "updated", "rotated", "revoked")
IMPORTED = "sk_4eC39HqLyjWDarjtT1zdp7dc"


@pytest.fixture
async def keys(secret, clock):
    """A started collection in memory."""
    options = SILENT | {"imported_tokens": True, "unsealed_lookups": 1000}
    async with APIKeys(
        MemoryStore(), prefix="acme_live", secret=secret, clock=clock, **options
    ) as keys:
        yield keys


@pytest.fixture
def told(keys):
    """What a callback of the collection has been told."""
    return hears(keys)


def hears(keys, *actions):
    """Has a list take all events, or some."""
    told = []
    keys.on_event(told.append, **({"actions": actions} if actions else {}))
    return told


def tasks():
    """The tasks of keylatch that run in this event loop."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("keylatch")]


def counted(told):
    """The refusals by code and key id."""
    assert {each.action for each in told} <= {"refused"}
    return {(each.details["code"], each.key_id): each.details["count"] for each in told}


async def life(keys):
    """Everything that is done to keys, and what is to be told of it: action, key id, actor."""
    new = await keys.create(name="ci", owner="u1", actor="ada")
    renamed = await keys.update(new.key.id, name="ci 2", actor="bob")
    successor = await keys.rotate(renamed.id, grace=timedelta(hours=1), reason="old", actor="eve")
    await keys.revoke(renamed.id, reason="leaked", actor="ops")
    many = await keys.create_many([KeyRequest(name=f"{n}", owner="u2") for n in range(3)])
    gone = await keys.revoke_all(owner="u2", actor="ops")
    return [
        ("created", new.key.id, "ada"),
        ("updated", new.key.id, "bob"),
        ("rotated", new.key.id, "eve"),
        ("created", successor.key.id, "eve"),
        ("revoked", new.key.id, "ops"),
        *[("created", each.key.id, None) for each in many],
        *[("revoked", key_id, "ops") for key_id in gone],
    ]


class TestChanges:
    """What is done to keys."""

    async def test_every_change_is_told_once_for_each_key_in_order(self, store, secret, clock):
        """Each call tells what the audit trail says, with the key as it is then."""
        async with APIKeys(store, prefix="acme_live", secret=secret, clock=clock, **SILENT) as keys:
            told = hears(keys)
            expected = await life(keys)
            await keys.flush()
            assert [(each.action, each.key_id, each.actor) for each in told] == expected
            for each in told:
                entries = await keys.events(each.key_id)
                assert each.details in [entry.details for entry in entries]
                assert (each.at, each.at.tzinfo) == (clock(), UTC)
                assert each.key.id == each.key_id
            assert told[1].key.name == "ci 2"
            assert told[2].key.successor == told[3].key_id
            assert told[2].details["successor"] == told[3].key_id
            assert told[4].key.revoked_at == clock()

    async def test_imported_tokens_are_told_of_without_the_token(self, keys, told):
        """One, or many."""
        one = await keys.import_token(IMPORTED, name="old", actor="ada")
        request = KeyRequest(name="older")
        read = keys.read_imported("another_token_of_old")
        (other,) = await keys.import_many([TokenToImport(read, request)])
        await keys.flush()
        assert [(each.action, each.key, each.actor) for each in told] == [
            ("imported", one, "ada"),
            ("imported", other, None),
        ]
        assert IMPORTED not in repr(told)

    async def test_what_changes_nothing_or_fails_is_not_told(self, keys):
        """No event where there is no entry in the audit trail."""
        key = (await keys.create(name="ci")).key
        told = hears(keys)
        await keys.update(key.id, name="ci")
        with pytest.raises(ValueError, match="name"):
            await keys.update(key.id, name="")
        await keys.revoke(key.id)
        await keys.revoke(key.id)
        with pytest.raises(Exception, match="revoked"):
            await keys.update(key.id, name="late")
        await keys.flush()
        assert [each.action for each in told] == ["revoked"]

    async def test_changes_over_http_are_told_as_well(self, keys, told):
        """By the routes that manage keys, in the name of the request's key."""
        auth = APIKeyAuth(keys)
        app = FastAPI()
        app.include_router(keys_router(auth), prefix="/api-keys")
        boss = await keys.create(name="boss", owner="u1", scopes=["keys:write", "keys:read"])
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://test",
            headers=auth.headers_of(boss.token),
        ) as client:
            made = (await client.post("/api-keys", json={"name": "ci"})).json()["key"]["id"]
            await client.patch(f"/api-keys/{made}", json={"name": "ci 2"})
            await client.post(f"/api-keys/{made}/revoke", json={})
        await keys.flush()
        actor = f"key:{boss.key.id}"
        assert [(each.action, each.key_id, each.actor) for each in told[1:]] == [
            ("created", made, actor),
            ("updated", made, actor),
            ("revoked", made, actor),
        ]


class TestRegistering:
    """Whom what is told to."""

    async def test_a_callback_hears_of_the_actions_that_it_asks_for(self, keys):
        """Of all if it names none."""
        everything, ends = hears(keys), hears(keys, "revoked", "rotated")
        expected = await life(keys)
        await keys.flush()
        assert [each.action for each in everything] == [action for action, *_ in expected]
        assert [each.action for each in ends] == [
            action for action, *_ in expected if action in ("revoked", "rotated")
        ]

    async def test_it_is_a_decorator_with_and_without_actions(self, keys):
        """Which gives the function back."""
        told = []

        @keys.on_event
        def everything(happening):
            told.append(("everything", happening.action))

        @keys.on_event(actions={"revoked"})
        async def ends(happening):
            told.append(("ends", happening.action))

        await keys.revoke((await keys.create(name="ci")).key.id)
        await keys.flush()
        assert sorted(told) == [
            ("ends", "revoked"),
            ("everything", "created"),
            ("everything", "revoked"),
        ]
        assert callable(everything)
        assert callable(ends)

    async def test_callables_of_every_kind_are_called(self, keys):
        """Functions, methods, partials, objects and lambdas, whether asynchronous or not."""
        told = []

        async def asynchronous(name, happening):
            await asyncio.sleep(0)
            told.append(name)

        class Synchronous:
            def __call__(self, happening):
                told.append("object")

        class Asynchronous:
            async def __call__(self, happening):
                await asynchronous("asynchronous object", happening)

            async def method(self, happening):
                await asynchronous("asynchronous method", happening)

        for callback in (
            lambda _: told.append("lambda"),
            lambda happening: asynchronous("asynchronous lambda", happening),
            functools.partial(asynchronous, "asynchronous partial"),
            Synchronous(),
            Asynchronous(),
            Asynchronous().method,
        ):
            assert keys.on_event(callback) is callback
        await keys.create(name="ci")
        await keys.flush()
        assert sorted(told) == [
            "asynchronous lambda",
            "asynchronous method",
            "asynchronous object",
            "asynchronous partial",
            "lambda",
            "object",
        ]

    @pytest.mark.parametrize("actions", [["revoked", "expired"], []])
    async def test_an_unknown_action_is_refused_and_the_known_ones_named(self, keys, actions):
        """And so are none at all."""
        with pytest.raises(ValueError, match=r"some of created, .*revoked, .*refused"):
            keys.on_event(print, actions=actions)

    @pytest.mark.parametrize(
        ("callback", "actions"),
        [("print", ["revoked"]), ({"revoked"}, ["revoked"]), (print, "revoked"), (print, 1)],
    )
    async def test_what_is_no_callback_or_no_list_is_refused(self, keys, callback, actions):
        """With what is expected in the text."""
        with pytest.raises(TypeError, match=r"must be callable|list of names"):
            keys.on_event(callback, actions=actions)
        with pytest.raises(TypeError, match="callable"):
            keys.on_event(actions=["revoked"])(None)

    async def test_a_callback_that_yields_is_refused(self, keys):
        """To call it would only make a generator, of which nothing ever runs."""

        async def asynchronous(happening):
            yield happening

        def synchronous(happening):
            yield happening

        class Callable:
            def __call__(self, happening):
                yield happening

        for callback in (asynchronous, synchronous, functools.partial(synchronous), Callable()):
            with pytest.raises(TypeError, match="must not yield"):
                keys.on_event(callback)

    async def test_synchronous_callbacks_leave_the_event_loop_alone(self, keys):
        """They run in another thread, in the context in which they were registered."""
        threads = []
        keys.on_event(lambda _: threads.append(threading.current_thread()))
        await keys.create(name="ci")
        await keys.flush()
        assert threads[0] is not threading.current_thread()
        assert threads[0].daemon


class TestHappenings:
    """What a callback is given."""

    async def test_nothing_in_it_can_be_changed(self, keys, told):
        """Nor is what the caller has got from the call, and may change."""
        new = await keys.create(name="ci", metadata={"a": {"b": [1]}})
        new.key.metadata["a"]["b"].append(2)
        await keys.flush()
        (happening,) = told
        assert happening.key.metadata == {"a": {"b": [1]}}
        with pytest.raises(FrozenInstanceError):
            happening.action = "revoked"
        for change in (
            lambda: happening.details.update(owner="u2"),
            lambda: happening.details["scopes"].append("a"),
            happening.key.metadata.clear,
            lambda: happening.key.metadata["a"]["b"].append(2),
        ):
            with pytest.raises(TypeError):
                change()
        assert pickle.loads(pickle.dumps(happening)) == happening
        assert copy.deepcopy(happening) == happening

    async def test_it_holds_no_secret(self, keys, told, secret, wrong_secret):
        """Neither a token, nor a part of one, nor a hash, nor the server secret."""
        await life(keys)
        new = await keys.create(name="ci", scopes=["a"])
        successor = await keys.rotate(new.key.id, grace=timedelta(hours=1))
        for token in (wrong_secret(new.token), "junk", "", IMPORTED):
            with pytest.raises(AuthenticationError):
                await keys.verify(token)
        with pytest.raises(InsufficientScopeError):
            await keys.verify(new.token, scopes=["b"])
        await keys.revoke(new.key.id)
        with pytest.raises(RevokedKeyError):
            await keys.verify(new.token)
        await keys.flush()
        shown = f"{told!r} {[str(each) for each in told]} {keys!r} {keys.health()!r}"
        assert "refused" in shown
        for token in (new.token, successor.token):
            assert token[-55:-12] not in shown
        for part in (IMPORTED, secret, secret.partition(":")[2], "hmac-sha256", "junk"):
            assert part not in shown


class TestRefusals:
    """Requests that may not pass."""

    @pytest.fixture
    def told(self, keys):
        """The refusals alone."""
        return hears(keys, "refused")

    async def test_refusals_that_are_alike_are_told_once_with_their_number(
        self, keys, told, clock, wrong_secret
    ):
        """By error code and key, which is given only where the secret was right."""
        new = await keys.create(name="ci", expires_in=timedelta(hours=1))
        other = await keys.create(name="other", scopes=["a"])
        gone = await keys.create(name="gone")
        await keys.revoke(gone.key.id)
        first = clock()
        for _ in range(3):
            for token, scope, error in (
                ("", [], MissingKeyError),
                ("junk", [], InvalidKeyError),
                (wrong_secret(new.token), [], InvalidKeyError),
                (wrong_secret(gone.token), [], InvalidKeyError),
                (gone.token, [], RevokedKeyError),
                (other.token, ["b"], InsufficientScopeError),
            ):
                with pytest.raises(error):
                    await keys.verify(token, scopes=scope)
            clock.advance(minutes=1)
        clock.advance(hours=1)
        with pytest.raises(ExpiredKeyError):
            await keys.verify(new.token)
        await keys.flush()
        assert counted(told) == {
            ("missing_key", None): 3,
            ("invalid_key", None): 9,
            ("revoked_key", gone.key.id): 3,
            ("insufficient_scope", other.key.id): 3,
            ("expired_key", new.key.id): 1,
        }
        assert told[0].at == first
        assert {each.key and each.key.name for each in told} == {None, "gone", "other", "ci"}
        assert await keys.verify(other.token)
        await keys.flush()
        assert len(told) == 5

    async def test_the_error_has_the_key_where_its_secret_was_right(self, keys, wrong_secret):
        """For whoever answers it; no text of it has anything of that."""
        gone = await keys.create(name="gone")
        await keys.revoke(gone.key.id)
        with pytest.raises(RevokedKeyError) as caught:
            await keys.verify(gone.token)
        assert caught.value.key.id == gone.key.id
        assert gone.key.id not in str(caught.value)
        with pytest.raises(InvalidKeyError) as caught:
            await keys.verify(wrong_secret(gone.token))
        assert caught.value.key is None

    async def test_a_second_passes_before_refusals_are_told(self, keys):
        """Without anybody asking for it."""
        heard = asyncio.Event()
        told = []

        @keys.on_event(actions=["refused"])
        async def refused(happening):
            told.append(happening)
            heard.set()

        for _ in range(100):
            with pytest.raises(MissingKeyError):
                await keys.verify("")
        assert told == []
        await heard.wait()
        assert counted(told) == {("missing_key", None): 100}

    async def test_imported_tokens_are_told_of_by_their_key(self, keys, told):
        """Under whatever server secret it was imported."""
        key = await keys.import_token(IMPORTED, name="old")
        await keys.revoke(key.id)
        for token, error in ((IMPORTED, RevokedKeyError), (IMPORTED + "x", InvalidKeyError)):
            with pytest.raises(error):
                await keys.verify(token)
        await keys.flush()
        assert counted(told) == {("revoked_key", key.id): 1, ("invalid_key", None): 1}

    @pytest.mark.parametrize("protection", ["dependency", "middleware", "both"])
    async def test_requests_are_told_of_whatever_has_refused_them(
        self, keys, told, wrong_secret, protection
    ):
        """Each once, with the code that the client is answered."""
        auth = APIKeyAuth(keys)
        app = FastAPI()
        needs = [] if protection == "middleware" else [Security(auth, scopes=["a"])]

        @app.get("/", dependencies=needs)
        async def route() -> None:
            pass

        if protection != "dependency":
            scopes = ["a"] if protection == "middleware" else []
            app.add_middleware(APIKeyMiddleware, keys=keys, scopes=scopes)
        good, bad, gone = [
            await keys.create(name=name, scopes=scopes)
            for name, scopes in (("good", ["a"]), ("bad", ["b"]), ("gone", ["a"]))
        ]
        await keys.revoke(gone.key.id)
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://test"
        ) as client:
            for sent, status in (
                ({}, 401),
                ({"Authorization": "Bearer junk"}, 401),
                ({"X-API-Key": wrong_secret(good.token)}, 401),
                ({"X-API-Key": "a", "Authorization": "Bearer b"}, 400),
                ({"X-API-Key": gone.token}, 401),
                ({"X-API-Key": bad.token}, 403),
                ({"X-API-Key": good.token}, 200),
            ):
                assert (await client.get("/", headers=sent)).status_code == status
        await keys.flush()
        assert counted(told) == {
            ("missing_key", None): 1,
            ("invalid_key", None): 2,
            ("ambiguous_credentials", None): 1,
            ("revoked_key", gone.key.id): 1,
            ("insufficient_scope", bad.key.id): 1,
        }

    async def test_a_key_that_reaches_too_far_over_http_is_told_of(self, keys, told):
        """The routes that manage keys refuse it for what it asks for, and its secret was right."""
        auth = APIKeyAuth(keys)
        app = FastAPI()
        app.include_router(keys_router(auth), prefix="/api-keys")
        low = await keys.create(name="low", owner="u1", scopes=["keys:write"])
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://test",
            headers=auth.headers_of(low.token),
        ) as client:
            answer = await client.post("/api-keys", json={"name": "up", "scopes": ["admin"]})
            assert answer.status_code == 403
        await keys.flush()
        assert counted(told) == {("insufficient_scope", low.key.id): 1}

    async def test_a_request_that_may_go_without_a_key_is_no_refusal(self, keys, told):
        """Where the key is optional, or another scheme takes it; what is refused there is told."""
        auth = APIKeyAuth(keys)
        app = FastAPI()

        async def user(name: str | None = None) -> str | None:
            return name

        @app.get("/optional")
        async def optional(key: Annotated[APIKey | None, Security(auth.optional)]) -> bool:
            return key is None

        @app.get("/either")
        async def either(caller: Annotated[APIKey | str, Security(auth.either(user))]) -> bool:
            return isinstance(caller, str)

        jwt = {"Authorization": "Bearer a.jwt.of-another-scheme"}
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://test"
        ) as client:
            assert (await client.get("/optional")).json() is True
            assert (await client.get("/either?name=ada")).json() is True
            assert (await client.get("/either?name=ada", headers=jwt)).json() is True
            await keys.flush()
            assert told == []
            assert (await client.get("/either")).status_code == 401
            assert (await client.get("/either", headers=jwt)).status_code == 401
            assert (await client.get("/optional", headers=jwt)).status_code == 401
        await keys.flush()
        assert counted(told) == {("missing_key", None): 1, ("invalid_key", None): 2}

    async def test_what_lasts_is_told_of_when_its_key_ends(self, keys, told):
        """Once more verified, it is refused."""
        auth = APIKeyAuth(keys)
        new = await keys.create(name="ci")
        app = FastAPI()

        @app.get("/", dependencies=[Security(auth)])
        async def route(key: Annotated[APIKey, Security(auth)]) -> None:
            await keys.revoke(key.id)

        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://test"
        ) as client:
            headers = auth.headers_of(new.token)
            assert (await client.get("/", headers=headers)).status_code == 200
            assert (await client.get("/", headers=headers)).status_code == 401
        await keys.flush()
        assert counted(told) == {("revoked_key", new.key.id): 1}

    async def test_a_doubt_is_no_refusal(self, keys, told, monkeypatch):
        """503 says nothing of a key."""
        new = await keys.create(name="ci")

        async def fail(key_id, *, connection=None):
            raise UnavailableError("down")

        monkeypatch.setattr(keys._store, "load", fail)
        with pytest.raises(UnavailableError):
            await keys.verify(new.token)
        await keys.flush()
        assert told == []

    async def test_two_credentials_are_told_of(self, keys, told):
        """By whoever uses the collection without a framework, too."""
        sources = APIKeyAuth(keys).door.gate.sources
        with pytest.raises(AmbiguousCredentialsError):
            await keys.authenticate([(b"x-api-key", b"a")] * 2, sources=sources)
        await keys.flush()
        assert counted(told) == {("ambiguous_credentials", None): 1}


class TestStarting:
    """When events are told."""

    async def test_events_wait_for_the_start(self, secret):
        """What an unstarted collection has done is told when it starts, before anything else."""
        keys = APIKeys(MemoryStore(), prefix="acme_live", secret=secret, **SILENT)
        told = hears(keys)
        early = await keys.create(name="early")
        with pytest.raises(InvalidKeyError):
            await keys.verify("junk")
        await asyncio.sleep(0)
        assert told == []
        assert keys.health().waiting_events == 2
        async with keys:
            await keys.create(name="late")
        assert [each.action for each in told] == ["created", "created", "refused"]
        assert told[0].key == early.key
        assert keys.health().waiting_events == 0

    async def test_a_flush_tells_without_a_start(self, secret):
        """And leaves no task behind."""
        keys = APIKeys(MemoryStore(), prefix="acme_live", secret=secret, **SILENT)
        told = hears(keys)
        await keys.create(name="ci")
        await keys.flush()
        assert [each.action for each in told] == ["created"]
        assert tasks() == []

    def test_event_loops_may_come_and_go(self, secret):
        """Each flush or start has one of its own, and none asks anything of those before."""
        keys = APIKeys(MemoryStore(), prefix="acme_live", secret=secret, **SILENT)
        told = []

        @keys.on_event
        async def tell(happening):
            told.append(happening.action)

        async def once():
            await keys.create(name="ci")
            await keys.flush()

        async def started():
            async with keys:
                await once()

        for run in (once, started, once, started):
            asyncio.run(run())
        assert told == ["created"] * 4

    async def test_a_callback_may_come_after_the_start(self, keys):
        """It hears of what happens from then on."""
        await keys.create(name="early")
        told = hears(keys)
        late = await keys.create(name="late")
        await keys.flush()
        assert [each.key for each in told] == [late.key]

    async def test_the_end_tells_what_waits(self, secret):
        """And leaves no task behind; nothing is told twice when it starts again."""
        keys = APIKeys(MemoryStore(), prefix="acme_live", secret=secret, **SILENT)
        told = []

        @keys.on_event
        async def slow(happening):
            await asyncio.sleep(0.01)
            told.append(happening)

        for _ in range(2):
            async with keys:
                await keys.create_many([KeyRequest(name="ci")] * 5)
            assert tasks() == []
        assert len(told) == 10
        assert keys.health().dropped_events == 0

    def test_an_application_in_another_thread_is_flushed_from_a_test(self, secret):
        """With FastAPI's test client, whose event loop is not the test's."""
        keys = APIKeys(MemoryStore(), prefix="acme_live", secret=secret, **SILENT)
        told = []
        loops = []

        @keys.on_event
        async def tell(happening):
            loops.append(asyncio.get_running_loop())
            told.append(happening)

        app = FastAPI(lifespan=keys.lifespan)

        @app.post("/")
        async def make() -> None:
            loops.append(asyncio.get_running_loop())
            await keys.create(name="ci")

        with TestClient(app) as client:
            client.post("/")
            asyncio.run(keys.flush())
            assert [each.action for each in told] == ["created"]
        assert len(set(loops)) == 1

    def test_the_keys_of_the_pytest_plugin_tell_when_they_are_flushed(
        self, keylatch_keys, keylatch_key, keylatch_client, secret
    ):
        """They need no start, and tests need no event loop."""
        told = hears(keylatch_keys)
        auth = APIKeyAuth(APIKeys(MemoryStore(), prefix="real", secret=secret))
        app = FastAPI()

        @app.get("/", dependencies=[Security(auth, scopes=["a"])])
        async def route() -> None:
            pass

        new = keylatch_key("items:read", owner="u1")
        assert keylatch_client(app, auth, "b").get("/").status_code == 403
        asyncio.run(keylatch_keys.flush())
        assert [each.action for each in told] == ["created", "created", "refused"]
        assert told[0].key == new.key
        assert isinstance(told[2], Happening)
        assert told[2].key_id == told[1].key_id
