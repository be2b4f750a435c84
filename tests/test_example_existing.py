"""The existing app with a synchronous session, run as its README says, on two databases."""

import secrets
from collections.abc import Iterator

import httpx2
import pytest
import sqlalchemy
from databases import empty_database
from examples import bearer, loaded, serving
from starlette.testclient import TestClient

from keylatch import SecretRing, parse


@pytest.fixture(scope="module", params=["sqlite-sync", "postgres-sync"])
def url(request) -> Iterator[str]:
    """An empty database."""
    with empty_database(request.param) as url:
        yield url


@pytest.fixture(scope="module")
def client(url, tmp_path_factory) -> Iterator[httpx2.Client]:
    """A client of the running app."""
    variables = {"DATABASE_URL": url, "KEYLATCH_SECRET": SecretRing.generate()}
    folder = tmp_path_factory.mktemp("existing")
    with (
        serving("existing", folder, variables) as address,
        httpx2.Client(base_url=address, timeout=30) as client,
    ):
        client.get("/openapi.json")  # by now it has made its tables
        yield client


@pytest.fixture
def rows(url):
    """Runs a statement in the app's database, past the app."""
    engine = sqlalchemy.create_engine(url)

    def rows(statement: str):
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.all() if result.returns_rows else None

    yield rows
    engine.dispose()


def sign_up(client, name) -> dict[str, str]:
    """A new user, with a first token."""
    answer = client.post("/users", json={"name": name})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_a_key_leads_to_its_users_tasks(client):
    """Routes that are plain functions have the user of the key, in the session of the request."""
    ada, grace = (sign_up(client, name)["token"] for name in ("ada", "grace"))
    for text in ("count", "note G"):
        assert client.post("/tasks", headers=bearer(ada), json={"text": text}).status_code == 201
    assert client.get("/tasks", headers=bearer(ada)).json() == ["count", "note G"]
    assert client.get("/tasks", headers=bearer(grace)).json() == []
    assert client.get("/tasks").status_code == 401


def test_keys_stand_beside_the_apps_own_tables(client, rows):
    """A user's key is a row of the same database, and holds no token."""
    user = sign_up(client, "barbara")
    ((owner, stored),) = rows(
        f"SELECT owner, hash FROM api_keys WHERE id = '{parse(user['token']).key_id}'"
    )
    assert rows(f"SELECT name FROM users WHERE id = '{owner}'") == [("barbara",)]
    assert user["token"][-40:] not in stored


def test_a_user_whose_name_is_taken_has_no_key(client, rows):
    """409 leaves neither a second user nor a key."""
    sign_up(client, "edsger")
    before = rows("SELECT count(*) FROM api_keys")
    refused = client.post("/users", json={"name": "edsger"})
    assert (refused.status_code, rows("SELECT count(*) FROM api_keys")) == (409, before)


def test_a_key_that_cannot_be_written_takes_its_user_along(client, rows):
    """503, and the name is free: the user was in the key's transaction."""
    rows("ALTER TABLE api_key_events RENAME TO hidden")
    try:
        refused = client.post("/users", json={"name": "niklaus"})
    finally:
        rows("ALTER TABLE hidden RENAME TO api_key_events")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert rows("SELECT name FROM users WHERE name = 'niklaus'") == []
    sign_up(client, "niklaus")


def test_a_user_who_leaves_takes_everything_along(client, rows):
    """The user, the tasks and the keys go in one transaction, and the name opens nothing old."""
    first = sign_up(client, "grete")
    headers = bearer(first["token"])
    wanted = {"name": "laptop", "scopes": ["tasks:read", "tasks:write"]}
    second = client.post("/keys", headers=headers, json=wanted).json()["token"]
    assert client.post("/tasks", headers=bearer(second), json={"text": "prove"}).status_code == 201
    assert client.delete("/users/me", headers=bearer(second)).status_code == 403
    assert client.delete("/users/me", headers=headers).status_code == 204
    sign_up(client, "grete")
    for token in (first["token"], second):
        answer = client.get("/tasks", headers=bearer(token))
        assert (answer.status_code, "revoked" in answer.text) == (401, True)
    assert rows(f"SELECT * FROM tasks WHERE user_id = '{first['user_id']}'") == []


def test_a_departure_that_fails_ends_no_key(tmp_path, monkeypatch):
    """Where the user cannot be removed, the keys are not revoked either."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'existing.db'}")
    monkeypatch.setenv("KEYLATCH_SECRET", SecretRing.generate())
    module = loaded("existing")
    with TestClient(module.app, raise_server_exceptions=False) as client:
        headers = bearer(sign_up(client, "alan")["token"])
        with module.engine.begin() as connection:
            connection.execute(sqlalchemy.text("DROP TABLE tasks"))
        assert client.delete("/users/me", headers=headers).status_code == 500
        (key,) = client.get("/keys", headers=headers).json()["items"]
        assert key["revoked_at"] is None


@pytest.mark.parametrize("value", ['""', f'"{"a" * 201}"', '"\\u0000"', '"\\ud800"', "1", "null"])
def test_a_name_or_a_task_that_cannot_be_is_422(client, value):
    """What no database takes is told so before one is asked."""
    assert client.post("/users", content=f'{{"name": {value}}}').status_code == 422
    headers = bearer(sign_up(client, secrets.token_hex(8))["token"])
    answer = client.post("/tasks", headers=headers, content=f'{{"text": {value}}}')
    assert answer.status_code == 422
