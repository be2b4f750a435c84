"""What routes answer to imported tokens, and to whatever else may be one."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import FastAPI, Security
from imports import K1, K2, OLD, collection
from routes import Client, application, said

from keylatch import APIKey, mint, parse
from keylatch.asgi import APIKeyMiddleware
from keylatch.fastapi import APIKeyAuth, keys_router

pytestmark = pytest.mark.anyio

HOSTILE = json.loads((Path(__file__).parent / "hostile" / "headers.json").read_text())["cases"]
INVALID = b'{"detail":"API key invalid: check that it was copied whole"}'


@pytest.fixture
async def keys():
    """A started collection in memory whose ring has two secrets."""
    async with collection(secret=f"{K2},{K1}", unsealed_lookups=1000) as keys:
        yield keys


def protected(keys):
    """An application whose route asks for a key, and the same behind the middleware."""
    app, auth = FastAPI(), APIKeyAuth(keys)

    @app.get("/")
    async def route(key: Annotated[APIKey, Security(auth)]) -> str:
        return key.id

    behind = FastAPI()

    @behind.get("/")
    async def open_route() -> str:
        return "open"

    return app, APIKeyMiddleware(behind, keys=keys)


def bearer(token):
    """The header that carries a token."""
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.mark.parametrize("kind", ["native", "imported"])
@pytest.mark.parametrize("case", HOSTILE, ids=[case["name"] for case in HOSTILE])
async def test_hostile_headers_get_the_same_answers(keys, ask, case, kind):
    """Whichever tokens the list is filled with: none is a 500, and none opens more than it did."""
    if kind == "imported":
        token, other = OLD, f"{OLD}2"
        for each in (token, other):
            await keys.import_token(each, name="ci")
    else:
        token, other = [(await keys.create(name="ci")).token for _ in range(2)]

    def fill(text):
        return text.replace("{token}", token).replace("{other}", other)

    headers = [tuple(fill(half).encode("latin-1") for half in header) for header in case["headers"]]
    for app in protected(keys):
        answer = await ask(app, headers, query=fill(case["query"]))
        assert answer.status == case["status"]


async def test_an_imported_token_passes_like_any_other(keys, ask):
    """As a dependency and behind the middleware, until it is revoked."""
    key = await keys.import_token(OLD, name="ci")
    app, behind = protected(keys)
    assert (await ask(app, bearer(OLD))).body == f'"{key.id}"'.encode()
    assert (await ask(app, [(b"x-api-key", OLD.encode())])).status == 200
    assert (await ask(behind, bearer(OLD))).body == b'"open"'
    await keys.revoke(key.id)
    for each in (app, behind):
        answer = await ask(each, bearer(OLD))
        assert answer.status == 401
        assert b"revoked" in answer.body


async def test_what_may_be_a_token_and_is_none_gets_the_same_bytes(keys, ask, wrong_secret):
    """Of another format or prefix, mistyped, too short or too long, of a wrong secret."""
    own = (await keys.create(name="ci")).token
    stranger = mint("acme_other", keys._ring)
    sent = [OLD, stranger, "x", "x" * 7, "x" * 8, "x" * 512, "x" * 513, own[:-1], f"{own}0"]
    sent += [wrong_secret(own), own[:-1] + ("1" if own[-1] == "0" else "0"), f'"{own}"', "~" * 90]
    sent += [own.replace("acme_live", "acme_dead"), own.swapcase(), parse(own).key_id, "a_b_c_d_e"]
    for app in protected(keys):
        answers = [await ask(app, bearer(text)) for text in sent]
        assert {(answer.status, answer.body) for answer in answers} == {(401, INVALID)}
        assert len({tuple(answer.headers) for answer in answers}) == 1


async def test_past_the_bucket_there_is_a_doubt_and_not_a_no(ask):
    """503 with Retry-After, for it may be an imported one; what can be told is told as ever."""
    async with collection(unsealed_lookups=2) as keys:
        own = (await keys.create(name="ci")).token
        for app in protected(keys):
            answers = [await ask(app, bearer(f"{OLD}{number}")) for number in range(10)]
            refused = [answer for answer in answers if answer.status == 503]
            assert len(refused) >= 7
            assert {answer.header("retry-after") for answer in refused} == {"1"}
            assert {answer.status for answer in answers} <= {401, 503}
            assert (await ask(app, bearer(own))).status == 200
            assert (await ask(app, bearer("short"))).status == 401


async def test_routes_that_manage_keys_take_imported_ones(keys, ask):
    """They are listed, shown, edited, rotated and revoked by a key of their owner."""
    scopes = ["keys:read", "keys:write"]
    old = await keys.import_token(OLD, name="ci", owner="u1")
    caller = await keys.create(name="ui", owner="u1", scopes=scopes)
    client = Client(ask, application(keys)).by(caller)
    assert len(said(await client("GET"))["items"]) == 2
    (item,) = said(await client("GET", query="prefix="))["items"]
    assert (item["id"], item["prefix"], item["owner"]) == (old.id, "", "u1")
    assert said(await client("GET", f"/{old.id}"))["prefix"] == ""
    assert said(await client("PATCH", f"/{old.id}", {"name": "old"}))["name"] == "old"
    assert said(await client("GET", f"/{old.id}/events"))[0]["action"] == "imported"
    rotated = said(await client("POST", f"/{old.id}/rotate", {"grace": 60}))
    assert rotated["key"]["prefix"] == "acme_live"
    assert (await client("POST", f"/{old.id}/revoke", {})).status == 200
    assert (await client.by(rotated["token"])("GET")).status == 403


async def test_an_imported_key_may_manage_keys(keys, ask):
    """If it has the scopes, as any other."""
    await keys.import_token(OLD, name="ci", owner="u1", scopes=["keys:read", "keys:write"])
    client = Client(ask, application(keys)).by(OLD)
    made = said(await client("POST", "", {"name": "new"}))
    assert made["key"]["prefix"] == "acme_live"
    assert len(said(await client("GET"))["items"]) == 2


def test_the_document_allows_an_empty_prefix():
    """In what is answered and in what is asked for, and nowhere else."""
    app = FastAPI()
    app.include_router(keys_router(APIKeyAuth(collection())), prefix="/api-keys")
    document = app.openapi()
    assert "minLength" not in document["components"]["schemas"]["KeyInfo"]["properties"]["prefix"]
    asked = document["paths"]["/api-keys"]["get"]["parameters"]
    (prefix,) = [each for each in asked if each["name"] == "prefix"]
    assert "minLength" not in json.dumps(prefix)
    create = document["components"]["schemas"]["KeyToCreate"]["properties"]["prefix"]
    assert "minLength" in json.dumps(create)
