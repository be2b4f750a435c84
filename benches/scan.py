"""Measures ``keylatch scan`` over a tree that it makes: every planted token, and how fast.

The tree has text, logs, base64, hexadecimal digits and binary data, in files of all sizes, with
planted tokens and look-alikes. It is read once, so that it comes out of the page cache, and then
searched in turns by keylatch and by general search programs with a regular expression. So is the
history of a repository of such files, whose bytes are those that git has to inflate.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import native
import planted

from keylatch import scan_rules

EXPRESSION = "[A-Za-z0-9_]_[0-9a-hjkmnp-tv-z]{16}_[0-9A-Za-z]{55}"
# Of the tree, with the start-up.
AT_LEAST_MB_PER_S = 500

# What to run, and how to count what it has found.
Contenders = dict[str, tuple[list[str], Callable[[bytes], int]]]


def read(root: Path) -> None:
    """Brings the tree into the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def keylatch(path: Path, made: planted.Made, file: str) -> Contenders:
    """The one that must find each planted token where it was planted, and nothing else."""
    script = Path(sys.executable).parent / "keylatch"

    def checked(output: bytes) -> int:
        rows = json.loads(output)["findings"]
        # Git stores what it cannot make smaller as it is, so that a pack may hold one as a file.
        rows = [row for row in rows if row[file] is not None]
        found = [(row[file], row["offset"], row["fingerprint"]) for row in rows]
        if sorted(found) != sorted(made.tokens):
            missing, wrong = made.tokens - set(found), set(found) - made.tokens
            raise SystemExit(
                f"of the planted tokens {len(missing)} are missing, and {len(wrong)} places were "
                f"told where none was planted, such as {[*missing, *wrong][:1]}"
            )
        return len(found)

    return {"keylatch scan": ([str(script), "scan", "--json", str(path)], checked)}


def others(root: Path) -> Contenders:
    """Other programs that search a tree."""
    found: Contenders = {}
    for name, options in (("rg", ["-uuu", "-a", "-o", "-N"]), ("grep", ["-r", "-a", "-o", "-E"])):
        if path := shutil.which(name):
            command = [path, *options, EXPRESSION, str(root)]
            found[name] = (command, lambda output: output.count(b"\n"))
    if path := shutil.which("gitleaks"):
        rules = root.parent / "gitleaks.toml"
        rules.write_text(scan_rules.rules("gitleaks", ["acme_live"]))
        options = ["dir", "--config", str(rules), "--report-path", "-", "--report-format", "json"]
        found["gitleaks"] = ([path, *options, str(root)], lambda output: len(json.loads(output)))
    return found


def inflating(repository: Path) -> Contenders:
    """Git itself, which reads every object once and searches none: most of the time is its own."""
    options = "--batch --batch-all-objects --unordered --buffer"
    command = f"git --git-dir={shlex.quote(str(repository))} cat-file {options} > /dev/null"
    return {"git cat-file": (["sh", "-c", command], lambda _: 0)}


def measure(contenders: Contenders, made: planted.Made, rounds: int) -> dict[str, Any]:
    """Runs all of them in turns, and keeps of each its best round."""
    cases: dict[str, Any] = {}
    for _ in range(rounds):
        for name, (command, count) in contenders.items():
            start = time.perf_counter()
            done = subprocess.run(
                command, check=False, capture_output=True, env={"PATH": os.defpath, "LC_ALL": "C"}
            )
            seconds = time.perf_counter() - start
            row = {"seconds": seconds, "found": count(done.stdout)}
            row["mb_per_s"] = made.bytes / seconds / 1e6
            if name not in cases or row["seconds"] < cases[name]["seconds"]:
                cases[name] = row
    return cases


def part(what: str, made: planted.Made, cases: dict[str, Any]) -> dict[str, Any]:
    """Prints one part of the report, and returns it."""
    print(
        f"{what}: {made.bytes / 1e9:.2f} GB in {made.files:,} files, {len(made.tokens):,} tokens "
        f"among {made.planted:,} planted"
    )
    for name, row in cases.items():
        print(f"{name:14} {row['seconds']:7.2f} s {row['mb_per_s']:8,.0f} MB/s {row['found']:7,}")
    about = {"files": made.files, "bytes": made.bytes, "planted": made.planted}
    return about | {"tokens": len(made.tokens), "cases": cases}


def main() -> None:
    """Makes the tree and the repository, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--history-bytes", type=int, default=200_000_000)
    parser.add_argument("--planted", type=int, default=5_000, help="a fifth of it in history")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--directory", type=Path, help="where both are made for a while")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    options = parser.parse_args()

    report: dict[str, Any] = {
        "environment": native.environment(["keylatch"]),
        "load": os.getloadavg()[0],
    }
    native.show_environment(report["environment"])
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory) / "tree"
        made = planted.tree(root, options.bytes, options.planted)
        read(root)
        contenders = keylatch(root, made, "path") | others(root)
        report |= part("files", made, measure(contenders, made, options.rounds))
        root = Path(directory) / "repository"
        made = planted.repository(root, options.history_bytes, options.planted // 5)
        contenders = keylatch(root, made, "object") | inflating(root)
        report["history"] = part("history", made, measure(contenders, made, options.rounds))
    value = report["cases"]["keylatch scan"]["mb_per_s"]
    met = value >= AT_LEAST_MB_PER_S
    report["promise"] = {"mb_per_s": value, "at_least": AT_LEAST_MB_PER_S, "met": met}
    print(
        f"{'met' if met else 'MISSED':6} files: {value:,.0f} MB/s, at least {AT_LEAST_MB_PER_S}, "
        "with each planted token told where it stands, and nothing else"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
