"""Writes what the fuzz targets begin with: the vectors of the formats, and the hostile headers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
VECTORS = json.loads((TESTS / "vectors" / "keylatch-v1.json").read_text())
IMPORTED = json.loads((TESTS / "vectors" / "imported-v1.json").read_text())
HOSTILE = json.loads((TESTS / "hostile" / "headers.json").read_text())["cases"]


def tokens() -> Iterator[str]:
    """Tokens, and what is none."""
    for kind in ("tokens", "malformed", "forged"):
        yield from (case["token"] for case in VECTORS[kind])
    yield from (case["token"] for case in IMPORTED["ids"])


def headers() -> Iterator[str]:
    """The hostile headers as the target reads them, for each choice of sources."""
    token, other = (case["token"] for case in VECTORS["tokens"][:2])
    for case in HOSTILE:
        lines = [f"{name}\x1f{value}" for name, value in case["headers"]]
        text = "\x1e".join(lines).replace("{token}", token).replace("{other}", other)
        yield from (f"{choice}{text}" for choice in "\0\1\2\4")
    yield f'\x1ccookie\x1fa=b; key={token}; key="{token}"; c="d;key={other}\x1e?\x1fkey={token}'
    yield f"\x18?\x1fb=c&k%65y={token.replace('_', '%5F')}&key=+%zz&d"


def stored_hashes() -> Iterator[str]:
    """Stored hashes of both schemes."""
    for kind in ("hashes", "argon2id"):
        yield from (case["stored"] for case in VECTORS[kind])


def server_secrets() -> Iterator[str]:
    """The ring, and each of its entries."""
    yield VECTORS["secret_ring"]
    yield from VECTORS["secret_ring"].split(",")


SEEDS = {
    "token": tokens,
    "headers": headers,
    "stored_hash": stored_hashes,
    "server_secret": server_secrets,
}


def main() -> None:
    """Writes the seeds of a target into a directory."""
    target, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(SEEDS[target]()):
        encoded = text.encode("latin-1") if target == "headers" else text.encode()
        (directory / f"seed-{number}").write_bytes(encoded)


if __name__ == "__main__":
    main()
