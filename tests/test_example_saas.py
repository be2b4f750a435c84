"""The small SaaS, run as its README says: people at its console, and programs at its API."""

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from examples import bearer, serving

from keylatch import SecretRing

FREE = ["notes:read", "notes:write"]
PRO = [*FREE, "keys:read", "stats:read"]
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the app keeps its database."""
    return tmp_path_factory.mktemp("saas")


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """Where the app listens."""
    with serving("saas", folder, {"KEYLATCH_SECRET": SecretRing.generate()}) as address:
        yield address


@pytest.fixture(scope="module")
def api(address) -> Iterator[httpx2.Client]:
    """A program, without a cookie."""
    with httpx2.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture
def person(address) -> Iterator[Callable[..., httpx2.Client]]:
    """Makes people who have logged in: of an organisation of their own, or of a colleague's."""
    clients = []

    def person(*, of: httpx2.Client | None = None) -> httpx2.Client:
        client = httpx2.Client(base_url=f"{address}/console", timeout=30)
        clients.append(client)
        credentials = {"email": f"{secrets.token_hex(8)}@example.com", "password": PASSWORD}
        if of is None:
            wanted = credentials | {"organisation": "Analytical Engines"}
            assert client.post("/signup", json=wanted).status_code == 204
        else:
            assert of.post("/members", json=credentials).status_code == 204
        assert client.post("/login", json=credentials).status_code == 204
        client.credentials = credentials
        return client

    yield person
    for client in clients:
        client.close()


def make(person: httpx2.Client, *scopes: str, **wanted) -> tuple[str, str]:
    """Makes a key of the person's organisation; its id and its token."""
    answer = person.post("/keys", json={"name": "ci", "scopes": scopes} | wanted)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["key"]["id"], answer.json()["token"]


def subscribe(person: httpx2.Client, plan: str) -> int:
    """Changes the plan; the answer's status."""
    return person.put("/plan", json={"plan": plan}).status_code


def test_a_key_that_a_person_makes_belongs_to_the_organisation(api, person):
    """What one key writes, another one of the organisation reads, whoever made it."""
    ada = person()
    charles = person(of=ada)
    (first, token), (_, other) = make(ada, *FREE), make(charles, "notes:read")
    assert api.post("/v1/notes", headers=bearer(token), json={"text": "G"}).status_code == 201
    assert api.get("/v1/notes", headers=bearer(other)).json() == ["G"]
    assert api.post("/v1/notes", headers=bearer(other), json={"text": "H"}).status_code == 403
    shown = {key["id"]: key["name"] for key in charles.get("/keys").json()}
    assert len(shown) == 2
    assert charles.delete(f"/keys/{first}").status_code == 204
    assert api.get("/v1/notes", headers=bearer(token)).status_code == 401
    assert api.get("/v1/notes", headers=bearer(other)).status_code == 200


def test_no_organisation_sees_anything_of_another(api, person):
    """Neither notes nor keys, by console or API; and what is not there looks the same."""
    ada, grace = person(), person()
    assert (subscribe(ada, "pro"), subscribe(grace, "pro")) == (204, 204)
    (ours, token), (_, theirs) = make(ada, *PRO), make(grace, *PRO)
    api.post("/v1/notes", headers=bearer(token), json={"text": "secret"})
    headers = bearer(theirs)
    assert api.get("/v1/notes", headers=headers).json() == []
    assert api.get("/v1/stats", headers=headers).json() == {"notes": 0}
    assert [key["id"] for key in grace.get("/keys").json()] != [ours]
    assert ours not in api.get("/v1/keys", headers=headers).text
    for path in ("/v1/keys/{}", "/v1/keys/{}/events"):
        foreign = api.get(path.format(ours), headers=headers)
        absent = api.get(path.format("0" * 16), headers=headers)
        assert (foreign.status_code, foreign.content) == (404, absent.content)
        assert api.get(path.format(ours), headers=bearer(token)).status_code == 200
    foreign, absent = (grace.delete(f"/keys/{each}") for each in (ours, "0" * 16))
    assert (foreign.status_code, foreign.content) == (404, absent.content)
    assert api.get("/v1/keys", headers=headers, params={"owner": "x"}).status_code == 403
    assert api.get("/v1/notes", headers=bearer(token)).json() == ["secret"]


