"""The documentation's site: built without a warning, whole, and seen in a real browser."""

import functools
import http.server
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import browsers
import pytest
from playwright.sync_api import Page
from test_typing_cover import BESIDES, MODULES, place, public

ROOT = Path(__file__).parent.parent
SITE = ROOT / "target" / "site"
# In CSS pixels: a desktop's window and a telephone's.
WIDTHS = {"wide": 1280, "narrow": 390}
# What reaches out of the page to the right, but for what scrolls in a box of its own.
CUT_OFF = """() => {
    const width = document.documentElement.clientWidth
    const scrolls = element => {
        for (let box = element; box && box !== document.body; box = box.parentElement) {
            const way = getComputedStyle(box).overflowX
            if (way === "auto" || way === "scroll" || way === "hidden") return true
        }
        return false
    }
    return [...document.querySelectorAll("article *")]
        .filter(element => element.getBoundingClientRect().right > width + 1 && !scrolls(element))
        .map(element => element.outerHTML.slice(0, 120))
}"""


@pytest.fixture(scope="module")
def built() -> subprocess.CompletedProcess[str]:
    """What the tool of ``make docs`` said when it built the site."""
    tool = [sys.executable, ROOT / "tools" / "check_site.py"]
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


def test_the_reference_of_the_command_line_is_what_the_command_says():
    """Every command, argument and option: ``make docs-cli`` writes the page anew."""
    tool = [sys.executable, ROOT / "tools" / "cli_reference.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_cut_off(site, window, width, scheme):
    """On a desktop and a telephone, by day and night, and the console has no complaint."""
    pages = sorted(path.parent.relative_to(SITE) for path in SITE.rglob("index.html"))
    assert len(pages) > 10
    with closing(window()) as page:
        page.set_viewport_size({"width": WIDTHS[width], "height": 900})
        page.emulate_media(color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        backgrounds = set()
        for path in pages:
            page.goto(f"{site}/{path}/", wait_until="load")
            name = str(path).replace("/", "-").replace(".", "start")
            assert page.evaluate(CUT_OFF) == [], path
            scroll = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            has, shows = page.evaluate(scroll)
            assert has <= shows, path
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            browsers.keep(page, f"site-{name}-{width}-{scheme}")
        assert said == []
    (background,) = backgrounds
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness > 128) == (scheme == "light")
