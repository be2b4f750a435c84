"""A shell that a page's commands run in, one after the other. Knows neither pages nor keylatch.

What a command exports holds for those behind it. A server stays in the background as if in a
terminal of its own, until the next one takes its place or the shell ends.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

_SERVER = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:uvicorn|gunicorn|fastapi (?:run|dev)) ")
_END = "\x1eend of the command:"
_PATIENCE = 60  # seconds until a server listens


class CommandFailedError(Exception):
    """A command of the page did not do what the page says."""


class Shell:
    """Bash, in a folder, with an environment."""

    def __init__(self, folder: Path, aside: Path, environment: dict[str, str], port: int) -> None:
        self.aside, self.port = aside, port
        self.status = 0
        self.log = aside / "server.log"
        self.server: int | None = None
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, *, strict: bool) -> str:
        """What the command wrote. Strictly, it ends at the first failure, as with ``set -e``."""
        script = self.aside / "command.sh"
        script.write_text(f"set -e\n{command}\nset +e\n" if strict else f"{command}\n", "utf-8")
        quoted = shlex.quote(str(script))
        self._say(f"(exit {self.status}); source {quoted} </dev/null; status=$?")
        output, self.status = self._finish()
        if strict and self.status:
            raise CommandFailedError(f"{command}\nended with {self.status}:\n{output}")
        return output

    def variables(self) -> dict[str, str]:
        """What is exported by now."""
        path = self.aside / "environment"
        self._say(f"env -0 >{shlex.quote(str(path))}; status=$?")
        self._finish()
        pairs = path.read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def serve(self, command: str) -> str:
        """Starts a server in the place of the one before, and returns once it listens."""
        self.stop()
        log = shlex.quote(str(self.log))
        self._say(f"{command} </dev/null >>{log} 2>&1 & echo $!; status=0")
        output, _ = self._finish()
        self.server = int(output)
        deadline = time.monotonic() + _PATIENCE
        while not self._listening():
            if not _alive(self.server) or time.monotonic() > deadline:
                raise CommandFailedError(f"{command} serves nothing:\n{self.log.read_text()}")
            time.sleep(0.05)
        return self.log.read_text()

    def stop(self) -> None:
        """Ends the server, and waits for it."""
        if self.server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server, signal.SIGTERM)
        self._say(f"wait {self.server}; status=0")
        self._finish()
        self.server = None

    def close(self) -> None:
        """Ends everything that still runs."""
        with contextlib.suppress(CommandFailedError):
            self.stop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _say(self, line: str) -> None:
        self.process.stdin.write(f"{line}; printf '\\n{_END}%s\\n' \"$status\"\n")
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.flush()

    def _finish(self) -> tuple[str, int]:
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith(_END):
                return "".join(lines).removesuffix("\n"), int(line.removeprefix(_END))
            lines.append(line)
        raise CommandFailedError(f"the shell ended:\n{''.join(lines)}")

    def _listening(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def serves(command: str) -> bool:
    """Whether a command is a server that would keep its terminal."""
    return bool(_SERVER.match(command)) and not command.rstrip().endswith("&")


def commands(script: str) -> list[str]:
    """The parts of a script that are to run one by one: each server, and what is between them."""
    parts: list[str] = []
    between = ""
    for line in script.replace("\\\n", "\\\0").splitlines(keepends=True):
        whole = line.replace("\\\0", "\\\n")
        if serves(whole):
            parts += [between, whole.rstrip("\n")]
            between = ""
        else:
            between += whole
    return [part for part in [*parts, between] if part.strip()]


def typed(session: str) -> list[tuple[str, str]]:
    """The commands of a session as it stands in a terminal, each with what it shows."""
    pairs: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        match = re.match(r"(?:.*\\\n)*.*\n?", part)
        pairs.append((match[0].rstrip("\n"), part[match.end() :]))
    return pairs


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A child that has ended stays as a zombie until its shell looks.
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
