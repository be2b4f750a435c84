"""``keylatch routes``: what each route of an application asks for, for people and for CI."""

import json

import pytest

MODULE = """
from typing import Annotated

from fastapi import FastAPI, Security

from keylatch import APIKey, APIKeys, SecretRing
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore

print("noise")
auth = APIKeyAuth(APIKeys(MemoryStore(), prefix="acme", secret=SecretRing.generate()))
app = FastAPI(openapi_url=None)


@app.get("/items/{id}")
async def items(key: Annotated[APIKey, Security(auth, scopes=["items:read"])]) -> None: ...


@app.get("/health")
async def health() -> None: ...


def make():
    return app
"""


@pytest.fixture
def routes(bare, tmp_path):
    """A command line beside the module of an application, without a server secret."""
    (tmp_path / "acme.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('postgresql://u:canary@host')")
    for name in ("KEYLATCH_SECRET", "KEYLATCH_PREFIX", "KEYLATCH_DATABASE"):
        bare.env.pop(name)
    return lambda *arguments, **options: bare.run(
        "routes", "--app-dir", str(tmp_path), *arguments, **options
    )


def test_routes_are_listed_with_what_they_ask_for(routes):
    """For people; what the application prints is not part of the answer."""
    done = routes("acme:app")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "methods  path         asks for  scopes      note",
        "GET      /items/{id}  APIKey    items:read",
        "GET      /health      open",
    ]
    assert "routes: 2, open and not allowed to be: 1" in done.stderr
    assert routes("--factory", "acme:make").stdout == done.stdout


def test_routes_are_told_to_programs(routes):
    """As JSON, one object a route."""
    done = routes("acme:app", "--json", "--allow", "/health")
    assert done.returncode == 0
    items = json.loads(done.stdout)["items"]
    assert items == [
        {
            "path": "/items/{id}",
            "methods": ["GET"],
            "schemes": ["APIKey"],
            "scopes": ["items:read"],
            "open": False,
            "note": "",
            "host": "",
            "allowed": False,
        },
        {
            "path": "/health",
            "methods": ["GET"],
            "schemes": [],
            "scopes": [],
            "open": True,
            "note": "",
            "host": "",
            "allowed": True,
        },
    ]


def test_ci_fails_on_an_open_route(routes):
    """Unless it is allowed, by its path or with all that lies below one."""
    assert routes("acme:app", "--fail-open").returncode == 1
    assert routes("acme:app", "--fail-open", "--allow", "/health").returncode == 0
    done = routes("acme:app", "--fail-open", "--allow", "/health/*", "--allow", "/old")
    assert done.returncode == 1
    assert "--allow /old is of no use" in done.stderr
    assert routes("acme:app", "--fail-open", "--allow", "/*").returncode == 4


def test_an_application_that_cannot_be_imported_is_said_so(routes):
    """In a line that repeats nothing of what the application says."""
    for target in ("acme", "acme:nope", "nope:app", "broken:app", "--factory=acme:app"):
        done = routes(target)
        assert done.returncode in (2, 4)
        assert "canary" not in done.stderr
    assert "no module" not in routes("acme:app").stderr
    assert "ModuleNotFoundError of nope" in routes("nope:app").stderr
