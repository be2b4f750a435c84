"""The article's app, run as its README says: real processes, a real file, real requests."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import article_rows as article
import httpx2
import pytest

from keylatch import APIKeys, NewKey, SecretRing, mint, parse

EXAMPLE = Path(__file__).parent.parent / "examples" / "article"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the app keeps its database."""
    return tmp_path_factory.mktemp("article")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What the app is told by its environment. Its database is in the current directory."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return inherited | {"KEYLATCH_SECRET": SecretRing.generate()}


@pytest.fixture(scope="module")
def client(folder, environment) -> Iterator[httpx2.Client]:
    """A client of the app, which runs in uvicorn, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # It listens already: a request that comes before the app has started waits.
        port, descriptor = listener.getsockname()[1], str(listener.fileno())
        log = (folder / "uvicorn.log").open("w")
        command = [sys.executable, "-m", "uvicorn", "app:app", "--fd", descriptor]
        process = subprocess.Popen(
            [*command, "--app-dir", EXAMPLE, "--log-level", "debug"],
            cwd=folder,
            env=environment,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()
    assert "Traceback" not in (folder / "uvicorn.log").read_text()


@pytest.fixture(scope="module")
def manage(folder, environment) -> Callable[..., subprocess.CompletedProcess]:
    """Runs manage.py beside the app."""

    def manage(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, EXAMPLE / "manage.py", *arguments],
            cwd=folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return manage


@pytest.fixture(scope="module")
def ada(client, manage) -> str:
    """A user's first token."""
    return manage("add-user", "ada", "--first-name=Ada", "--last-name=Lovelace").stdout.strip()


@pytest.fixture(scope="module")
def grace(client, manage) -> str:
    """Another user's first token."""
    return manage("add-user", "grace", "--first-name=Grace").stdout.strip()


@pytest.fixture
def library(folder, environment) -> Callable[..., NewKey]:
    """Makes a key in the app's database, past the app, at any moment in time."""

    def library(*, like: str, ago: timedelta = timedelta(), **options) -> NewKey:
        def clock() -> datetime:
            return datetime.now(UTC) - ago

        async def create() -> NewKey:
            url = f"sqlite+aiosqlite:///{folder / 'article.db'}"
            secret = environment["KEYLATCH_SECRET"]
            async with APIKeys(url, prefix="MV_SECRET", secret=secret, clock=clock) as keys:
                owner = (await keys.get(parse(like).key_id)).owner
                return await keys.create(name="from the test", owner=owner, **options)

        return asyncio.run(create())

    return library


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def another_key(client, token, **wanted) -> httpx2.Response:
    """Asks for another key of the token's user."""
    return client.post("/user/keys", headers=bearer(token), json={"name": "another"} | wanted)


def test_a_key_leads_to_its_user(client, ada):
    """GET /user tells the user of the key, and of the row only what is meant to be told."""
    assert ada.startswith("MV_SECRET_")
    answer = client.get("/user", headers=bearer(ada))
    assert answer.status_code == 200
    assert answer.json() == {"user_id": "ada", "first_name": "Ada", "last_name": "Lovelace"}


def test_the_page_of_the_docs_shows_the_answers(client):
    """Each that the routes give to keys which may not pass."""
    operations = client.get("/openapi.json").json()["paths"]
    assert {"401", "503"} < set(operations["/user"]["get"]["responses"])
    assert {"401", "403", "503"} < set(operations["/user/keys"]["post"]["responses"])


def test_two_users_do_not_mix(client, ada, grace):
    """Each key leads to its own user, and neither user can revoke a key of the other."""
    assert client.get("/user", headers=bearer(grace)).json()["user_id"] == "grace"
    foreign = client.delete(f"/user/keys/{parse(ada).key_id}", headers=bearer(grace))
    absent = client.delete("/user/keys/0000000000000000", headers=bearer(grace))
    assert foreign.status_code == absent.status_code == 404
    assert foreign.content == absent.content
    assert client.get("/user", headers=bearer(ada)).json()["user_id"] == "ada"


