"""Callbacks that fail, hang or are flooded stop nothing else: no request, no change, no end."""

import asyncio
import functools
import logging
import signal
import subprocess
import sys
import threading
import traceback
import tracemalloc
from datetime import timedelta

import httpx2
import pytest
from fastapi import FastAPI, Security
from subject import SILENT

from keylatch import APIKeys, KeyRequest, bounds, hooks, listeners
from keylatch.errors import InvalidKeyError, MissingKeyError
from keylatch.fastapi import APIKeyAuth
from keylatch.gathering import Alike, Gathering
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def unstarted(secret, clock):
    """A collection in memory."""
    return APIKeys(MemoryStore(), prefix="acme_live", secret=secret, clock=clock, **SILENT)


@pytest.fixture
async def keys(unstarted):
    """The same, started."""
    async with unstarted as keys:
        yield keys


@pytest.fixture
def hasty(monkeypatch):
    """Patience of a fifth of a second."""
    monkeypatch.setattr(hooks, "PATIENCE", 0.2)
    monkeypatch.setattr(hooks, "PARTING", 0.1)


@pytest.fixture
def hanging():
    """A callback that does not come back before it is let go, and how often it was called."""
    go, calls = threading.Event(), []

    def hang(happening):
        calls.append(happening)
        go.wait()

    yield hang, calls
    go.set()


class PanicError(BaseException):
    """What no ``except Exception`` catches, such as a panic of an extension in Rust."""


async def until(condition):
    """Waits for something that another thread does."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


def has(told, count):
    """Whether so many events were told."""
    return len(told) == count


class TestFailing:
    """Callbacks that raise."""

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("out of order"),
            SystemExit(1),
            asyncio.CancelledError(),
            TimeoutError(),
            PanicError("in native code"),
        ],
    )
    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_a_callback_that_raises_breaks_nothing(self, keys, error, asynchronous):
        """It is told of the next event all the same, and so are the others."""
        told, failures = [], []

        def fail(happening):
            failures.append(happening)
            raise error

        async def fail_later(happening):
            await asyncio.sleep(0)
            fail(happening)

        keys.on_event(fail_later if asynchronous else fail)
        keys.on_event(told.append)
        new = await keys.create(name="ci")
        await keys.revoke(new.key.id)
        await keys.flush()
        assert [each.action for each in failures] == ["created", "revoked"]
        assert told == failures
        assert keys.health().failed_callbacks == 2
        assert keys.health().waiting_events == 0

    async def test_a_failure_is_logged_with_its_own_traceback_once(self, keys, caplog):
        """Not again until it has worked; it names the callback, and has nothing of ours."""
        fails = True

        @keys.on_event
        async def tell_slack(happening):
            if fails:
                raise RuntimeError("out of order")

        async def events(count):
            for _ in range(count):
                await keys.create(name="ci")
            await keys.flush()

        with caplog.at_level(logging.ERROR):
            await events(3)
            assert len(caplog.records) == 1
            fails = False
            await events(1)
            fails = True
            await events(1)
        assert len(caplog.records) == 2
        assert keys.health().failed_callbacks == 4
        (record, _) = caplog.records
        assert "tell_slack" in record.getMessage()
        kind, error, trace = record.exc_info
        assert (kind, str(error)) == (RuntimeError, "out of order")
        assert [frame.name for frame in traceback.extract_tb(trace)] == ["tell_slack"]

    async def test_no_log_of_a_failure_has_a_token(self, keys, caplog):
        """Whatever the callback was told."""

        def show(happening):
            raise RuntimeError(repr(happening))

        keys.on_event(show)
        new = await keys.create(name="ci")
        with pytest.raises(InvalidKeyError):
            await keys.verify(new.token[:-1] + "!")
        await keys.flush()
        assert "refused" in caplog.text or "created" in caplog.text
        assert new.token[-55:-12] not in caplog.text

    async def test_a_thread_that_cannot_be_started_is_a_failure(self, keys, monkeypatch):
        """And none of the change."""
        keys.on_event(print)

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        await keys.create(name="ci")
        await keys.flush()
        assert keys.health().failed_callbacks == 1


class TestHanging:
    """Callbacks that take their time, or for ever."""

    async def test_a_hanging_callback_blocks_nothing(self, keys, hanging, hasty):
        """Neither changes, nor requests, nor another callback, nor a flush for long."""
        hang, calls = hanging
        told = []
        keys.on_event(hang)
        keys.on_event(told.append)
        new = await keys.create(name="ci")
        assert await keys.verify(new.token)
        await keys.update(new.key.id, name="ci 2")
        await keys.flush()
        assert [each.action for each in told] == ["created", "updated"]
        assert [each.action for each in calls] == ["created"]
        assert keys.health().waiting_events == 2

    async def test_the_end_does_not_wait_for_it(self, unstarted, hanging, hasty, caplog):
        """What it was not told is counted, and logged."""
        hang, calls = hanging
        async with unstarted as keys:
            keys.on_event(hang)
            await keys.create_many([KeyRequest(name="ci")] * 3)
            await until(lambda: calls)
        assert keys.health().dropped_events == 3
        assert "3 events were not told" in caplog.text

    async def test_it_is_never_called_twice_at_a_time(self, unstarted, hasty):
        """Not after another start either, while the thread of before is still at it."""
        go, calls = threading.Event(), []

        def hang(happening):
            calls.append(happening.action)
            go.wait()

        unstarted.on_event(hang)
        async with unstarted as keys:
            new = await keys.create(name="ci")
            await until(lambda: calls)
        async with unstarted as keys:
            await keys.revoke(new.key.id)
            await keys.flush()
            assert calls == ["created"]
            go.set()
            await until(lambda: len(calls) == 2)
        assert calls == ["created", "revoked"]

    async def test_an_asynchronous_one_is_cancelled_at_its_deadline(
        self, keys, monkeypatch, caplog
    ):
        """And told of the next event then."""
        monkeypatch.setattr(listeners, "DEADLINE", 0.05)
        told, cancelled = [], []

        @keys.on_event
        async def hang(happening):
            told.append(happening.action)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(happening.action)

        new = await keys.create(name="ci")
        await keys.revoke(new.key.id)
        await keys.flush()
        assert told == cancelled == ["created", "revoked"]
        assert keys.health().failed_callbacks == 2
        assert "did not end within" in caplog.text

    async def test_one_that_refuses_to_be_cancelled_is_left_behind_at_the_end(
        self, unstarted, hasty
    ):
        """It blocks nobody but itself."""
        go, ended = asyncio.Event(), asyncio.Event()

        @unstarted.on_event
        async def refuse(happening):
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()

        async with unstarted as keys:
            await keys.create(name="ci")
        assert keys.health().dropped_events == 1
        go.set()
        await ended.wait()

    def test_a_hanging_thread_does_not_keep_the_process(self, secret):
        """The interpreter ends."""
        script = f"""
