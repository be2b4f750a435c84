"""The command line: runs it, and turns whatever goes wrong into one line and an exit code.

Knows no command, and loads Typer only after it has seen that it is installed.
"""

import io
import logging
import re
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib.util import find_spec
from typing import Final

from keylatch.cli_output import OutputError, ReaderGoneError, say
from keylatch.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidTokenError,
    KeyStateError,
    UnavailableError,
    UnknownKeyError,
)

# A token, also one that was mistyped or cut: it is looked for anywhere in an argument.
_LIKE_A_TOKEN: Final = re.compile(r"_[0-9A-Za-z]{16}_[0-9A-Za-z]{12}")
# What Typer repeats of an argument may be a secret of another format.
_LIKE_A_SECRET: Final = re.compile(r"[\w+/=-]{32,}")


class ExitCode(IntEnum):
    """What the process ends with. Scripts rely on the numbers: they stay."""

    FINE = 0
    REFUSED = 1
    USAGE = 2
    UNKNOWN_KEY = 3
    CONFIGURATION = 4
    UNAVAILABLE = 5
    ENDED = 6
    UNREAD = 7
    DEFECT = 70
    OUTPUT = 74
    STOPPED = 130
    READER_GONE = 141


_EXIT_CODES: Final[Sequence[tuple[type[Exception], ExitCode]]] = (
    (AuthenticationError, ExitCode.REFUSED),
    (InvalidTokenError, ExitCode.REFUSED),
    (UnknownKeyError, ExitCode.UNKNOWN_KEY),
    (ConfigurationError, ExitCode.CONFIGURATION),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (KeyStateError, ExitCode.ENDED),
    (ReaderGoneError, ExitCode.READER_GONE),
    (OutputError, ExitCode.OUTPUT),
)


def main() -> int:
    """Runs ``keylatch`` with the arguments of the process, and returns its exit code."""
    # What the library logs, its errors say as well.
    logging.getLogger("keylatch").addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:])
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except Exception as error:
        code = _exit_code(error)
        if code is ExitCode.DEFECT:
            # Neither the error's text nor a traceback: either may hold a token.
            say(f"{type(error).__name__}, which is a defect of keylatch: please report it")
        elif code is not ExitCode.READER_GONE:
            say(str(error))
        raise SystemExit(code) from error


def _exit_code(error: Exception) -> ExitCode:
    for kind, code in _EXIT_CODES:
        if isinstance(error, kind):
            return code
    # The bounds of what people pass in are plain ValueErrors; a UnicodeError, say, is not theirs.
    return ExitCode.USAGE if type(error) is ValueError else ExitCode.DEFECT


def _run(arguments: Sequence[str]) -> int:
    if any(_LIKE_A_TOKEN.search(argument) for argument in arguments):
        raise ValueError(
            "an argument looks like a token, and arguments show in the shell's history and in "
            "the list of processes: pass it on standard input, and revoke it if it is in use"
        )
    if sys.stdout is None:
        raise OutputError("standard output is closed, and nothing was done: open it")
    for package in ("typer", "rich", "sqlalchemy"):
        if find_spec(package) is None:
            raise ConfigurationError(f'{package} is not installed: pip install "keylatch[cli]"')

    import typer

    from keylatch.cli_commands import app

    try:
        code = app(arguments or ["--help"], prog_name="keylatch", standalone_mode=False)
    except typer.Abort:
        say("stopped, nothing was changed")
        return ExitCode.STOPPED
    except typer.TyperException as error:
        text = _LIKE_A_SECRET.sub("***", error.format_message()).rstrip(".")
        say(f"{text} (see keylatch --help)")
        return ExitCode.USAGE
    return code or ExitCode.FINE
