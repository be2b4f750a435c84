"""The hostile headers: one answer each, whatever protects, over HTTP and for WebSockets."""

import json
import logging
from pathlib import Path

import pytest
from canaries import Canaries
from connections import CAN_ANSWER, HANDSHAKE, exchange, serving, talk
from fastapi import FastAPI, Security, WebSocket

from keylatch import APIKeys
from keylatch.asgi import APIKeyMiddleware
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio

HOSTILE = json.loads((Path(__file__).parent / "hostile" / "headers.json").read_text())["cases"]
# Status, WWW-Authenticate and detail of each code.
ANSWERS = {
    "missing_key": (401, 'Bearer realm="api"', "API key missing: send one with the request"),
    "invalid_key": (
        401,
        'Bearer realm="api", error="invalid_token"',
        "API key invalid: check that it was copied whole",
    ),
    "ambiguous_credentials": (
        400,
        'Bearer realm="api", error="invalid_request"',
        "More than one API key: send exactly one, once",
    ),
}
# What arrives is another request than what was sent: its second line is a header of its own.
SPLIT = "carriage return and line feed"
# What no server passes on. Each says so in its own words, before anybody is asked for a key.
REFUSED_BY_SERVERS = {"NUL inside"}
SAYS = {"h11": b"", "httptools": b"Invalid HTTP request received."}
# What the websockets library refuses with 431, which uvicorn forgets to send.
LARGE = {
    "8 KiB of letters",
    "64 KiB of letters in the api key header",
    "a thousand other headers first",
}


@pytest.fixture
def store() -> MemoryStore:
    """What a header is answered is the same with every store."""
    return MemoryStore()


@pytest.fixture
async def canaries(keys: APIKeys, secret: str) -> Canaries:
    """Watches for what the cases call a valid token, and for another one."""
    canaries = Canaries(secret)
    for name in ("token", "other"):
        canaries.add((await keys.create(name=name)).token)
    return canaries


@pytest.fixture(params=["dependency", "middleware", "dependency, middleware"])
def app(request, keys: APIKeys) -> FastAPI:
    """A route and a WebSocket that are protected in either way, or both."""
    needs = [Security(APIKeyAuth(keys))] if "dependency" in request.param else []
    app = FastAPI(openapi_url=None, dependencies=needs)

    @app.get("/")
    async def route() -> str:
        return "reached"

    @app.websocket("/")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1000)

    if "middleware" in request.param:
        app.add_middleware(APIKeyMiddleware, keys=keys)
    return app


def sent(case, canaries: Canaries) -> tuple[list[tuple[bytes, bytes]], str]:
    """The headers and the query of a case."""

    def fill(text: str) -> str:
        return text.replace("{token}", canaries.token(0)).replace("{other}", canaries.token(1))

    headers = [
        (name.encode("latin-1"), fill(value).encode("latin-1")) for name, value in case["headers"]
    ]
    return headers, fill(case["query"])


def answer_of(case) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of a refusal."""
    status, challenge, detail = ANSWERS[case["code"]]
    assert status == case["status"]
    body = json.dumps({"detail": detail}, separators=(",", ":")).encode()
    length = str(len(body)).encode()
    headers = [
        (b"www-authenticate", challenge.encode()),
        (b"content-length", length),
        (b"content-type", b"application/json"),
    ]
    return status, headers, body


@pytest.mark.parametrize("case", HOSTILE, ids=[case["name"] for case in HOSTILE])
async def test_each_case_has_its_one_answer(app, canaries, ask, caplog, case):
    """Raw headers that servers and clients would tidy away are answered alike, to the byte."""
    caplog.set_level(logging.DEBUG)
    headers, query = sent(case, canaries)
    answer = await ask(app, headers, query=query)
    socket = {"query_string": query.encode()}
    answered = await talk(app, headers, **socket, **CAN_ANSWER)
    closed = await talk(app, headers, **socket)
    if case["code"] is None:
        assert (answer.status, answer.body) == (case["status"], b'"reached"')
        for messages in (answered, closed):
            assert [message["type"] for message in messages] == [
                "websocket.accept",
                "websocket.close",
            ]
    else:
        status, headers, body = answer_of(case)
        assert (answer.status, sorted(answer.headers), answer.body) == (
            status,
            sorted(headers),
            body,
        )
        start, end = answered
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
        assert sorted(start["headers"]) == sorted(headers)
        assert (end["type"], end["body"]) == ("websocket.http.response.body", body)
        assert [(each["type"], each["code"]) for each in closed] == [("websocket.close", 1008)]
        canaries.assert_absent("an answer", f"{answer} {answered} {closed}")
    canaries.assert_absent("the logs", caplog.text)


@pytest.mark.parametrize(
    "server",
    [
        {"http": "h11", "ws": "websockets-sansio"},
        {"http": "httptools", "ws": "wsproto"},
    ],
    ids=lambda server: f"{server['http']}, {server['ws']}",
)
async def test_each_case_has_it_through_a_real_server(app, canaries, caplog, server):
    """So it is with the bytes on a socket, to the byte, but for the one that servers refuse."""
    caplog.set_level(logging.INFO)
    async with serving(app, access_log=False, **server) as port:
        for case in HOSTILE:
            headers, query = sent(case, canaries)
            lost = case["name"] in LARGE and server["ws"] == "websockets-sansio"
            for handshake in [[]] if lost else [[], HANDSHAKE]:
                passed = (101, b"") if handshake else (200, b'"reached"')
                where = f"{case['name']} {len(handshake)}"
                got, head, body = await exchange(
                    port, handshake + headers, target=f"/?{query}" if query else "/"
                )
                if case["name"] in REFUSED_BY_SERVERS:
                    assert (got, body) == (400, SAYS[server["http"]]), where
                    assert b"www-authenticate" not in head, where
                elif case["code"] is None or case["name"] == SPLIT:
                    assert (got, body) == passed, where
                else:
                    status, expected, expected_body = answer_of(case)
                    assert (got, body) == (status, expected_body), where
                    challenge = dict(expected)[b"www-authenticate"].lower()
                    assert b"\r\nwww-authenticate: " + challenge + b"\r\n" in head, where
                canaries.assert_absent(f"the answer to {where}", head + body)
    # A path with its query is logged by servers, which is why no token belongs there.
    logged = [record.getMessage() for record in caplog.records]
    logged = [line for line in logged if "api_key=" not in line]
    canaries.assert_absent("the logs", "\n".join(logged))
    assert not [record for record in caplog.records if record.exc_info]
