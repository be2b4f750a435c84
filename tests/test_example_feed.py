"""The feed, run as its README says: WebSockets and server-sent events through a real server."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import httpx2
import pytest
from examples import bearer, loaded, serving
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from keylatch import APIKeys, NewKey, SecretRing

SOON = 15  # seconds


@pytest.fixture(scope="module")
def variables(tmp_path_factory) -> dict[str, str]:
    """What the app is told by its environment."""
    folder = tmp_path_factory.mktemp("feed")
    database = f"sqlite+aiosqlite:///{folder / 'feed.db'}"
    return {"KEYLATCH_DATABASE": database, "KEYLATCH_SECRET": SecretRing.generate()}


@pytest.fixture(scope="module")
def client(variables, tmp_path_factory) -> Iterator[httpx2.Client]:
    """A client of the running app."""
    with (
        serving("feed", tmp_path_factory.mktemp("served"), variables) as address,
        httpx2.Client(base_url=address, timeout=SOON) as client,
    ):
        client.get("/openapi.json")
        yield client


@pytest.fixture(scope="module")
def library(variables, client) -> Callable[..., object]:
    """Does something with the app's keys from another process, as an operator would."""

    def library(work: Callable):
        async def done():
            url, secret = variables["KEYLATCH_DATABASE"], variables["KEYLATCH_SECRET"]
            async with APIKeys(url, prefix="feed", secret=secret) as keys:
                return await work(keys)

        return asyncio.run(done())

    return library


@pytest.fixture(scope="module")
def key(library) -> Callable[..., NewKey]:
    """Makes a key with scopes."""

    def key(*scopes: str, **options) -> NewKey:
        return library(lambda keys: keys.create(name="test", scopes=scopes, **options))

    return key


@pytest.fixture(scope="module")
def publish(client, key) -> Callable[[str, str], None]:
    """Tells something to everybody who listens to a channel."""
    headers = bearer(key("write:trades", "write:quotes").token)

    def publish(channel: str, text: str) -> None:
        answer = client.post(f"/channels/{channel}", headers=headers, json={"text": text})
        assert answer.status_code == 204

    return publish


def socket(client, channel: str, new: NewKey) -> ClientConnection:
    """Opens a WebSocket with a key in the header."""
    url = f"{client.base_url}/channels/{channel}".replace("http", "ws").replace("//ch", "/ch")
    return connect(url, additional_headers=bearer(new.token))


def end_of(socket: ClientConnection) -> tuple[int, str]:
    """How the server closes it, before long."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=SOON)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_what_is_told_reaches_who_may_hear_it(client, key, publish):
    """Each channel is heard by keys with its scope, over WebSockets and events alike."""
    new = key("read:trades")
    with (
        socket(client, "trades", new) as trades,
        socket(client, "quotes", key("read:quotes")) as quotes,
        client.stream("GET", "/events/trades", headers=bearer(new.token)) as events,
    ):
        publish("quotes", "9.95")
        publish("trades", "100 at 9.95")
        assert json.loads(trades.recv(timeout=SOON)) == {"text": "100 at 9.95"}
        assert json.loads(quotes.recv(timeout=SOON)) == {"text": "9.95"}
        line = next(line for line in events.iter_lines() if line.startswith("data:"))
        assert json.loads(line.removeprefix("data:")) == {"text": "100 at 9.95"}


@pytest.mark.parametrize(
    ("scopes", "channel", "status"),
    [
        (["read:quotes", "write:trades"], "trades", 403),
        ([], "trades", 403),
        (["read:trades"], "nothing", 422),
    ],
    ids=["another channel", "no scope", "no such channel"],
)
def test_others_are_refused_before_anything_opens(client, key, scopes, channel, status):
    """A key without the channel's scope is answered with 403, in place of a WebSocket too."""
    new = key(*scopes)
    assert client.get(f"/events/{channel}", headers=bearer(new.token)).status_code == status
    body = {"text": "mine"}
    written = client.post(f"/channels/{channel}", headers=bearer(new.token), json=body)
    assert written.status_code == (204 if f"write:{channel}" in scopes else status)
    with pytest.raises(InvalidStatus) as refused:
        socket(client, channel, new)
    assert refused.value.response.status_code == 403