def test_the_keys_of_a_user_differ_and_end_one_by_one(client, ada):
    """A user makes a second key, revokes it, and the first one still opens."""
    made = [another_key(client, ada), another_key(client, ada)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert all(answer.headers["cache-control"] == "no-store" for answer in made)
    second, third = (answer.json()["token"] for answer in made)
    assert len({ada, second, third}) == 3
    assert client.get("/user", headers=bearer(second)).json()["user_id"] == "ada"

    revoked = client.delete(f"/user/keys/{made[0].json()['id']}", headers=bearer(ada))
    assert revoked.status_code == 204
    answer = client.get("/user", headers=bearer(second))
    assert answer.status_code == 401
    assert "revoked" in answer.headers["www-authenticate"]
    for token in (ada, third):
        assert client.get("/user", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("path", ["/user", "/user/keys", "/user/keys/0000000000000000"])
def test_no_key_no_answer(client, path):
    """Every route but the documentation asks for a key, in the Bearer header and nowhere else."""
    method = {"/user": "GET", "/user/keys": "POST"}.get(path, "DELETE")
    answer = client.request(method, path, json={"name": "mine"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="api"'


def test_a_key_elsewhere_is_no_key(client, ada):
    """A token in another header or in the query string is not looked at."""
    assert client.get("/user", headers={"X-API-Key": ada}).status_code == 401
    assert client.get("/user", params={"api_key": ada}).status_code == 401
    assert client.get("/user", headers={"Authorization": f"Basic {ada}"}).status_code == 401


def test_wrong_keys_get_one_answer(client, ada, wrong_secret):
    """A wrong secret, an unknown key and a string that is no key are told apart by nobody."""
    stranger = SecretRing(SecretRing.generate())
    tokens = [wrong_secret(ada), mint("MV_SECRET", stranger), ada[:-1], "MV_SECRET_" + "a" * 64]
    answers = [client.get("/user", headers=bearer(token)) for token in tokens]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["www-authenticate"] for answer in answers}) == 1


def test_a_key_expires(client, ada, library):
    """A key past its end is refused and the client is told why."""
    token = library(like=ada, ago=timedelta(days=1), expires_in=timedelta(hours=1)).token
    answer = client.get("/user", headers=bearer(token))
    assert answer.status_code == 401
    assert "expired" in answer.headers["www-authenticate"]


def test_a_key_makes_none_that_is_wider(client, ada):
    """Scopes are handed on only by a key that has them, and none means no new keys."""
    assert another_key(client, ada, scopes=["keys:write", "admin"]).status_code == 403
    narrow = another_key(client, ada).json()["token"]
    refused = another_key(client, narrow)
    assert refused.status_code == 403
    assert 'scope="keys:write"' in refused.headers["www-authenticate"]
    own = client.delete(f"/user/keys/{parse(narrow).key_id}", headers=bearer(narrow))
    assert own.status_code == 403


def test_a_key_makes_none_that_outlives_it(client, ada, library):
    """What a key makes ends with it at the latest, or earlier if that is wanted."""
    new = library(like=ada, expires_in=timedelta(days=2), scopes=["keys:write"])
    end = new.key.expires_at
    wishes = {None: end, end + timedelta(days=1): end, end - timedelta(days=1): None}
    for wish, expected in wishes.items():
        answer = another_key(client, new.token, expires_at=wish and wish.isoformat())
        assert answer.status_code == 201
        assert datetime.fromisoformat(answer.json()["expires_at"]) == (expected or wish)


def test_whose_key_it_will_be_is_not_asked(client, ada, grace):
    """A user named in the body changes nothing: the new key is the caller's."""
    answer = another_key(client, ada, user_id="grace", owner="grace")
    token = answer.json()["token"]
    assert client.get("/user", headers=bearer(token)).json()["user_id"] == "ada"


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "a" * 256},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00"},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
    ],
    ids=["no name", "long name", "past", "naive", "past the calendar"],
)
def test_a_bad_wish_is_told_so(client, ada, wanted):
    """What a key cannot be is 422, not 500."""
    assert another_key(client, ada, **wanted).status_code == 422


