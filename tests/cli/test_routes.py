"""``keylatch routes``: what each route of an application asks for, for people and for CI."""

import json
import sys

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

OPEN = """
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Host, Route

app = FastAPI(openapi_url=None)


@app.get("/items")
@app.delete("/items")
@app.websocket("/items")
@app.api_route("/both", methods=["GET", "PUT"])
@app.head("/head")
async def answer() -> None: ...


app.routes.append(Route("/feed", answer))
app.routes.append(Host("other.example", Starlette(routes=[Route("/items", answer)])))
app.router.default = answer
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
    assert routes("acme:app", "--fail-open", "--allow", "health").returncode == 4


@pytest.fixture
def left(inside, tmp_path, monkeypatch):
    """What stands open with an allow list, and what is told of the list, without processes."""
    (tmp_path / "all_open.py").write_text(OPEN)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def left(*allowed):
        options = [each for entry in allowed for each in ("--allow", entry)]
        done = inside.run("routes", "--app-dir", str(tmp_path), "all_open:app", *options)
        rows = [line.split("  ") for line in done.stdout.splitlines()[1:]]
        cells = [[cell.strip() for cell in row if cell] for row in rows]
        open_rows = [f"{row[0]} {row[1]}" for row in cells if row[2] == "open"]
        return open_rows, [line for line in done.stderr.splitlines() if "no use" in line]

    return left


ALL_OPEN = [
    "HEAD /head",
    "GET PUT /both",
    "WEBSOCKET /items",
    "DELETE /items",
    "GET /items",
    "GET HEAD /feed",
    "GET HEAD other.example/items",
    "* /*",
]


@pytest.mark.parametrize(
    ("entries", "allowed"),
    [
        ([], []),
        (["GET /items"], ["GET /items"]),
        (["WEBSOCKET /items"], ["WEBSOCKET /items"]),
        (["GET DELETE /items"], ["GET /items", "DELETE /items"]),
        (["/items"], ["WEBSOCKET /items", "DELETE /items", "GET /items"]),
        (["GET /feed"], ["GET HEAD /feed"]),  # HEAD tells less
        (["GET HEAD /feed"], ["GET HEAD /feed"]),
        (["HEAD /feed"], []),
        (["GET /both"], []),
        (["GET /both", "PUT /both"], ["GET PUT /both"]),
        (["other.example/items"], ["GET HEAD other.example/items"]),
        (["other.example/*"], ["GET HEAD other.example/items"]),
        (["GET other.example/items"], ["GET HEAD other.example/items"]),
        (["/*"], ["* /*"]),  # by itself it names but that row
        (["* /*"], ["* /*"]),
    ],
)
def test_an_open_route_is_allowed_by_method_path_and_host(left, entries, allowed):
    """Nothing else is: a path alone is every method, and no route of one host alone."""
    assert left(*entries) == ([each for each in ALL_OPEN if each not in allowed], [])


def test_an_allow_list_that_is_of_no_use_says_so(left):
    """Each method that names no open route is told."""
    told = ["GET /head", "PATCH /items", "get /items", "GET /*", "/other/*", "other.example/x"]
    entries = ["GET /head", "GET PATCH /items", "get /items", *told[3:]]
    assert left(*entries)[1] == [
        f"keylatch: --allow {each} is of no use: no open route is there" for each in told
    ]


def test_an_application_that_cannot_be_imported_is_said_so(routes):
    """In a line that repeats nothing of what the application says."""
    for target in ("acme", "acme:nope", "nope:app", "broken:app", "--factory=acme:app"):
        done = routes(target)
        assert done.returncode in (2, 4)
        assert "canary" not in done.stderr
    assert "no module" not in routes("acme:app").stderr
    assert "ModuleNotFoundError of nope" in routes("nope:app").stderr
