"""Which server secrets stored hashes need, and how many keys need each. Knows no store."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

_KID: Final = re.compile(r"[a-z0-9]{1,8}")


def kid_of(stored: str) -> str | None:
    """The kid of the server secret that a stored hash needs; None if it needs none."""
    return kid_in(stored[:2], stored.partition("id=")[2].partition("$")[0])


def kid_in(scheme: str, text: str) -> str | None:
    """The same out of parts of a stored hash, which databases can tell.

    Args:
        scheme: Its first two characters.
        text: What stands behind ``kid=`` or ``keyid=``, up to a ``$``; empty if there is neither.
    """
    if scheme == "$a":  # argon2id has it in B64
        try:
            text = base64.b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        except ValueError:
            return None
    elif scheme != "$h":
        return None
    return text if _KID.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class SecretUse:
    """How many keys need a server secret.

    Attributes:
        kid: Its name; None for keys whose hash needs none, as that of another library may.
        living: Keys that may still open something.
        dead: Keys that were revoked or have expired. They open nothing with any secret, so that
            none is kept for them.
        imported: Of the living, those whose tokens were imported. They do not move to another
            secret by themselves: each is rotated, or ended.
    """

    kid: str | None
    living: int = 0
    dead: int = 0
    imported: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStatus:
    """How far keys have moved to the active server secret.

    Attributes:
        active: The kid of the secret that mints and hashes.
        retired: The kids of those that only verify.
        uses: What each secret is needed for, those of the ring first.
    """

    active: str
    retired: Sequence[str]
    uses: Sequence[SecretUse]

    @classmethod
    def of(cls, ring: Sequence[str], counted: Iterable[SecretUse]) -> Self:
        """Puts together the kids of a ring, the active one first, and what a store counted."""
        found = {use.kid: use for use in counted}
        uses = [found.pop(kid, SecretUse(kid)) for kid in ring]
        uses += sorted(found.values(), key=lambda use: (use.kid is None, use.kid))
        return cls(active=ring[0], retired=ring[1:], uses=uses)

    @property
    def removable(self) -> Sequence[str]:
        """The retired kids that no living key needs: these secrets can leave the ring."""
        return [kid for kid in self.retired if kid not in self._needed]

    @property
    def missing(self) -> Sequence[str]:
        """The kids that living keys need and the ring lacks: such a key is answered with 503."""
        ring = [self.active, *self.retired]
        return [kid for kid in self._needed if kid not in ring]

    @property
    def done(self) -> bool:
        """Whether no living key needs another secret than the active one."""
        return all(kid == self.active for kid in self._needed)

    @property
    def _needed(self) -> Sequence[str]:
        return [use.kid for use in self.uses if use.living and use.kid is not None]
