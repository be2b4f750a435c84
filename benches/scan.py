"""Measures ``keylatch scan`` over a tree that it makes: every planted token, and how fast.

The tree has text, logs, base64, hexadecimal digits and binary data, in files of all sizes, with
planted tokens and look-alikes. It is read once, so that it comes out of the page cache, and then
searched in turns by keylatch and by general search programs with a regular expression.
"""

import argparse
import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import native

from keylatch import SecretRing, mint

BLOCK = 1 << 20
WORDS = ["self", "token", "request_id", "return", "import", "key", "user_name", "data_0", "if"]
EXPRESSION = "[A-Za-z0-9_]_[0-9a-hjkmnp-tv-z]{16}_[0-9A-Za-z]{55}"
# Of each of these so many in the planted places.
KINDS = ("token", "checksum", "alphabet", "cut", "utf-16")


def blocks(chance: random.Random) -> list[bytes]:
    """A mebibyte of each kind of content."""
    lines = []
    while sum(map(len, lines)) < BLOCK:
        words = (chance.choice(WORDS) for _ in range(chance.randrange(1, 12)))
        lines.append(" " * 4 * chance.randrange(4) + " ".join(words) + "\n")
    logs = []
    while sum(map(len, logs)) < BLOCK:
        number = f"{chance.getrandbits(128):032x}"
        logs.append(f"2026-01-01T12:00:00Z INFO {number} GET /api/v1/items_{number[:6]} 200\n")
    noise = chance.randbytes(BLOCK)
    return [
        "".join(lines).encode(),
        "".join(lines).encode(),
        "".join(logs).encode(),
        base64.encodebytes(noise),
        base64.b64encode(noise),
        noise.hex().encode(),
        noise,
    ]


def planted(kind: str, ring: SecretRing, chance: random.Random) -> bytes:
    """A token, or what must not be taken for one."""
    token = mint(chance.choice(("acme_live", "acme_test", "MV_SECRET")), ring)
    if kind == "checksum":
        token = token[:-1] + ("0" if token[-1] != "0" else "1")
    elif kind == "alphabet":
        token = f"{token[:-72]}l{token[-71:]}"  # no letter of a key id
    elif kind == "cut":
        token = token[: -chance.randrange(1, 50)] + "-"
    text = f"\nKEY={token}\n"
    return text.encode("utf-16-le") if kind == "utf-16" else text.encode()


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


def make(root: Path, total: int, plants: int) -> dict[str, Any]:
    """Makes the tree. Tells how many files and bytes it has, and how many tokens."""
    chance = random.Random(7)
    ring = SecretRing(SecretRing.generate())
    contents = blocks(chance)
    wanted = sizes(total, chance)
    chance.shuffle(wanted)
    holders: dict[int, list[str]] = {}
    for number in range(plants):
        kind = KINDS[number % len(KINDS)]
        holders.setdefault(chance.randrange(len(wanted)), []).append(kind)
    genuine = written = 0
    for number, size in enumerate(wanted):
        directory = root / f"d{number % 97}" / f"e{number % 11}"
        directory.mkdir(parents=True, exist_ok=True)
        content = contents[number % len(contents)]
        start = chance.randrange(len(content))
        kinds = holders.get(number, [])
        with (directory / f"f{number}").open("wb") as file:
            for kind in [*kinds, None]:
                start = fill(file, content, start, size // (1 + len(kinds)))
                if kind is not None:
                    file.write(planted(kind, ring, chance))
                    genuine += kind in ("token", "utf-16")
            written += file.tell()
    return {"files": len(wanted), "bytes": written, "tokens": genuine, "planted": plants}


def read(root: Path) -> None:
    """Brings the tree into the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def contenders(root: Path) -> dict[str, tuple[list[str], Callable[[str], int]]]:
    """Commands, and how to count what they have found."""
    script = Path(sys.executable).parent / "keylatch"
    found: dict[str, tuple[list[str], Callable[[str], int]]] = {
        "keylatch scan": (
            [str(script), "scan", "--json", str(root)],
            lambda text: len(json.loads(text)["findings"]),
        ),
    }

    def counted(text: str) -> int:
        return text.count("\n")

    for name, options in (("rg", ["-uuu", "-a", "-o", "-N"]), ("grep", ["-r", "-a", "-o", "-E"])):
        if path := shutil.which(name):
            found[name] = ([path, *options, EXPRESSION, str(root)], counted)
    if path := shutil.which("gitleaks"):
        rules = root.parent / "gitleaks.toml"
        arguments = [str(script), "scan-rules", "--format", "gitleaks", "--prefix", "acme_live"]
        rules.write_bytes(subprocess.run(arguments, check=True, capture_output=True).stdout)
        options = ["dir", "--config", str(rules), "--report-path", "-", "--report-format", "json"]
        found["gitleaks"] = ([path, *options, str(root)], lambda text: len(json.loads(text)))
    return found


def measure(root: Path, made: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Runs all of them in turns, and keeps of each its best round."""
    cases: dict[str, Any] = {}
    for _ in range(rounds):
        for name, (command, count) in contenders(root).items():
            start = time.perf_counter()
            done = subprocess.run(
                command, check=False, capture_output=True, env={"PATH": os.defpath, "LC_ALL": "C"}
            )
            seconds = time.perf_counter() - start
            row = {"seconds": seconds, "found": count(done.stdout.decode(errors="replace"))}
            row["mb_per_s"] = made["bytes"] / seconds / 1e6
            if name not in cases or row["seconds"] < cases[name]["seconds"]:
                cases[name] = row
    return cases


def main() -> None:
    """Makes the tree, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--planted", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--directory", type=Path, help="where the tree is made for a while")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()

    report: dict[str, Any] = {
        "environment": native.environment(["keylatch"]),
        "load": os.getloadavg()[0],
    }
    native.show_environment(report["environment"])
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory) / "tree"
        made = make(root, options.bytes, options.planted)
        read(root)
        report |= made | {"cases": measure(root, made, options.rounds)}
    print(
        f"{made['bytes'] / 1e9:.2f} GB in {made['files']:,} files, {made['tokens']:,} tokens among "
        f"{made['planted']:,} planted"
    )
    for name, row in report["cases"].items():
        print(f"{name:14} {row['seconds']:7.2f} s {row['mb_per_s']:8,.0f} MB/s {row['found']:7,}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if report["cases"]["keylatch scan"]["found"] != made["tokens"]:
        raise SystemExit("tokens are missing, or look-alikes were taken for some")


if __name__ == "__main__":
    main()
