"""Tokens that were found where they should not be, and how programs hand them on.

Knows the native core and keys; no command, no git and no database. Nothing here shows the secret
part of a token.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from keylatch._native import Hasher, SecretRing, Sighting, Token, mask
from keylatch.errors import InvalidHashError
from keylatch.records import APIKey

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_KEY_ID: Final = re.compile(r"[0-9a-hjkmnp-tv-z]{16}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_]{1,24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A place where a token stands.

    Attributes:
        path: Of the file, or of what was a file in a repository; None if that is not known.
        line: Counted from 1; None if it stands in the name of the file.
        column: The character of the line, counted from 1; None likewise.
        offset: Where it begins, in bytes.
        encoding: Of the token.
        repository: The repository in whose history it stands; None if it stands in a file.
        commit: The first commit that has it there, as far as there is one.
        object: The object of the repository that it stands in.
        prefix: What stands before the key id.
        key_id: The key id that stands there.
        fingerprint: The SHA-256 of the token: tells the same one elsewhere.
        checksum: Whether it is a token.
        token: The token, if it is one.
    """

    path: str | None
    line: int | None
    column: int | None
    offset: int
    encoding: Literal["utf-8", "utf-16"]
    repository: str | None = None
    commit: str | None = None
    object: str | None = None
    prefix: str
    key_id: str
    fingerprint: str
    checksum: Literal["right", "wrong"]
    token: Token | None = field(repr=False)

    @classmethod
    def of(
        cls,
        sighting: Sighting,
        path: str | None,
        *,
        repository: str | None = None,
        commit: str | None = None,
        object: str | None = None,  # noqa: A002 - as git calls it
    ) -> "Finding":
        """What was seen, and where. A path may hold a token, too."""
        in_text = sighting.line > 0
        return cls(
            path=None if path is None else mask(path),
            line=sighting.line if in_text else None,
            column=sighting.column if in_text else None,
            offset=sighting.offset,
            encoding="utf-16" if sighting.wide else "utf-8",
            repository=None if repository is None else mask(repository),
            commit=commit,
            object=object,
            prefix=sighting.prefix,
            key_id=sighting.key_id,
            fingerprint=sighting.fingerprint,
            checksum="right" if sighting.genuine else "wrong",
            token=sighting.token(),
        )

    @property
    def masked(self) -> str:
        """The token without its secret part."""
        return f"{self.prefix}_{self.key_id}_***"

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        path = self.path or f"object {(self.object or '')[:12]}"
        place = f"{path}:{self.line}:{self.column}" if self.line else f"{path} (its name)"
        if self.repository is None:
            return place
        commit = "" if self.commit is None else f" at {self.commit[:12]}"
        return f"{self.repository}{commit}: {place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known of a token, beyond its checksum.

    Attributes:
        seal_checked: Whether there was a server secret to check its seal with.
        sealed_by: The kid of the server secret that sealed it; None if none of the ring did.
        key_checked: Whether a database was asked for its key.
        key: The key that it names; None if there is none.
        proven: Whether the token is that key's, or would be; None if nothing tells.
        proof: Tells that to whoever has the server secret; None unless it is proven.
    """

    seal_checked: bool = False
    sealed_by: str | None = None
    key_checked: bool = False
    key: APIKey | None = None
    proven: bool | None = None
    proof: str | None = field(default=None, repr=False)


def prove(ring: SecretRing, key_id: str, fingerprint: str) -> str:
    """Makes what tells later that a token was right, without the token.

    Only who has a server secret can make it. The results of a search travel, and whoever could
    write into them that a token is right could have keys revoked.
    """
    return Hasher(ring).hash(_proven(key_id, fingerprint))


def is_proof(ring: SecretRing, proof: str, key_id: str, fingerprint: str) -> bool:
    """Tells whether :func:`prove` made this of the same, with a server secret of the ring."""
    if not proof.startswith("$hmac-sha256$"):
        return False
    try:
        return Hasher(ring).verify(_proven(key_id, fingerprint), proof)
    except InvalidHashError:
        return False


def _proven(key_id: str, fingerprint: str) -> str:
    # A token has no blank in it: what is hashed of one can never stand for the other.
    return f"keylatch scan: {key_id} {fingerprint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A token as the results of a search tell of it.

    Attributes:
        prefix: What stands before the key id.
        key_id: The key id that it names.
        fingerprint: The SHA-256 of the token.
        proof: What :func:`prove` has made, or None.
    """

    prefix: str
    key_id: str
    fingerprint: str
    proof: str | None = field(repr=False)


def claims(document: object) -> Iterator[Claim]:
    """Reads the JSON that ``keylatch scan --json`` has written. Look-alikes are left out.

    Raises:
        ValueError: It is not that.
    """
    rows = document.get("findings") if isinstance(document, Mapping) else None
    for row in rows if isinstance(rows, list) else [None]:
        fields: Mapping[str, Any] = row if isinstance(row, Mapping) else {}
        names = ("prefix", "key_id", "fingerprint")
        prefix, key_id, fingerprint = (str(fields.get(name)) for name in names)
        proof = fields.get("proof")
        whole = (
            _PREFIX.fullmatch(prefix)
            and _KEY_ID.fullmatch(key_id)
            and _FINGERPRINT.fullmatch(fingerprint)
            and (proof is None or isinstance(proof, str))
        )
        if not whole:
            raise ValueError(_NO_RESULTS)
        if fields.get("checksum") == "right":
            yield Claim(prefix=prefix, key_id=key_id, fingerprint=fingerprint, proof=proof)


_NO_RESULTS: Final = "this is not what `keylatch scan --json` writes: pass that as it stands"


def in_order(finding: Finding) -> tuple[object, ...]:
    """Files first, by their paths, and then what stands in history."""
    repository, path = finding.repository, finding.path
    return (
        repository is not None,
        os.fsencode(repository or ""),
        path is None,
        os.fsencode(path or ""),
        finding.line or 0,
        finding.offset,
        finding.object or "",
    )
