"""Texts that must show nowhere, and where to look for them. Knows tokens, no test and no fault."""

import contextlib
import io
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import better_exceptions
import rich.console
import rich.traceback

import keylatch
from keylatch import Hasher, Token

PACKAGE = str(Path(keylatch.__file__).parent)


class Canaries:
    """Texts that must show nowhere. Hidden from every repr, as a user's own code would have to."""

    def __init__(self, secret: str) -> None:
        self._texts = {secret.split(":")[1]}
        self._tokens: list[str] = []

    def __repr__(self) -> str:
        return "<canaries>"

    def add(self, token: str) -> None:
        """Watches for the secret part of a token from now on."""
        self._tokens.append(token)
        self._texts.add(token.rsplit("_", 1)[1][:43])

    def add_text(self, text: str) -> None:
        """Watches for a text that is no token, such as a password or a stored hash."""
        self._texts.add(text)

    def token(self, number: int = -1) -> str:
        """A token that was added."""
        return self._tokens[number]

    def mistyped(self) -> str:
        """The last token with its last character changed: as good as the token itself."""
        token = self._tokens[-1]
        return token[:-1] + ("0" if token[-1] != "0" else "1")

    def assert_absent(self, where: str, text: str | bytes) -> None:
        """Fails, without showing the canary, if one shows in the text."""
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        # Half of a secret would do for a reader with patience.
        found = any(canary[:20] in text or canary[-20:] in text for canary in self._texts)
        assert not found, f"a canary shows in {where}"

    def assert_absent_from_error(self, error: BaseException) -> None:
        """Checks message, attributes, pickle, and tracebacks with locals in three styles."""
        self.assert_absent_from_frames(error)
        for style, text in (("rich", rich_text(error)), ("better-exceptions", better_text(error))):
            self.assert_absent(f"a traceback in the style of {style}", text)

    def assert_absent_from_frames(self, error: BaseException) -> None:
        """Checks message, attributes, pickle, traceback and the locals of our own frames."""
        self.assert_absent("the message", f"{error} {error!r} {vars(error)}")
        self.assert_absent("the pickle", pickled(error))
        self.assert_absent("a traceback", "".join(traceback.format_exception(error)))
        for chained in chain(error):
            for frame, _ in traceback.walk_tb(chained.__traceback__):
                if frame.f_code.co_filename.startswith(PACKAGE):
                    self.assert_absent(frame.f_code.co_qualname, repr(frame.f_locals))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that stand behind it, suppressed ones included."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def rich_text(error: BaseException) -> str:
    """A traceback as rich shows it, with all that is in the locals."""
    console = rich.console.Console(file=io.StringIO(), width=100_000)
    console.print(
        rich.traceback.Traceback.from_exception(
            type(error),
            error,
            error.__traceback__,
            width=100_000,
            show_locals=True,
            locals_max_length=None,
            locals_max_string=None,
            locals_hide_dunder=False,
            locals_hide_sunder=False,
        )
    )
    return console.file.getvalue()


def better_text(error: BaseException) -> str:
    """A traceback as better-exceptions shows it, with the values of all names."""
    formatter = better_exceptions.ExceptionFormatter(max_length=None)
    return "".join(formatter.format_exception(type(error), error, error.__traceback__))


def pickled(value: object) -> bytes:
    """A pickle of each protocol, as far as there is one."""
    text = b""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with contextlib.suppress(Exception):
            text += pickle.dumps(value, protocol)
    return text


class WatchedHasher:
    """Tells which tokens were hashed: a key whose creation fails never shows its token."""

    def __init__(self, hasher: Hasher, minted: list[Token]) -> None:
        self._hasher = hasher
        self._minted = minted
        self.verify = hasher.verify

    def hash(self, token: Token) -> str:
        """Hashes, and remembers the token."""
        self._minted.append(token)
        return self._hasher.hash(token)