def test_without_a_key_nothing_opens(client, wrong_secret, key):
    """No key and a wrong one are 401, whatever the channel."""
    new = key("read:trades")
    wrong = NewKey(new.key, wrong_secret(new.token))
    assert client.get("/events/trades").status_code == 401
    assert client.get("/events/nothing").status_code in (401, 422)
    with pytest.raises(InvalidStatus) as refused:
        socket(client, "trades", wrong)
    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "ended",
    [
        (lambda keys, id_: keys.revoke(id_), "API key revoked: use a new one"),
        (
            lambda keys, id_: keys.update(id_, scopes=["read:quotes"]),
            "API key lacks a scope: use a key with read:trades",
        ),
    ],
    ids=["revoked", "narrowed"],
)
def test_a_key_that_ends_closes_what_it_opened(client, key, library, publish, ended):
    """By another process, and with nothing to tell; who listens with another key goes on."""
    (end, reason), ending, lasting = ended, key("read:trades"), key("read:trades")
    with (
        socket(client, "trades", ending) as closes,
        socket(client, "trades", lasting) as goes_on,
        client.stream("GET", "/events/trades", headers=bearer(ending.token)) as events,
    ):
        library(lambda keys: end(keys, ending.key.id))
        assert end_of(closes) == (1008, reason)
        assert [line for line in events.iter_lines() if line and line[0] != ":"] == [
            "event: refused",
            f'data: "{reason}"',
        ]
        publish("trades", "still here")
        assert json.loads(goes_on.recv(timeout=SOON)) == {"text": "still here"}


def test_a_key_that_expires_closes_what_it_opened(client, key):
    """The end that was set for a key is the end of its connections."""
    with socket(client, "trades", key("read:trades", expires_in=timedelta(seconds=2))) as closes:
        assert end_of(closes) == (1008, "API key expired: use a new one")


@pytest.fixture
def inside(variables, monkeypatch) -> Iterator[TestClient]:
    """The app in this process, to look inside, with a key that may do everything."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module = loaded("feed")
    with TestClient(module.app) as client:
        client.module, client.keys = module, module.keys
        yield client


def made_inside(client: TestClient, *scopes: str) -> NewKey:
    """A key of that app's."""
    return client.portal.call(partial(client.keys.create, name="test", scopes=scopes))


def test_a_revoked_key_hears_not_one_message_more(inside):
    """Once revoke has returned, what is told next closes the socket instead of reaching it."""
    reader, writer = made_inside(inside, "read:trades"), made_inside(inside, "write:trades")
    with inside.websocket_connect("/channels/trades", headers=bearer(reader.token)) as socket:
        inside.portal.call(inside.keys.revoke, reader.key.id)
        body = {"text": "too late"}
        inside.post("/channels/trades", headers=bearer(writer.token), json=body)
        assert socket.receive()["code"] == 1008


def test_who_hangs_up_is_not_listened_for(inside):
    """A client that goes away, with something said or not, leaves nothing behind."""
    headers = bearer(made_inside(inside, "read:trades", "write:trades").token)
    with inside.websocket_connect("/channels/trades", headers=headers) as socket:
        socket.send_bytes(b"hello")
        socket.send_text("hello")
        inside.post("/channels/trades", headers=headers, json={"text": "hello"})
        assert socket.receive_json() == {"text": "hello"}
        assert len(inside.module.listeners["trades"]) == 1
    assert inside.module.listeners["trades"] == set()


def test_who_falls_behind_misses_the_oldest(inside):
    """A listener that takes nothing costs no more memory than a hundred messages."""
    headers = bearer(made_inside(inside, "write:trades").token)
    with inside.module.listening("trades") as queue:
        for number in range(150):
            body = {"text": str(number)}
            inside.post("/channels/trades", headers=headers, json=body)
        assert (queue.qsize(), json.loads(queue.get_nowait())) == (100, {"text": "50"})
