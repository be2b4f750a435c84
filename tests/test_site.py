"""The documentation's site: built without a warning, whole, and seen in a real browser."""

import functools
import http.server
import inspect
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import product
from pathlib import Path

import browsers
import pytest
from playwright.sync_api import Page
from test_typing_cover import BESIDES, MODULES, place, public

import keylatch
from keylatch import APIKeys, SecretRing, errors
from keylatch.asgi import APIKeyMiddleware
from keylatch.fastapi import APIKeyAuth
from keylatch.memory import MemoryStore
from keylatch.prometheus import HealthCollector

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = ROOT / "target" / "site"
# In CSS pixels: a desktop's window and a telephone's.
WIDTHS = {"wide": 1280, "narrow": 390}
# What reaches out of the page to the right, but for what scrolls in a box of its own.
CUT_OFF = """() => {
    const page = document.documentElement
    const scrolls = element => {
        for (let box = element; box && box !== document.body; box = box.parentElement) {
            if (getComputedStyle(box).overflowX !== "visible") return true
        }
        return false
    }
    const over = [...document.querySelectorAll("article *, header *")]
        .filter(each => each.getBoundingClientRect().right > page.clientWidth + 1)
        .filter(each => !scrolls(each))
        .map(each => each.outerHTML.slice(0, 120))
    return page.scrollWidth > page.clientWidth ? ["the page", ...over] : over
}"""
# Whether the page is as bright, or as dark, as the system asks for.
LOOKS = """scheme => {
    const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)
    return (r + g + b > 384) === (scheme === "light")
}"""


@pytest.fixture(scope="module")
def built() -> subprocess.CompletedProcess[str]:
    """What the tool of ``make docs`` said when it built the site."""
    tool = [sys.executable, ROOT / "tools" / "check_site.py", ROOT]
    return subprocess.run(tool, capture_output=True, text=True, check=False, timeout=180)


@pytest.fixture(scope="module")
def site(built) -> Iterator[str]:
    """The address of the built site."""
    assert built.returncode == 0, built.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def window() -> Iterator[Callable[[], Page]]:
    """Opens windows of one browser."""
    with browsers.browser() as window:
        yield window


def test_the_site_is_built_without_a_warning(built):
    """No broken link or anchor, no page that nobody finds, nothing from another host."""
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize("module", [*MODULES, *BESIDES])
def test_the_reference_has_every_public_name(site, module):
    """Each by the name under which it is imported, or by that of where it is defined."""
    inventory = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = set(re.findall(r"^(\S+) py:", zlib.decompress(inventory).decode(), re.MULTILINE))
    for name, thing in public(module).items():
        assert {f"{module}.{name}", place(thing, name)} & documented, name


def test_the_reference_shows_no_roles_and_nothing_private(site):
    """Docstrings have roles as Sphinx knows them, which are links and code here."""
    for path in (SITE / "reference").rglob("*.html"):
        html = path.read_text("utf-8")
        assert re.findall(r":(?:class|data|func|meth):|::\s*<", html) == []
        assert re.findall(r'id="keylatch[\w.]*\._(?!_call__)', html) == []


def test_the_reference_of_the_command_line_is_what_the_command_says():
    """Every command, argument and option: ``make docs-cli`` writes the page anew."""
    tool = [sys.executable, ROOT / "tools" / "cli_reference.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_answers_are_all_there():
    """Every status and code that an error class has stands in the table."""
    page = (DOCS / "reference" / "answers.md").read_text("utf-8")
    for error in (*errors.AuthenticationError.__subclasses__(), errors.UnavailableError):
        assert f"| {error.status} | `{error.code}` |" in page


def test_the_settings_are_all_there():
    """Every argument of a collection, and each that dependency and middleware share."""
    page = (DOCS / "reference" / "settings.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    own = {"self", "app", "keys", "scopes", "exclude", "problem_json"}
    for kind in (APIKeys, APIKeyAuth, APIKeyMiddleware):
        assert set(inspect.signature(kind.__init__).parameters) - own <= rows
    package = Path(keylatch.__file__).parent
    source = "".join(path.read_text("utf-8") for path in package.glob("*.py"))
    assert set(re.findall(r"KEYLATCH_[A-Z]+", source)) <= rows


def test_the_metrics_are_all_there():
    """Each number of a collection's health, with its name in Prometheus."""
    page = (DOCS / "operations.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`.*? \| `(keylatch_\w+)", page, re.MULTILINE))
    keys = APIKeys(MemoryStore(), prefix="acme_live", secret=SecretRing.generate())
    assert {*rows} | {"misses", "hit_rate"} >= {*asdict(keys.health())} - {"refusals"}
    collected = list(HealthCollector(keys).collect())
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in collected}
    assert {*rows.values()} | {"keylatch_refusals_total"} == names


def test_no_page_is_cut_off(site, window):
    """On a desktop and a telephone, by day and night, and the console has no complaint."""
    pages = sorted(path.parent.relative_to(SITE) for path in SITE.rglob("index.html"))
    assert len(pages) > 10
    said: list[str] = []
    with closing(window()) as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in pages:
            page.goto(f"{site}/{path}/", wait_until="load")
            name = str(path).replace("/", "-").replace(".", "start")
            for scheme, (width, pixels) in product(("light", "dark"), WIDTHS.items()):
                page.set_viewport_size({"width": pixels, "height": 900})
                page.emulate_media(color_scheme=scheme)
                page.wait_for_function(LOOKS, arg=scheme)
                assert page.evaluate(CUT_OFF) == [], (path, width, scheme)
                browsers.keep(page, f"site-{name}-{width}-{scheme}")
    assert said == []
