"""A cached key while its database fails: it works until it could be out of date, and not after."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from databases import kill_connections
from fastapi import FastAPI, Security
from proxy import Proxy
from subject import DEADLINE, SERVERS, SLACK, as_elsewhere, holding

from keylatch import APIKey, APIKeys
from keylatch.errors import UnavailableError
from keylatch.fastapi import APIKeyAuth
from keylatch.records import NewKey
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine_name", SERVERS)]

STALENESS = 0.6  # seconds for which a cached key counts after changes were last heard of
INTERVAL = 0.1
PATIENCE = 10.0  # seconds in which whatever recovers has recovered


def refuses(proxy: Proxy) -> None:
    """The server is gone."""
    proxy.refuse()
    proxy.cut()


def swallows(proxy: Proxy) -> None:
    """The server neither answers nor closes."""
    proxy.swallow()


def slows(proxy: Proxy) -> None:
    """Every answer comes after the deadline."""
    proxy.slow(DEADLINE * 2)


FAULTS = (refuses, swallows, slows)


@dataclass(frozen=True)
class Reply:
    """What a request was answered, and between which ticks."""

    asked: int
    answered: int
    status: int


class Worker:
    """A started application whose database is behind a proxy, and keys that it has cached."""

    def __init__(self, keys: APIKeys, direct: APIKeys, ask: Callable[..., Any]) -> None:
        self.keys = keys
        self.direct = direct
        self._ask = ask
        self._app = FastAPI()

        @self._app.get("/")
        async def protected(key: Annotated[APIKey, Security(APIKeyAuth(keys))]) -> str:
            return key.id

    async def create(self) -> NewKey:
        """A key that is cached now, and of whose making the worker has heard."""
        new = await self.direct.create(name="ci")
        made = self.ticks
        async with asyncio.timeout(PATIENCE):
            while (self.keys._feed.heard_at or 0) < made:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(INTERVAL / 10)
            while not await self.is_cached(new):
                pass
        return new

    async def is_cached(self, new: NewKey) -> bool:
        """Whether the key is let in without the database."""
        hits = self.keys.health().hits
        return (await self.ask(new)).status == 200 and self.keys.health().hits > hits

    @property
    def fresh_until(self) -> int:
        """Until when cached keys count, in ticks."""
        return self.keys._engine.counts()["fresh_until"]

    @property
    def ticks(self) -> int:
        """The time."""
        return self.keys._engine.ticks()

    async def ask(self, new: NewKey) -> Reply:
        """What a request with the key is answered: never 401 or 500 for a fault."""
        asked = self.ticks
        answer = await self._ask(self._app, [(b"x-api-key", new.token.encode())])
        if answer.status == 503:
            assert int(answer.header("retry-after")) >= 1
            assert json.loads(answer.body) == {"detail": UnavailableError.public_text}
        elif answer.status == 401:
            assert "revoked" in answer.header("www-authenticate")
        else:
            assert answer.status == 200
        return Reply(asked, self.ticks, answer.status)

    async def until(self, status: int, *, of: NewKey) -> None:
        """Asks for a key until it is answered so."""
        async with asyncio.timeout(PATIENCE):
            while (await self.ask(of)).status != status:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


@asynccontextmanager
async def worker(
    database: str, direct: str, secret: str, ask: Callable[..., Any]
) -> AsyncIterator[Worker]:
    """A worker on a database that is about to fail, and a way past the fault."""
    times = {"max_staleness": STALENESS, "poll_interval": INTERVAL, "usage_interval": 3600}
    store = SQLAlchemyStore(database, deadline=DEADLINE)
    past = SQLAlchemyStore(direct, deadline=DEADLINE + SLACK)
    store._database._deadline += SLACK  # to start may take longer on a machine that is busy
    async with APIKeys(store, prefix="acme_live", secret=secret, **times) as keys:
        store._database._deadline = DEADLINE
        yield Worker(as_elsewhere(keys), APIKeys(past, prefix="acme_live", secret=secret), ask)
    await past.close()


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
async def test_cached_keys_work_until_they_could_be_out_of_date(url, secret, ask, fault):
    """To the tick: before it no fault is seen, after it there is no telling, and then it works.

    So it is with a key that was revoked meanwhile, but that it never works again.
    """
    with Proxy(url) as proxy:
        async with worker(proxy.url(url), url, secret, ask) as subject:
            key, revoked = await subject.create(), await subject.create()
            fault(proxy)
            failed = subject.ticks
            await subject.direct.revoke(revoked.key.id)
            replies: list[Reply] = []
            while not replies or replies[-1].asked < failed + STALENESS * 1_000_000:
                replies += [await subject.ask(key), await subject.ask(revoked)]
                await asyncio.sleep(0.005)
            end = subject.fresh_until
            assert end <= failed + STALENESS * 1_000_000
            assert {reply.status for reply in replies if reply.answered < end} <= {200}
            assert {reply.status for reply in replies if reply.asked >= end} == {503}

            proxy.forward()
            watching = asyncio.create_task(statuses_of(subject, revoked))
            await subject.until(200, of=key)
            await subject.until(401, of=revoked)
            while not await subject.is_cached(key):
                pass
            assert await watching <= {401, 503}


async def statuses_of(subject: Worker, new: NewKey) -> set[int]:
    """What a key is answered, until it is cached and has been for a few polls."""
    statuses = set()
    until = None
    while until is None or time.monotonic() < until:
        statuses.add((await subject.ask(new)).status)
        if until is None and subject.keys.health().fresh:
            until = time.monotonic() + INTERVAL * 3
        await asyncio.sleep(0.005)
    return statuses


@pytest.mark.parametrize("blip", ["cut", "server", "swallow"])
async def test_a_short_fault_hides_no_change(url, secret, ask, blip):
    """What was revoked while the connection was lost is noticed when it is made again."""
    with Proxy(url) as proxy:
        async with worker(proxy.url(url), url, secret, ask) as subject:
            new, other = await subject.create(), await subject.create()
            match blip:
                case "cut":
                    proxy.cut()
                case "server":
                    kill_connections(url)
                case "swallow":
                    proxy.swallow()
                    await asyncio.sleep(INTERVAL * 2)
            await subject.direct.revoke(new.key.id)
            proxy.forward()
            revoked = time.monotonic()
            await subject.until(401, of=new)
            assert time.monotonic() - revoked < STALENESS + SLACK
            await subject.until(200, of=other)
            for _ in range(20):
                assert (await subject.ask(new)).status == 401
                await asyncio.sleep(INTERVAL / 10)


class _Hanging:
    """A store that never answers what is new, and everything else."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def changes(self, **_: Any) -> None:
        await asyncio.Event().wait()


