"""The pytest plugin, in the tests of an application that somebody else might write."""

import asyncio

import pytest

APP = """
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException, Response, Security
from fastapi.security import SecurityScopes
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from keylatch import APIKey, APIKeys, SecretRing
from keylatch.fastapi import APIKeyAuth

# A database that no test is to touch.
keys = APIKeys("postgresql+asyncpg://nobody@127.0.0.1:9/none", prefix="acme",
               secret=SecretRing.generate())
auth = APIKeyAuth(keys)
app = FastAPI(lifespan=keys.lifespan)


@app.get("/items")
async def items(key: Annotated[APIKey, Security(auth, scopes=["items:read"])]):
    return key.owner


@app.get("/maybe")
async def maybe(key: Annotated[APIKey | None, Security(auth.optional)]):
    return None if key is None else key.owner


async def load(owner: str):
    return f"user {owner}"


@app.get("/me")
async def me(user: Annotated[str, Security(auth.owner(load))]):
    return user


mounted, deeper, behind = FastAPI(), FastAPI(), FastAPI()
for each in (mounted, deeper, behind):
    each.get("/items")(items)
    each.get("/maybe")(maybe)
mounted.mount("/deeper", Starlette(routes=[Mount("/starlette", deeper)]))
mounted.mount("/itself", mounted)
app.mount("/mounted", mounted)
app.mount("/behind", GZipMiddleware(behind))


class OnlyAtHome(APIKeyAuth):
    place = "home"

    def __init__(self, keys, *, place):
        super().__init__(keys, scheme_name="OnlyAtHome", rate_limit=None, realm="home")
        self.place = place

    async def __call__(
        self, connection: HTTPConnection, scopes: SecurityScopes, response: Response = None
    ) -> APIKey:
        if connection.headers.get("x-place") != self.place:
            raise HTTPException(403, "not from here")
        return await super().__call__(connection, scopes, response)


at_home = OnlyAtHome(keys, place="there")
home = APIRouter(prefix="/home")
for path, dependency in {
    "/": at_home,
    "/maybe": at_home.optional,
    "/either": at_home.either(lambda: None),
    "/me": at_home.owner(load),
}.items():
    home.get(path, dependencies=[Security(dependency)])(lambda: "in")
app.include_router(home)
"""


@pytest.fixture
def tests(pytester):
    """Runs the tests of an application, in a process of their own."""
    pytester.makepyfile(app=APP)
    pytester.makeini("[pytest]\nfilterwarnings = error\nanyio_mode = auto\n")

    def run(source: str, **outcomes: int) -> pytest.RunResult:
        pytester.makepyfile(test_app=source)
        done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
        done.assert_outcomes(**outcomes)
        return done

    return run


def test_a_client_holds_a_key_with_these_scopes(tests):
    """No database is asked, scopes count, and the application is as it was afterwards."""
    tests(
        """
        import pytest
        from app import app, auth, behind, deeper, mounted


        def test_passes(keylatch_client):
            client = keylatch_client(app, auth, "items:read", owner="u1")
            assert client.get("/items").json() == "u1"
            assert client.get("/maybe").json() == "u1"
            assert client.get("/me").json() == "user u1"


        def test_lacks_a_scope(keylatch_client):
            client = keylatch_client(app, auth)
            assert client.get("/items").status_code == 403


        def test_two_clients(keylatch_client):
            one = keylatch_client(app, auth, "items:read", owner="u1")
            two = keylatch_client(app, auth, "items:read", owner="u2")
            assert [each.get("/items").json() for each in (one, two)] == ["u1", "u2"]
            headers = {"Authorization": ""}
            assert one.get("/items", headers=headers).status_code == 401
            assert one.get("/maybe", headers=headers).json() is None


        def test_reaches_what_is_mounted(keylatch_client):
            client = keylatch_client(app, auth, "items:read", owner="u1")
            for path in ("/mounted", "/mounted/deeper/starlette", "/behind", "/mounted/itself"):
                assert client.get(f"{path}/items").json() == "u1"
                assert client.get(f"{path}/maybe").json() == "u1"
                assert client.get(f"{path}/items", headers={"Authorization": ""}).status_code == 401


        def test_asks_no_real_collection_by_mistake(keylatch_client):
            with pytest.raises(TypeError, match="FastAPI"):
                keylatch_client(lambda: app, auth)


        def test_leaves_nothing_behind():
            for each in (app, mounted, deeper, behind):
                assert each.dependency_overrides == {}
        """,
        passed=6,
    )