import asyncio, threading
from keylatch import APIKeys, hooks
from keylatch.memory import MemoryStore

hooks.PATIENCE = 0.6
keys = APIKeys(MemoryStore(), prefix="acme", secret={secret!r})
keys.on_event(lambda happening: threading.Event().wait())

async def main():
    async with keys:
        await keys.create(name="ci")

asyncio.run(main())
print("over")
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == "over\n"

    async def test_the_end_leaves_no_task_behind(self, unstarted, hasty, monkeypatch):
        """Not even where it cuts off what is looked for at that moment."""
        writing = asyncio.Event()
        await unstarted.create(name="ci", expires_in=timedelta(days=1))

        async def hang(key_id, action, decide):
            decide(await unstarted._store.load(key_id), None)
            writing.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(unstarted._store, "change_knowing", hang)
        unstarted.on_event(print, actions=["expiring"])
        async with unstarted:
            await writing.wait()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not {name for name in names if name.startswith("keylatch")}

    async def test_callbacks_are_told_in_order_where_tasks_begin_eagerly(self, keys):
        """And nothing of a callback runs within a request."""
        if not hasattr(asyncio, "eager_task_factory"):
            pytest.skip("since Python 3.12")
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        told = []

        @keys.on_event(actions=["created", "updated"])
        async def tell(happening):
            told.append(happening.action)
            if happening.action == "created":
                await keys.update(happening.key_id, name="seen")
                told.append("after")

        try:
            await keys.create(name="ci")
            assert told == []
            await keys.flush()
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        assert told == ["created", "after", "updated"]

    async def test_events_are_told_one_at_a_time_and_in_order(self, keys):
        """However long each takes."""
        at_once, told = 0, []

        @keys.on_event
        async def tell(happening):
            nonlocal at_once
            at_once += 1
            assert at_once == 1
            await asyncio.sleep(0.001 * (len(told) % 3))
            told.append(happening.key_id)
            at_once -= 1

        made = [(await keys.create(name="ci")).key.id for _ in range(20)]
        await keys.flush()
        assert told == made
        assert keys.health().failed_callbacks == 0


