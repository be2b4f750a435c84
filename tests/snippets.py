"""Runs every block of a page of the documentation, in order, as a reader would.

Usage: snippets.py PAGE [HEADING], with the Python that has keylatch. CONTRIBUTING.md says how
blocks are written. Needs nothing but keylatch and what the blocks themselves use.
"""

import ast
import asyncio
import configparser
import contextlib
import importlib
import inspect
import io
import json
import linecache
import os
import re
import secrets
import socket
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from types import CodeType

from fences import Fence, fences, section
from shells import CommandFailedError, Shell, commands, serves, typed

from keylatch import SecretRing

# What no parser is at hand for. Everything else either runs or is parsed.
SHOWN = {"text", "nginx", "csv", "sql", "http", "dockerfile", "systemd", "caddy"}
# Below those that the system hands out.
_PORTS = range(20_000, 32_000)
_TOKEN = re.compile(r"\b[A-Za-z]\w*_([0-9a-hjkmnp-tv-z]{16})_[0-9A-Za-z]{55}\b")
_ELLIPSIS = re.compile(r"\b[A-Za-z]\w*_…")
_ID = re.compile(r"\bID\b")
_INSTALL = re.compile(r"^ *(?:python3? -m )?pip install (.+)$", re.MULTILINE)
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[([a-z,]+)\])?")


class Page:
    """The state that the blocks of a page share."""

    def __init__(self, name: str, folder: Path, aside: Path, variables: dict[str, str]) -> None:
        self.name, self.folder = name, folder
        self.port = free_port()
        aside.joinpath(".curlrc").write_text("silent\nshow-error\n")
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(aside),
            "LANG": "C.UTF-8",
            "UVICORN_PORT": str(self.port),
        }
        self.shell = Shell(folder, aside, environment | variables, self.port)
        self.names: dict[str, object] = {"__name__": "page"}
        self.waiting: list[str] = []
        self.loop = asyncio.Runner()
        self.shown = ""
        self.token: re.Match[str] | None = None

    def run(self, fence: Fence) -> None:
        """Runs or checks a block."""
        body = self.here(fence.body)
        if fence.title == "Output":
            self.compare(body, self.shown)
            return
        if fence.title:
            self.write(fence.title, body)
        if fence.language == "python":
            if not fence.title:
                self.load()
                self.execute(body, fence.line)
        elif fence.language == "sh":
            for command in commands(body):
                self.command(command)
        elif fence.language == "console":
            self.session(body)
        else:
            check(fence.language, body)

    def write(self, title: str, body: str) -> None:
        """Makes the file that a block is. Python is loaded when it is needed: see ``load``."""
        path = self.folder / title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, "utf-8")
        if path.suffix == ".py":
            self.waiting.append(title)

    def load(self) -> None:
        """Imports the files so far, and has their names at hand; runs those that are tests."""
        waiting, self.waiting = self.waiting, []
        os.environ.clear()
        os.environ.update(self.shell.variables())
        for title in waiting:
            file = Path(title)
            if file.name == "conftest.py":
                continue
            if file.name.startswith("test_"):
                self.command(f"python -m pytest -q -p no:cacheprovider {title}")
                continue
            importlib.invalidate_caches()
            name = ".".join(file.with_suffix("").parts)
            sys.modules.pop(name, None)
            module = importlib.import_module(name)
            self.names |= {k: v for k, v in vars(module).items() if not k.startswith("__")}

    def execute(self, code: str, line: int) -> None:
        """Runs Python in the page's one namespace, in its one event loop."""
        source = "\n" * line + code
        file = f"{self.name}:{line}"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        compiled: CodeType = compile(source, file, "exec", flags)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if compiled.co_flags & inspect.CO_COROUTINE:
                self.loop.run(self.coroutine(compiled))
            else:
                exec(compiled, self.names)
        self.show(out.getvalue())

    async def coroutine(self, compiled: CodeType) -> None:
        """Awaits what a block awaits."""
        await eval(compiled, self.names)

    def command(self, command: str) -> None:
        """Runs a part of a script, which must not fail."""
        if serves(command):
            self.show(self.shell.serve(self.filled(command)))
            return
        rest = _INSTALL.sub(installable, command)
        self.show(self.shell.run(self.filled(rest), strict=True))

    def session(self, session: str) -> None:
        """Runs what stands behind each ``$``, and compares what it shows."""
        pairs = typed(session)
        for number, (command, expected) in enumerate(pairs):
            if serves(command):
                shown = self.shell.serve(self.filled(command))
            else:
                rest = _INSTALL.sub(installable, command)
                shown = self.shell.run(self.filled(rest), strict=False)
                asked = number + 1 < len(pairs) and pairs[number + 1][0] == "echo $?"
                if self.shell.status and not asked:
                    raise CommandFailedError(f"{command}\nended with {self.shell.status}:\n{shown}")
            self.show(shown)
            if expected.strip() or not serves(command):
                self.compare(expected, shown)

    def compare(self, expected: str, shown: str) -> None:
        """Holds what a block showed to what the page says; ``…`` stands for anything."""
        pattern = re.escape(self.filled(expected).strip()).replace("…", "(?:.|\n)*?")
        lines = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        if not re.fullmatch(pattern, lines):
            raise CommandFailedError(f"expected:\n{expected}\nshown:\n{shown}")

    def show(self, text: str) -> None:
        """Remembers what was shown last, and the last token in it."""
        self.shown = text
        for self.token in _TOKEN.finditer(text):
            pass

    def here(self, body: str) -> str:
        """The text with the port that this page has instead of 8000."""
        return re.sub(r"(?<=[:= ])8000\b", str(self.port), body)

    def filled(self, command: str) -> str:
        """The text with the last token instead of ``acme_live_…``, and its id instead of ID."""
        if self.token is None:
            if _ELLIPSIS.search(command):
                raise CommandFailedError(f"{command}\nno block before this has shown a token")
            return command
        return _ID.sub(self.token[1], _ELLIPSIS.sub(self.token[0], command))

    def close(self) -> None:
        """Loads what nothing loaded, and ends what runs; a server must not have stumbled."""
        try:
            self.load()
        finally:
            self.loop.close()
            self.shell.close()
        if self.shell.log.exists() and "Traceback" in self.shell.log.read_text():
            raise CommandFailedError(self.shell.log.read_text())