def test_a_plan_decides_what_keys_may_do(api, person):
    """The free one has fewer scopes; a key of the better one does less once that has ended."""
    ada = person()
    refused = ada.post("/keys", json={"name": "bi", "scopes": ["stats:read"]})
    assert (refused.status_code, "stats:read" in refused.text) == (403, False)
    assert ada.post("/keys", json={"name": "bi", "scopes": ["keys:write"]}).status_code == 403
    subscribe(ada, "pro")
    headers = bearer(make(ada, *PRO)[1])
    assert ada.post("/keys", json={"name": "bi", "scopes": ["keys:write"]}).status_code == 403
    paths = ["/v1/notes", "/v1/stats", "/v1/keys"]
    assert [api.get(path, headers=headers).status_code for path in paths] == [200, 200, 200]
    subscribe(ada, "free")
    answers = [api.get(path, headers=headers) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 403, 403]
    assert answers[1].json() == {"detail": "The plan free does not have stats:read"}
    subscribe(ada, "pro")
    assert api.get("/v1/stats", headers=headers).status_code == 200


def test_a_plan_decides_how_many_keys_there_are(person):
    """However many are asked for at once; a revoked one makes room."""
    ada = person()
    wanted = {"name": "ci", "scopes": FREE}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ada.post("/keys", json=wanted), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 6
    (first, *_) = ada.get("/keys").json()
    ada.delete(f"/keys/{first['id']}")
    make(ada, *FREE)
    assert ada.post("/keys", json=wanted).status_code == 409
    subscribe(ada, "pro")
    make(ada, *PRO)
    assert subscribe(ada, "free") == 409
    assert len(ada.get("/keys").json()) == 3


def test_a_key_makes_no_keys(api, person):
    """No plan has the scope for it: who makes keys is a person, and is counted."""
    ada = person()
    subscribe(ada, "pro")
    id_, token = make(ada, *PRO)
    wanted = {"name": "more", "scopes": ["notes:read"]}
    assert api.post("/v1/keys", headers=bearer(token), json=wanted).status_code == 403
    rotation = api.post(f"/v1/keys/{id_}/rotate", headers=bearer(token), json={"grace": 3600})
    assert rotation.status_code == 403
    cookies = {"Cookie": f"session={token}"}
    assert api.post("/console/keys", headers=bearer(token), json=wanted).status_code == 401
    assert api.post("/console/keys", headers=cookies, json=wanted).status_code == 401


def test_a_session_is_no_key(api, person):
    """What people log in with opens the console only, and only until they log out."""
    ada = person()
    make(ada, *FREE)
    cookie = ada.cookies["session"]
    assert api.get("/v1/notes", headers={"Cookie": f"session={cookie}"}).status_code == 401
    assert api.get("/v1/notes", headers=bearer(cookie)).status_code == 401
    assert ada.post("/logout").status_code == 204
    for cookies in ({}, {"Cookie": f"session={cookie}"}):
        assert api.get("/console/keys", headers=cookies).status_code == 401


def test_who_has_no_account_or_a_wrong_password_gets_one_answer(api, person):
    """Nobody learns who has an account by logging in."""
    known = person().credentials
    wrong = api.post("/console/login", json=known | {"password": "wrong password"})
    unknown = api.post("/console/login", json=known | {"email": "nobody@example.com"})
    assert (wrong.status_code, wrong.content) == (401, unknown.content)
    assert "set-cookie" not in wrong.headers
    signup = known | {"organisation": "Again"}
    assert api.post("/console/signup", json=signup).status_code == 409


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "a\0"},
        {"name": "\x1b[2J"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00"},
    ],
    ids=["no name", "NUL", "control characters", "past", "naive"],
)
def test_a_key_that_cannot_be_is_422(person, wanted):
    """Bad input is told so, and leaves no key."""
    ada = person()
    answer = ada.post("/keys", json={"name": "ci", "scopes": FREE} | wanted)
    assert (answer.status_code, ada.get("/keys").json()) == (422, [])


def test_the_trail_tells_who_made_a_key(api, person):
    """A program on the plan pro reads that a person did, and which."""
    ada = person()
    subscribe(ada, "pro")
    id_, token = make(ada, *PRO)
    (made,) = api.get(f"/v1/keys/{id_}/events", headers=bearer(token)).json()
    assert (made["action"], made["actor"].partition(":")[0]) == ("created", "user")


def test_no_file_holds_what_opens_anything(folder, person):
    """Neither a token, nor a session, nor a password stands in the database or in the log."""
    ada = person()
    _, token = make(ada, *FREE)
    contents = [file.read_bytes() for file in folder.iterdir()]
    with closing(sqlite3.connect(folder / "saas.db")) as database:
        assert database.execute("SELECT count(*) FROM logins").fetchone()[0] > 0
    for secret in (token[22:60], ada.cookies["session"], PASSWORD):
        assert not any(secret.encode() in content for content in contents)
