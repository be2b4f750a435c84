"""A headless Chromium for tests. Knows nothing of keylatch.

Without one a test is skipped, and the closing summary says so; in CI it fails.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, sync_playwright

# As Debian, Ubuntu, Fedora and Google call it.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WITHOUT = f"no browser of these is installed: {', '.join(PROGRAMS)}"
SCREENSHOTS = Path(__file__).parent.parent / "target" / "screenshots"
# What FastAPI's /docs loads; a package has the same files.
CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"


@contextmanager
def browser() -> Iterator[Callable[[], Page]]:
    """Gives what opens a window, each with nothing of the others."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(WITHOUT, pytrace=False)
        pytest.skip(WITHOUT)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, timeout=60_000)

        def window() -> Page:
            page = chromium.new_page(viewport={"width": 1280, "height": 1100})
            page.set_default_timeout(20_000)
            page.route("**", answer)
            return page

        yield window
        chromium.close()


def answer(route: Route) -> None:
    """Lets requests to this machine pass, and answers those to the CDN out of the package."""
    url = route.request.url
    if urlsplit(url).hostname == "127.0.0.1":
        route.continue_()
    elif url.startswith(CDN):
        route.fulfill(path=of_cdn(url.removeprefix(CDN)))
    else:
        route.abort()  # the icon of the window


def of_cdn(name: str) -> Path:
    """A file that the CDN would give."""
    (package,) = find_spec("fastapi_offline").submodule_search_locations
    return Path(package) / "static" / name


def keep(page: Page, name: str) -> Path:
    """Takes a picture of what there is to see."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path)
    return path


def summarise(reporter: pytest.TerminalReporter) -> None:
    """Says how many tests went without a browser, in whatever process."""
    for outcome in ("skipped", "failed", "error"):
        count = sum(WITHOUT in str(report.longrepr) for report in reporter.getreports(outcome))
        if count:
            reporter.section("browser")
            reporter.line(f"{WITHOUT}: {count} {outcome}")