class TestFloods:
    """More than anybody can be told."""

    async def test_a_full_queue_drops_what_comes_last(self, keys, hanging, monkeypatch, hasty):
        """For that callback only, and counts it."""
        monkeypatch.setattr(listeners, "MOST_WAITING", 10)
        hang, calls = hanging
        told = []
        keys.on_event(hang)
        await keys.create(name="first")
        await until(lambda: calls)
        keys.on_event(told.append)
        for number in range(1, 5):
            await keys.create_many([KeyRequest(name="ci")] * 5)
            await until(functools.partial(has, told, 5 * number))
        await keys.flush()
        assert keys.health().dropped_events == 10
        assert len(told) == 20
        assert keys.health().waiting_events == 11

    async def test_a_flood_of_refusals_pushes_out_no_other_event(self, keys, hanging, hasty):
        """It takes the place of one event, however long it goes on."""
        hang, calls = hanging
        keys.on_event(hang)
        new = await keys.create(name="ci")
        await until(lambda: calls)
        for _ in range(3):
            for _ in range(1000):
                with pytest.raises(MissingKeyError):
                    await keys.verify("")
                with pytest.raises(InvalidKeyError):
                    await keys.verify("junk")
            await keys.flush()
        await keys.revoke(new.key.id)
        assert keys.health().waiting_events == 1 + 1 + 2
        assert keys.health().dropped_events == 0

    async def test_what_happens_to_keys_is_told_before_refusals(self, keys, hasty):
        """Also what comes after them."""
        go, told = asyncio.Event(), []

        @keys.on_event
        async def tell(happening):
            told.append(happening.action)
            await go.wait()

        new = await keys.create(name="ci")
        await until(lambda: told)
        with pytest.raises(MissingKeyError):
            await keys.verify("")
        await keys.flush()
        await keys.revoke(new.key.id)
        go.set()
        await keys.flush()
        assert told == ["created", "revoked", "refused"]

    def test_refusals_take_the_same_memory_however_many_keys_they_are_of(self, clock):
        """Past a thousand keys the rest is counted without a key, and none is lost."""
        gathering = Gathering()
        keys = [_key(f"{number:016}", clock) for number in range(3000)]
        for _ in range(2):
            for key in keys:
                if not gathering.count("revoked_key", key):
                    gathering.add(Alike("revoked_key", key, clock(), 1))
        found = [each.happening() for each in gathering.take_all()]
        assert len(found) <= 1001
        assert sum(each.details["count"] for each in found) == 6000
        assert {each.key_id for each in found} - {key.id for key in keys} == {None}

    async def test_what_waits_takes_little_more_than_its_text(self, unstarted):
        """However its metadata is nested: whoever may write that could fill the memory with it."""
        unstarted.on_event(lambda _: None)
        nested = [[] for _ in range(2000)]  # most of 8 KiB
        made = await unstarted.create(name="ci", metadata={"a": nested})
        key = await unstarted.update(made.key.id, metadata={"b": nested})
        event = (await unstarted.events(key.id))[-1]
        tracemalloc.start()
        for _ in range(100):
            unstarted._hooks.tell([(event, key)], None)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert unstarted.health().waiting_events == 102
        assert taken < 100 * 4 * bounds.MAX_METADATA_BYTES

    async def test_a_callback_of_another_action_hears_nothing_of_a_flood(self, keys):
        """And nobody counts refusals if nobody hears of them."""
        keys.on_event(print, actions=["revoked"])
        for _ in range(10):
            with pytest.raises(MissingKeyError):
                await keys.verify("")
        assert keys.health().waiting_events == 0


