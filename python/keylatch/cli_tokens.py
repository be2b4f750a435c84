"""How a token reaches the command line, and what can be told of it without a database.

Knows the native core only. A token comes from standard input or a hidden prompt, never from an
argument, and nothing here shows its secret part.
"""

import getpass
import re
import sys
import warnings
from dataclasses import dataclass
from typing import Final, Literal, Self

from keylatch._native import SecretRing, parse
from keylatch.errors import InvalidTokenError

# What a credential header may hold, too.
_MAX_INPUT: Final = 4096
# Ten thousand tokens, one a line.
_MOST_INPUT: Final = 1 << 20
_MAX_TOKEN: Final = 97
# A token but for its checksum, so that one that was mistyped can still be told by its key id.
_SHAPE: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*)_([0-9a-hjkmnp-tv-z]{16})_[0-9A-Za-z]{55}"
)


def on_terminal() -> bool:
    """Whether standard input is a terminal, so that there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_token() -> str:
    """Reads a token, without the blanks around it. ``ValueError`` if there is none."""
    if on_terminal():
        token = _ask().strip()
    elif sys.stdin is not None:
        token = sys.stdin.buffer.read(_MAX_INPUT + 1).decode(errors="replace").strip()
    else:
        token = ""
    if not token:
        raise ValueError("there is no token: write one to standard input, and nothing else")
    return token


def read_tokens() -> list[str]:
    """Reads tokens, one a line; from a terminal one. ``ValueError`` if there is none."""
    if on_terminal() or sys.stdin is None:
        return [read_token()]
    text = sys.stdin.buffer.read(_MOST_INPUT + 1)
    if len(text) > _MOST_INPUT:
        raise ValueError("standard input is longer than 1 MiB: pass tokens, one a line")
    tokens = text.decode(errors="replace").split()
    del text
    if not tokens:
        raise ValueError("there is no token: write them to standard input, one a line")
    return tokens


def _ask() -> str:
    with warnings.catch_warnings():
        # Rather no prompt than one that shows what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass("Token (hidden): ")
        except getpass.GetPassWarning:
            raise ValueError(
                "this terminal would show the token: write it to standard input instead"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a text tells of itself as a token.

    Attributes:
        masked: The token without its secret part; None if the text has not a token's shape.
        prefix: Its prefix, or None.
        key_id: Its key id, or None.
        checksum: Whether it was copied whole; None if it has no checksum.
        seal_checked: Whether there was a right checksum and a server secret to check with.
        sealed_by: The kid of the server secret that sealed it; None if none of the ring did.
    """

    masked: str | None = None
    prefix: str | None = None
    key_id: str | None = None
    checksum: Literal["right", "wrong"] | None = None
    seal_checked: bool = False
    sealed_by: str | None = None

    @classmethod
    def of(cls, text: str, ring: SecretRing | None) -> Self:
        """Looks at a text, and at its seal if there are server secrets to do so."""
        shape = _SHAPE.fullmatch(text) if len(text) <= _MAX_TOKEN else None
        if shape is None:
            return cls()
        prefix, key_id = shape.groups()
        masked = f"{prefix}_{key_id}_***"
        try:
            token = parse(text)
        except InvalidTokenError:
            return cls(masked=masked, prefix=prefix, key_id=key_id, checksum="wrong")
        return cls(
            masked=masked,
            prefix=prefix,
            key_id=key_id,
            checksum="right",
            seal_checked=ring is not None,
            sealed_by=None if ring is None else token.sealed_by(ring),
        )

    def rows(self, ring: SecretRing | None) -> list[tuple[str, str]]:
        """The same for people, as labels and values."""
        if self.masked is None or self.prefix is None or self.key_id is None:
            return []
        if self.sealed_by is not None:
            seal = self.sealed_by
        elif self.checksum == "wrong":
            seal = "not checked, since the checksum is wrong"
        elif ring is None:
            seal = "not checked, since KEYLATCH_SECRET is not set"
        else:
            seal = f"none of {', '.join(ring.kids)}: imported, forged, or of a secret since retired"
        return [
            ("token", self.masked),
            ("prefix", self.prefix),
            ("key id", self.key_id),
            ("checksum", self.checksum or ""),
            ("sealed by", seal),
        ]
