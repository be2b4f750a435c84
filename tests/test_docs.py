"""The Authorize button of ``/docs``, in a real browser: the demo, as a newcomer sees it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import browsers
import httpx2
import pytest
from docs_pages import Docs
from examples import serving
from playwright.sync_api import Page

from keylatch import SecretRing

SERVE = Path(__file__).parent.parent / "examples" / "demo" / "serve.py"


@pytest.fixture(scope="module")
def window() -> Iterator[Callable[[], Page]]:
    """Opens windows of one browser."""
    with browsers.browser() as window:
        yield window


@pytest.fixture(scope="module")
def demo(window, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The running demo: its address, and a token of a key without scopes."""
    data = tmp_path_factory.mktemp("demo")
    command = [sys.executable, SERVE, "--port", "0", "--data", data]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        url = re.search(r"(http://127.0.0.1:\d+)/docs", said)[1]
        yield url, re.search(r"Bearer (\w+)", said)[1]
    finally:
        process.kill()
        process.communicate()


def test_authorize_takes_a_real_token(demo, window):
    """200 with a token, 403 where it lacks the scope, and 401 logged out."""
    url, token = demo
    with closing(window()) as page:
        docs = Docs.of(page, url)
        docs.authorize(token)
        assert docs.execute("get", "/me") == 200
        browsers.keep(page, "docs-200")
        assert docs.execute("get", "/reports") == 403
        browsers.keep(page, "docs-403")
        docs.log_out()
        assert docs.execute("get", "/me") == 401


def token_of_existing(address: str) -> str:
    """Signs up."""
    return httpx2.post(f"{address}/users", json={"name": "ada"}).json()["token"]


def token_of_saas(address: str) -> str:
    """Signs up, logs in, and makes a key."""
    with httpx2.Client(base_url=f"{address}/console") as client:
        ada = {"email": "ada@example.com", "password": "note by note"}
        client.post("/signup", json=ada | {"organisation": "Analytical Engines"})
        client.post("/login", json=ada)
        wanted = {"name": "docs", "scopes": ["notes:read"]}
        return client.post("/keys", json=wanted).json()["token"]


@pytest.mark.parametrize(
    ("name", "token_of", "path", "scheme"),
    [
        ("existing", token_of_existing, "/tasks", "APIKey"),
        ("saas", token_of_saas, "/v1/notes", "APIKey-X-API-Key"),
    ],
    ids=["existing", "saas"],
)
def test_authorize_works_in_the_examples(name, token_of, path, scheme, window, tmp_path):  # noqa: PLR0917
    """Where a key leads to the application's own user, too, and for the other header."""
    variables = {"KEYLATCH_SECRET": SecretRing.generate()}
    with serving(name, tmp_path, variables) as address, closing(window()) as page:
        docs = Docs.of(page, address)
        docs.authorize(token_of(address), scheme)
        assert docs.execute("get", path) == 200
        docs.scheme(scheme)
        browsers.keep(page, f"docs-{name}")


def test_the_page_is_the_one_that_fastapi_names(demo):
    """The browser is given what the CDN would give: Swagger UI of that major version."""
    page = httpx2.get(f"{demo[0]}/docs").text
    assert re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page) == [
        f"{browsers.CDN}swagger-ui.css",
        f"{browsers.CDN}swagger-ui-bundle.js",
    ]
    bundle = browsers.of_cdn("swagger-ui-bundle.js").read_text(encoding="utf-8")
    assert re.search(r'PACKAGE_VERSION:"(\d+)\.', bundle)[1] == "5"


def test_a_browser_that_is_missing_is_said_so(tmp_path):
    """Without one these tests are skipped, and the last lines say how many; in CI they fail."""
    command = [sys.executable, "-m", "pytest", "-n0", "-k", "takes", __file__]
    runs = {
        ci: subprocess.Popen(
            command,
            env=os.environ | {"PATH": str(tmp_path), "CI": ci},
            stdout=subprocess.PIPE,
            text=True,
        )
        for ci in ("", "true")
    }
    for ci, run in runs.items():
        said = run.communicate(timeout=60)[0]
        assert run.returncode == (1 if ci else 0), said
        assert f"{browsers.WITHOUT}: 1 {'error' if ci else 'skipped'}" in said.splitlines()