async def test_a_feed_that_hangs_counts_as_silent(url, secret, ask):
    """Though the database answers: what is cached ends, and each request reads what is true."""
    async with worker(url, url, secret, ask) as subject:
        new, other = await subject.create(), await subject.create()
        subject.keys._feed._store = _Hanging(subject.keys._feed._store)
        await asyncio.sleep(INTERVAL * 3)  # the last poll has ended
        assert subject.keys.health().fresh
        await subject.direct.revoke(new.key.id)
        end = subject.fresh_until
        replies = []
        while subject.ticks < end + 200_000:
            replies.append(await subject.ask(new))
            await asyncio.sleep(0.005)
        assert subject.fresh_until == end
        assert {reply.status for reply in replies if reply.answered < end} <= {200}
        assert {reply.status for reply in replies if reply.asked >= end} == {401}
        assert not subject.keys.health().fresh
        assert not await subject.is_cached(other)
        await subject.until(200, of=other)


async def test_a_feed_that_waits_for_a_lock_counts_as_silent(url, secret, ask):
    """Somebody holds the tables: there is no telling once what is cached could be out of date."""
    async with worker(url, url, secret, ask) as subject:
        new = await subject.create()
        with holding(url, "tables"):
            end = subject.fresh_until
            await subject.until(503, of=new)
            assert subject.ticks >= end
        await subject.until(200, of=new)


async def test_a_fault_is_no_verdict_on_others(url, secret, ask, wrong_secret):
    """A key that is not cached is 503 at once; whoever is refused without a database still is."""
    with Proxy(url) as proxy:
        async with worker(proxy.url(url), url, secret, ask) as subject:
            cached, cold = await subject.create(), await subject.direct.create(name="cold")
            revoked = await subject.create()
            await subject.direct.revoke(revoked.key.id)
            await subject.until(401, of=revoked)
            refuses(proxy)
            for new, status in ((revoked, 401), (cached, 200)):
                reply = await subject.ask(new)
                assert reply.status == status or reply.answered >= subject.fresh_until
            assert (await subject.ask(cold)).status == 503
            await subject.until(503, of=cached)
            assert (await subject.ask(revoked)).status == 503
            assert (await subject.ask(cold)).status == 503
            with pytest.raises(UnavailableError):
                await subject.keys.verify(wrong_secret(cached.token))
            proxy.forward()
            await subject.until(200, of=cold)
            await subject.until(401, of=revoked)


async def test_a_worker_whose_feed_was_never_heard_caches_nothing(url, secret, ask):
    """It answers out of the database, with what is true there."""
    async with worker(url, url, secret, ask) as subject:
        subject.keys._feed._store = _Hanging(subject.keys._feed._store)
        await asyncio.sleep(INTERVAL * 3)  # the last poll has ended
        subject.keys._engine.distrust()
        new = await subject.direct.create(name="ci")
        hits = subject.keys.health().hits
        for _ in range(3):
            await subject.until(200, of=new)
        assert subject.keys.health().hits == hits
        await subject.direct.revoke(new.key.id)
        await subject.until(401, of=new)
