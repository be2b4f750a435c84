"""A database that is not there, or lets nobody in: every call says so in time, and works again."""

import asyncio
import socketserver
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from databases import kill_connections
from logins import login
from proxy import Proxy
from subject import CALLS, DEADLINE, SERVERS, holding, nothing_written

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine_name", SERVERS)]


def changed(url, **parts) -> str:
    """A URL with other parts."""
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


async def test_a_refused_connection(url, subject):
    """A server that is stopped: each call fails at once, and the first one after it works."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            with nothing_written(keys):
                proxy.refuse()
                proxy.cut()
                await keys.fails(*CALLS)
                await keys.lets_go()
            proxy.forward()
            await keys.works()


@pytest.mark.parametrize("restart", ["proxy", "server"])
async def test_a_restart_between_calls_goes_unseen(url, subject, restart):
    """Every pooled connection is dead, and the very first call works all the same."""
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url) as keys:
            for name in ("verify", "create"):
                assert (proxy.cut() if restart == "proxy" else kill_connections(url)) >= 1
                await keys.works(name)
            proxy.cut()
            await keys.works()
            await keys.lets_go()


async def test_a_restart_in_the_middle_of_a_transaction(url, subject):
    """A change whose connection is cut before its commit is made again, once."""
    names = ("update", "rotate", "revoke")
    with Proxy(url) as proxy:
        async with subject(proxy.url(url), url, deadline=5.0) as keys:
            with holding(url, "rows"):
                waiting = asyncio.gather(*(keys.call(name) for name in names))
                await asyncio.sleep(DEADLINE / 2)
                assert proxy.cut() >= len(names)
                await asyncio.sleep(DEADLINE / 2)
                assert not waiting.done()
            await waiting
            for name in names:
                assert len(await keys.keys.events(keys.made[name].key.id)) == 2
            await keys.lets_go()


async def test_a_server_that_is_down_at_the_start(url, subject):
    """The application does not start, and starts once the server is there."""
    with Proxy(url) as proxy:
        keys = subject(proxy.url(url), url)
        proxy.refuse()
        await keys.does_not_start("check")
        proxy.forward()
        proxy.swallow()
        await keys.does_not_start("did not answer")
        proxy.forward()
        async with keys:
            await keys.works()


async def test_a_name_that_is_no_server(url, subject):
    """Nobody knows the address of the host."""
    async with subject(url) as keys:
        async with keys.elsewhere(changed(url, host="keylatch.invalid", password="0123456789" * 4)):
            await keys.fails(*CALLS)
        await keys.works()


async def test_a_database_that_does_not_exist(url, subject):
    """The server is there, the database is not."""
    async with subject(url) as keys:
        async with keys.elsewhere(changed(url, database="keylatch_test_none")):
            await keys.fails("get", match="keylatch_test_none")
            await keys.fails(*CALLS)
        await keys.works()


async def test_a_login_that_is_refused(url, subject):
    """The server lets nobody in by this name any more, and lets them in again."""
    with login(url) as somebody:
        async with subject(somebody.url, url) as keys:
            with nothing_written(keys):
                somebody.lock()
                kill_connections(url)
                await keys.fails(*CALLS)
                await keys.lets_go()
            somebody.unlock()
            await keys.works()


async def test_a_wrong_password(url, subject):
    """The password does not show, neither the wrong one nor the right one."""
    with login(url) as somebody:
        async with subject(somebody.url, url) as keys:
            if somebody.needs_password():
                async with keys.elsewhere(changed(somebody.url, password="9876543210" * 4)):
                    await keys.fails("get", match=r"denied|password")
                    await keys.fails(*CALLS)
            else:  # a server that trusts everybody on this machine
                async with keys.elsewhere(changed(somebody.url, username="keylatch_test_none")):
                    await keys.fails("get", match="keylatch_test_none")
                    await keys.fails(*CALLS)
            await keys.works()


class _Stranger(socketserver.BaseRequestHandler):
    """Says what it says to everybody, and hangs up."""

    words = b""

    def handle(self) -> None:
        self.request.sendall(self.words)


@contextmanager
def stranger(words: bytes):
    """Something else answers at a port that is lent."""
    handler = type("Handler", (_Stranger,), {"words": words})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize("words", [b"", b"220 mail ESMTP\r\n"], ids=["nothing", "greeting"])
async def test_a_port_where_something_else_answers(url, subject, words):
    """Whatever it says, it is no database."""
    async with subject(url) as keys:
        with stranger(words) as port:
            async with keys.elsewhere(changed(url, host="127.0.0.1", port=port)):
                await keys.fails(*CALLS)
        await keys.works()