class TestCallingBack:
    """Callbacks that use the collection themselves."""

    async def test_a_callback_may_change_keys_and_flush(self, keys):
        """What that leads to is told as well; it does not wait for itself."""
        told = []

        @keys.on_event(actions=["created", "updated", "revoked"])
        async def tell(happening):
            told.append(happening.action)
            if happening.action == "created":
                await keys.update(happening.key_id, name="seen")
                await keys.revoke(happening.key_id)
                await keys.flush()

        await keys.create(name="ci")
        await keys.flush()
        assert told == ["created", "updated", "revoked"]

    async def test_a_callback_without_end_is_cut_off(self, unstarted, hasty):
        """One that makes a key for each key that is made."""

        @unstarted.on_event(actions=["created"])
        async def breed(happening):
            await unstarted.create(name="another")
            await asyncio.sleep(0)

        async with unstarted as keys:
            await keys.create(name="ci")
        assert keys.health().waiting_events == 0

    async def test_a_callback_may_register_another(self, keys):
        """Which hears of what comes next."""
        told = []

        @keys.on_event(actions=["created"])
        async def first(happening):
            keys.on_event(told.append, actions=["revoked"])

        new = await keys.create(name="ci")
        await keys.flush()
        await keys.revoke(new.key.id)
        await keys.flush()
        assert [each.action for each in told] == ["revoked"]


class TestRequests:
    """What a request may be through with before its events are."""

    async def test_a_request_is_answered_before_its_event_is_told(self, keys):
        """And a callback that hangs does not hold it up."""
        go, told = asyncio.Event(), []

        @keys.on_event
        async def tell(happening):
            await go.wait()
            told.append(happening.action)

        auth = APIKeyAuth(keys)
        app = FastAPI()

        @app.post("/", dependencies=[Security(auth)])
        async def route() -> str:
            return (await keys.create(name="made")).key.id

        new = await keys.create(name="ci")
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://test"
        ) as client:
            for headers, status in ((auth.headers_of(new.token), 200), ({}, 401)):
                assert (await client.post("/", headers=headers)).status_code == status
        assert told == []
        go.set()
        await keys.flush()
        assert told == ["created", "created", "refused"]

    async def test_the_change_of_a_cancelled_request_is_told(self, keys):
        """Once it was made, whatever becomes of whoever asked for it."""
        told = []
        keys.on_event(told.append)

        async def request():
            await keys.create(name="ci")
            await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await until(lambda: told)
        task.cancel()
        await asyncio.wait([task])
        await keys.flush()
        assert [each.action for each in told] == ["created"]


SERVED = """
import asyncio, pathlib, threading
from fastapi import FastAPI, Security
from keylatch import APIKeys
from keylatch.fastapi import APIKeyAuth

keys = APIKeys("sqlite+aiosqlite:///keys.db", prefix="acme")
auth = APIKeyAuth(keys)
app = FastAPI(lifespan=keys.lifespan)


@keys.on_event(actions=["created"])
def write(happening):
    with open("told", "a") as file:
        file.write(happening.key_id + "\\n")


@keys.on_event
def hang(happening):
    threading.Event().wait()


@keys.on_event(actions=["refused"])
async def refused(happening):
    with open("refused", "a") as file:
        file.write(f"{happening.details['code']} {happening.details['count']}\\n")


@app.post("/")
async def make() -> str:
    return (await keys.create(name="ci")).key.id


@app.get("/", dependencies=[Security(auth)])
async def get() -> None:
    pass
"""


async def test_a_server_tells_all_and_ends_in_time(tmp_path, free_port, secret, monkeypatch):
    """Real uvicorn, stopped while a callback hangs: what the others wait for is told before."""
    (tmp_path / "served.py").write_text(SERVED)
    monkeypatch.setenv("KEYLATCH_SECRET", secret)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "served:app", "--port", str(free_port),
        cwd=tmp_path, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        output = b""
        while b"Uvicorn running" not in output:
            line = await process.stderr.readline()
            assert line, output
            output += line
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{free_port}") as client:
            made = [(await client.post("/")).json() for _ in range(5)]
            for _ in range(20):
                assert (await client.get("/")).status_code == 401
        process.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert (tmp_path / "told").read_text().split() == made
    counts = [line.split() for line in (tmp_path / "refused").read_text().splitlines()]
    assert {code for code, _ in counts} == {"missing_key"}
    assert sum(int(count) for _, count in counts) == 20
    assert b"events were not told" in rest
    assert b"Traceback" not in rest


def _key(key_id, clock):
    from keylatch import APIKey

    return APIKey(
        id=key_id, prefix="acme", name="ci", owner=None, scopes=frozenset(), metadata={},
        created_at=clock(),
    )  # fmt: skip
