"""Makes trees and repositories with planted tokens and look-alikes, and knows where each stands.

Knows the token format; not what searches them.
"""

import base64
import hashlib
import io
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from keylatch import SecretRing, mint

BLOCK = 1 << 20
WORDS = ["self", "token", "request_id", "return", "import", "key", "user_name", "data_0", "if"]
# Of each of these so many in the planted places.
KINDS = ("token", "checksum", "alphabet", "cut", "utf-16")
FILES_OF_A_COMMIT = 20


@dataclass
class Made:
    """What was made.

    Attributes:
        files: How many.
        bytes: In all of them.
        planted: How many tokens and look-alikes.
        tokens: Each genuine one: its file, where in there it begins, and its SHA-256.
    """

    files: int = 0
    bytes: int = 0
    planted: int = 0
    tokens: set[tuple[str, int, str]] = field(default_factory=set)


def block(line: Callable[[], str]) -> bytes:
    """A mebibyte of lines, of which each is made anew."""
    found = bytearray()
    while len(found) < BLOCK:
        found += line().encode()
    return bytes(found)


def blocks(chance: random.Random) -> list[bytes]:
    """A mebibyte of each kind of content."""

    def code() -> str:
        words = (chance.choice(WORDS) for _ in range(chance.randrange(1, 12)))
        return " " * 4 * chance.randrange(4) + " ".join(words) + "\n"

    def log() -> str:
        number = f"{chance.getrandbits(128):032x}"
        return f"2026-01-01T12:00:00Z INFO {number} GET /api/v1/items_{number[:6]} 200\n"

    noise = chance.randbytes(BLOCK)
    return [
        block(code),
        block(code),
        block(log),
        base64.encodebytes(noise),
        base64.b64encode(noise),
        noise.hex().encode(),
        noise,
    ]


def plant(kind: str, ring: SecretRing, chance: random.Random) -> tuple[bytes, int, str | None]:
    """A token, or what must not be taken for one: its bytes, its place in them, its SHA-256."""
    token = mint(chance.choice(("acme_live", "acme_test", "MV_SECRET")), ring)
    fingerprint = hashlib.sha256(token.encode()).hexdigest()
    if kind == "checksum":
        token = token[:-1] + ("0" if token[-1] != "0" else "1")
    elif kind == "alphabet":
        token = f"{token[:-72]}l{token[-71:]}"  # no letter of a key id
    elif kind == "cut":
        token = token[: -chance.randrange(1, 50)] + "-"
    encoding = "utf-16-le" if kind == "utf-16" else "utf-8"
    before = "\nKEY=".encode(encoding)
    whole = before + f"{token}\n".encode(encoding)
    return whole, len(before), fingerprint if kind in ("token", "utf-16") else None


def sizes(total: int, chance: random.Random) -> list[int]:
    """Sizes of files: most are small, and most bytes are in large ones."""
    found: list[int] = []
    while sum(found) < total // 2:
        found.append(int(chance.lognormvariate(9.5, 1.2)))
    while sum(found) < total:
        found.append(chance.choice((1, 4, 16, 64)) << 20)
    return found


def fill(file: BinaryIO, content: bytes, start: int, left: int) -> int:
    """Writes so much of a content, from a place on. Tells where that ends."""
    while left > 0:
        piece = content[start : start + left]
        start = (start + len(piece)) % len(content)
        left -= len(piece)
        file.write(piece)
    return start


def write(
    file: BinaryIO, content: bytes, size: int, kinds: list[str], chance: random.Random
) -> Iterator[tuple[int, str]]:
    """Writes a file of about so many bytes with these planted. Tells where the genuine ones are."""
    ring = SecretRing(SecretRing.generate())
    start = chance.randrange(len(content))
    for kind in [*kinds, None]:
        start = fill(file, content, start, size // (1 + len(kinds)))
        if kind is not None:
            whole, before, fingerprint = plant(kind, ring, chance)
            if fingerprint is not None:
                yield file.tell() + before, fingerprint
            file.write(whole)


def holders(files: int, plants: int, chance: random.Random) -> dict[int, list[str]]:
    """What is planted in which file, by their numbers."""
    found: dict[int, list[str]] = {}
    for number in range(plants):
        found.setdefault(chance.randrange(files), []).append(KINDS[number % len(KINDS)])
    return found


def tree(root: Path, total: int, plants: int) -> Made:
    """Makes a tree of files of all sizes."""
    chance = random.Random(7)
    contents = blocks(chance)
    wanted = sizes(total, chance)
    chance.shuffle(wanted)
    kinds = holders(len(wanted), plants, chance)
    made = Made(files=len(wanted), planted=plants)
    for number, size in enumerate(wanted):
        path = root / f"d{number % 97}" / f"e{number % 11}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = contents[number % len(contents)]
        with path.open("wb") as file:
            for offset, fingerprint in write(file, content, size, kinds.get(number, []), chance):
                made.tokens.add((str(path), offset, fingerprint))
            made.bytes += file.tell()
    return made


def repository(root: Path, total: int, plants: int) -> Made:
    """Makes a bare repository, in most of whose commits files of earlier ones are replaced.

    The file of a token is told as the name of its object.
    """
    chance = random.Random(8)
    contents = blocks(chance)
    count = max(1, total // 20_000)
    kinds = holders(count, plants, chance)
    made = Made(files=count, planted=plants)
    environment = {"PATH": os.defpath, "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(root)}
    git = ["git", "-c", "pack.compression=1"]
    init = [*git, "init", "--quiet", "--bare", "--object-format=sha1", str(root)]
    subprocess.run(init, check=True, env=environment)
    with subprocess.Popen(
        [*git, "fast-import", "--quiet"], cwd=root, stdin=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        for number in range(count):
            if number % FILES_OF_A_COMMIT == 0:
                begin(process.stdin, number // FILES_OF_A_COMMIT)
            blob = io.BytesIO()
            content = contents[number % len(contents)]
            size = int(chance.lognormvariate(9.2, 1.2))
            found = list(write(blob, content, size, kinds.get(number, []), chance))
            text = blob.getvalue()
            process.stdin.write(b"M 100644 inline d%d/f%d\n" % (number % 7, chance.randrange(300)))
            process.stdin.write(b"data %d\n%b\n" % (len(text), text))
            name = hashlib.sha1(b"blob %d\0%b" % (len(text), text)).hexdigest()
            made.tokens |= {(name, offset, fingerprint) for offset, fingerprint in found}
            made.bytes += len(text)
    if process.returncode:
        raise SystemExit("git has made no repository")
    return made


def begin(file: IO[bytes], number: int) -> None:
    """Begins a commit."""
    file.write(b"commit refs/heads/main\ncommitter a <a> %d +0000\n" % (1_800_000_000 + number))
    file.write(b"data 1\nx\n")
