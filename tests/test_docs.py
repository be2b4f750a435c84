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
from playwright.sync_api import Page

SERVE = Path(__file__).parent.parent / "examples" / "demo" / "serve.py"


@pytest.fixture(scope="module")
def window() -> Iterator[Callable[[], Page]]:
    """Opens windows of one browser."""
    with browsers.browser() as window:
        yield window


@pytest.fixture(scope="module")
def demo(window, tmp_path_factory) -> Iterator[tuple[str, str, str]]:
    """The running demo: its address, a token without scopes, and one of an administrator."""
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
        reader, admin = (
            re.search(rf"^# 200: {which}.*\ncurl .*[ :](\w+)'", said, re.MULTILINE)[1]
            for which in ("a protected route", "a key that has it")
        )
        yield url, reader, admin
    finally:
        process.kill()
        process.communicate()


def test_authorize_takes_a_real_token(demo, window):
    """401 without a token, 200 with one, 403 where it lacks the scope, and 401 logged out."""
    url, reader, admin = demo
    with closing(window()) as page:
        docs = Docs.of(page, url)
        assert docs.execute("get", "/me") == 401
        docs.authorize(reader)
        assert docs.execute("get", "/me") == 200
        assert docs.execute("get", "/reports") == 403
        browsers.keep(page, "docs-403")
        docs.log_out()
        assert docs.execute("get", "/me") == 401
        docs.authorize(admin)
        assert docs.execute("get", "/reports") == 200
        browsers.keep(page, "docs-200")


def test_authorize_takes_it_for_the_other_header_too(demo, window):
    """The dialog offers the other header that the routes take a token in, and it works."""
    url, reader, _ = demo
    with closing(window()) as page:
        docs = Docs.of(page, url)
        docs.authorize(reader, "APIKey-X-API-Key")
        assert docs.execute("get", "/me") == 200
        docs.scheme("APIKey-X-API-Key")
        browsers.keep(page, "docs-authorize")


def test_the_page_is_the_one_that_fastapi_names(demo):
    """The browser is given what the CDN would give: Swagger UI of that major version."""
    page = httpx2.get(f"{demo[0]}/docs").text
    assert re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page) == [
        f"{browsers.CDN}swagger-ui.css",
        f"{browsers.CDN}swagger-ui-bundle.js",
    ]
    bundle = browsers.of_cdn("swagger-ui-bundle.js").read_text(encoding="utf-8")
    assert re.search(r'PACKAGE_VERSION:"(\d+)\.', bundle)[1] == "5"


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_browser_that_is_missing_is_said_so(ci, tmp_path):
    """Without one these tests are skipped, and the last lines say how many; in CI they fail."""
    command = [sys.executable, "-m", "pytest", "-n0", "-k", "takes", __file__]
    run = subprocess.run(
        command,
        env=os.environ | {"PATH": str(tmp_path), "CI": ci},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == (1 if ci else 0), run.stdout
    told = f"{browsers.WITHOUT}: 2 {'error' if ci else 'skipped'}"
    assert told in run.stdout.splitlines()