def test_a_subclass_is_as_strict_as_in_production(tests):
    """What an application adds to the dependency decides in tests, too, with what it keeps."""
    tests(
        """
        import pytest
        from app import app, at_home


        @pytest.mark.parametrize("path", ["/", "/maybe", "/either", "/me"])
        def test_place(keylatch_client, path):
            client = keylatch_client(app, at_home, owner="u1")
            answer = client.get(f"/home{path}")
            assert (answer.status_code, answer.json()) == (403, {"detail": "not from here"})
            client.headers["X-Place"] = "there"
            assert client.get(f"/home{path}").json() == "in"
            client.headers["Authorization"] = "Bearer test_junk"
            answer = client.get(f"/home{path}")
            assert answer.status_code == 401
            assert 'realm="home"' in answer.headers["WWW-Authenticate"]
        """,
        passed=4,
    )


def test_who_lacks_the_client_is_told_what_to_install(tests):
    """By name, in the error of the test."""
    done = tests(
        """
        import sys

        from app import app, auth

        sys.modules |= {"httpx": None, "httpx2": None}


        def test_client(keylatch_client):
            keylatch_client(app, auth)
        """,
        failed=1,
    )
    done.stdout.fnmatch_lines("*pip install httpx2*")


def test_keys_are_managed_and_time_is_moved(tests):
    """The collection is a real one: keys end, are revoked, and open what they should."""
    tests(
        """
        from datetime import timedelta

        import pytest
        from app import app, auth
        from keylatch.errors import ExpiredKeyError, RevokedKeyError


        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_ends(keylatch_keys, keylatch_key, keylatch_clock):
            new = keylatch_key("a", expires_in=timedelta(days=1))
            assert (await keylatch_keys.verify(new.token, scopes=["a"])).name == "test"
            keylatch_clock.advance(timedelta(days=1))
            with pytest.raises(ExpiredKeyError):
                await keylatch_keys.verify(new.token)


        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_revokes(keylatch_keys, keylatch_key):
            new = keylatch_key()
            await keylatch_keys.revoke(new.key.id)
            with pytest.raises(RevokedKeyError):
                await keylatch_keys.verify(new.token)


        def test_expires_over_http(keylatch_client, keylatch_clock):
            client = keylatch_client(app, auth, "items:read", expires_in=timedelta(hours=1))
            assert client.get("/items").status_code == 200
            keylatch_clock.advance(timedelta(hours=1))
            assert client.get("/items").status_code == 401
        """,
        passed=3,
    )


def test_overrides_work_as_fastapi_documents_them(tests):
    """For those who want no key at all in a test."""
    tests(
        """
        from app import app, auth
        from starlette.testclient import TestClient


        def test_override(keylatch_key, monkeypatch):
            key = keylatch_key(owner="u1").key
            monkeypatch.setitem(app.dependency_overrides, auth, lambda: key)
            client = TestClient(app)
            assert client.get("/items").json() == "u1"
            assert client.get("/me").json() == "user u1"
        """,
        passed=1,
    )


def test_another_header_carries_the_token_where_the_application_says_so(tests):
    """Without Bearer, the first header that is named."""
    tests(
        """
        from typing import Annotated

        from fastapi import FastAPI, Security
        from keylatch import APIKey
        from keylatch.fastapi import APIKeyAuth
        from app import keys

        auth = APIKeyAuth(keys, bearer=False, headers=["X-Acme-Key"])
        app = FastAPI()


        @app.get("/")
        async def route(key: Annotated[APIKey, Security(auth)]):
            return key.name


        def test_header(keylatch_client):
            client = keylatch_client(app, auth, name="acme")
            assert "X-Acme-Key" in client.headers
            assert client.get("/").json() == "acme"
        """,
        passed=1,
    )


def test_keys_of_tests_are_cheap(keylatch_keys, keylatch_key):
    """Their hashes are HMACs, so that a suite may make as many as it likes."""
    key = keylatch_key().key
    record = asyncio.run(keylatch_keys._store.load(key.id))
    assert record.hash.startswith("$hmac-sha256$")