def free_port() -> int:
    """A port that nobody listens on, nor is given by the system while the page runs."""
    while True:
        port = secrets.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def check(language: str, body: str) -> None:
    """Parses what does not run."""
    if language == "json":
        json.loads(body)
    elif language == "toml":
        tomllib.loads(body)
    elif language == "yaml":
        import yaml  # a newcomer's environment has none, and needs none

        list(yaml.safe_load_all(body))
    elif language == "ini":
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        parser.read_string(body)
    elif language not in SHOWN:
        raise LookupError(f"{language or 'no language'!r}: CONTRIBUTING.md names the languages")


def installable(match: re.Match[str]) -> str:
    """Checks that what a page has installed is there, with its extras; gives what runs instead."""
    for name, extras in _REQUIREMENT.findall(re.sub(r"[\"']|(?:^| )-\S+", " ", match[1])):
        package = "keylatch" if name == "." else name  # in a clone
        offered = metadata.metadata(package).get_all("Provides-Extra") or []
        missing = set(filter(None, extras.split(","))) - set(offered)
        if missing:
            raise LookupError(f"{name} has no extra {missing}")
    return ":"


def run(path: Path, heading: str | None = None) -> None:
    """Runs a page, or a part of it, in an empty folder."""
    text = path.read_text("utf-8")
    blocks = fences(section(text, heading) if heading else text)
    exports = any("export KEYLATCH_SECRET" in fence.body for fence in blocks)
    variables = {} if exports else {"KEYLATCH_SECRET": SecretRing.generate()}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside:
        os.chdir(folder)
        sys.path.insert(0, folder)
        page = Page(path.name, Path(folder), Path(aside), variables)
        with contextlib.closing(page):
            for fence in blocks:
                try:
                    page.run(fence)
                except BaseException as error:
                    error.add_note(f"in the block at {path}:{fence.line}")
                    raise


def main() -> None:
    """Runs the page that is named."""
    run(Path(sys.argv[1]).resolve(), *sys.argv[2:])


if __name__ == "__main__":
    main()