def test_no_file_holds_a_token(client, folder, environment, ada, grace):
    """Neither the database nor the log holds a token, a part of its secret, or the server's."""
    tokens = [ada, grace, another_key(client, ada).json()["token"]]
    secrets = [token.rpartition("_")[2].encode() for token in tokens]
    secrets.append(environment["KEYLATCH_SECRET"].partition(":")[2].encode())
    contents = [file.read_bytes() for file in folder.iterdir()]
    assert any(parse(ada).key_id.encode() in content for content in contents)
    for secret in secrets:
        assert not any(secret[:20] in content for content in contents)


def test_users_and_keys_share_one_file(folder, ada):
    """The app's table and keylatch's stand in one database, each with its own."""
    with sqlite3.connect(folder / "article.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert {"users", "api_keys", "api_key_events"} <= names


def test_the_command_gives_a_user_another_key(client, ada, manage):
    """add-key is for who lost a key; a user that is there or is not is told plainly."""
    token = manage("add-key", "ada").stdout.strip()
    assert token != ada
    assert client.get("/user", headers=bearer(token)).json()["user_id"] == "ada"
    for arguments, said in [
        (("add-user", "ada"), "There is a user ada already: use add-key\n"),
        (("add-key", "Nobody"), "There is no user Nobody\n"),
        (("remove-user", "Nobody"), "There is no user Nobody\n"),
    ]:
        refused = manage(*arguments)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", said)


def test_a_removed_user_takes_the_keys_along(client, manage, library):
    """The keys of a removed user open nothing, not even for the next user of that name."""
    first = manage("add-user", "eve").stdout.strip()
    assert manage("remove-user", "eve").returncode == 0
    late = library(like=first).token  # as if a request had raced the removal
    manage("add-user", "eve")
    for token in (first, late):
        answer = client.get("/user", headers=bearer(token))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer realm=")


def test_processes_that_start_together_make_the_tables_once(tmp_path, environment):
    """Workers and manage.py may all be first: none fails because another has made a table."""
    command = [sys.executable, EXAMPLE / "manage.py", "add-user"]
    started = [
        subprocess.Popen(
            [*command, f"user-{number}"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
        )
        for number in range(6)
    ]
    tokens = [process.communicate(timeout=60)[0].decode().strip() for process in started]
    assert [process.returncode for process in started] == [0] * 6
    assert len({parse(token).key_id for token in tokens}) == 6


def test_a_database_that_fails_is_503(client, ada, folder):
    """A key that cannot be written is not made, and is once it can be."""
    headers = bearer(ada)
    with closing(sqlite3.connect(folder / "article.db")) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON api_key_events "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        refused = client.post("/user/keys", json={"name": "laptop"}, headers=headers)
        database.execute("DROP TRIGGER full")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "disk" not in refused.text
    made = client.post("/user/keys", json={"name": "laptop"}, headers=headers)
    assert made.status_code == 201


def test_users_and_keys_of_the_articles_own_app_move(client, manage, environment, folder):
    """Old tokens lead to their users, make keys of ours, and go with their users for good."""
    old = f"sqlite:///{folder / 'old.db'}"
    article.make(old, 3)
    tokens = [row.secret_key for row in article.rows(old)]
    assert client.get("/user", headers=bearer(tokens[0])).status_code == 401
    assert manage("move-users", old).stderr.startswith("3 users were added")
    command = [Path(sys.executable).with_name("keylatch"), "import", "article", old]
    env = environment | {
        "KEYLATCH_DATABASE": f"sqlite+aiosqlite:///{folder / 'article.db'}",
        "KEYLATCH_PREFIX": "MV_SECRET",
    }
    subprocess.run([*command, "--scope", "keys:write"], env=env, check=True, timeout=60)
    time.sleep(1.1)  # until the app has heard of a key that it had asked for in vain
    for number, token in enumerate(tokens):
        answer = client.get("/user", headers=bearer(token))
        assert answer.json()["user_id"] == f"user{number}"
    new = another_key(client, tokens[0]).json()["token"]
    assert client.get("/user", headers=bearer(new)).json()["user_id"] == "user0"
    assert manage("remove-user", "user0").returncode == 0
    manage("add-user", "user0")
    time.sleep(1.1)
    for token in (tokens[0], new):
        assert client.get("/user", headers=bearer(token)).status_code == 401
