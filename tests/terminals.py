"""A terminal that the command line runs in, for tests."""

import signal
from typing import Any

import pexpect


class Terminal:
    """Runs ``keylatch`` in a pseudo-terminal of so many columns."""

    def __init__(self, cli: Any, *arguments: str, columns: int = 80, **env: str) -> None:
        self.child = pexpect.spawn(
            cli.script,
            list(arguments),
            env=cli.env | {"TERM": "xterm-256color"} | env,
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=60,
            # Whoever runs the tests in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.shown = ""

    def answer(self, question: str, line: str) -> None:
        """Waits for a question, and types a line."""
        self.child.expect_exact(question)
        self.shown += self.child.before + self.child.after
        if "hidden" in question:
            assert self.child.waitnoecho()
        self.child.sendline(line)

    def interrupt(self, question: str) -> None:
        """Waits for a question, and presses Ctrl-C."""
        self.child.expect_exact(question)
        if "hidden" in question:
            assert self.child.waitnoecho()
        self.child.sendintr()
        # A signal between the question and the read that follows it is seen with the next one.
        for _ in range(60):
            if self.child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=1) == 0:
                self.shown += self.child.before
                break
            self.child.sendintr()

    def end(self) -> int | None:
        """Returns the exit code, once it has ended."""
        self.child.expect(pexpect.EOF)
        self.shown += self.child.before
        self.child.wait()  # or it would be hung up on, on its way out
        self.child.close()
        assert "Traceback" not in self.shown
        code: int | None = self.child.exitstatus
        return code
