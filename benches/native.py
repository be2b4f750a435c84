"""Measures the native core beside pure Python, argon2-cffi and bcrypt, and the path of a request.

On a shared machine the speed changes from second to second. So the contenders of a case take
turns, round after round, and a ratio is that of two neighbours in one round.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import ssl
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from timeit import Timer
from typing import Any

import argon2
import bcrypt
import hot
import pure_python
from argon2.low_level import Type, hash_secret, verify_secret

import keylatch

OURS = "keylatch"
CASES = {
    "mint": {
        OURS: "keylatch.mint('acme_live', ring)",
        "pure Python": "pure_python.mint('acme_live', pure_ring)",
    },
    "parse": {
        OURS: "keylatch.parse(token)",
        "pure Python": "pure_python.parse(token)",
    },
    "hash (hmac)": {
        OURS: "hasher.hash(token)",
        "pure Python": "pure_python.hash_token(token, pure_ring)",
    },
    "verify (hmac)": {
        OURS: "hasher.verify(token, stored)",
        "pure Python": "pure_python.verify(token, stored, pure_ring)",
    },
    "hash (argon2id)": {
        OURS: "stretching.hash(token)",
        "argon2-cffi": "argon2_cffi.hash(token)",
        "argon2-cffi, low level": "hash_secret(token.encode(), urandom(16), 2, 19456, 1, 32, ID)",
        "bcrypt 12": "bcrypt.hashpw(short, bcrypt.gensalt(12))",
    },
    "verify (argon2id)": {
        OURS: "stretching.verify(token, stretched)",
        "argon2-cffi": "argon2_cffi.verify(stretched, token)",
        "argon2-cffi, low level": "verify_secret(stretched.encode(), token.encode(), ID)",
        "bcrypt 12": "bcrypt.checkpw(short, crypted)",
    },
}
# Case, contender, and the least that its time divided by ours should be.
EXPECTED = [
    ("verify (hmac)", "pure Python", 5),
    ("hash (argon2id)", "argon2-cffi", 1 / 1.1),
    ("hash (argon2id)", "argon2-cffi, low level", 1 / 1.1),
    ("verify (argon2id)", "argon2-cffi", 1 / 1.1),
    ("verify (argon2id)", "argon2-cffi, low level", 1 / 1.1),
]
PACKAGES = [
    "keylatch",
    "argon2-cffi",
    "argon2-cffi-bindings",
    "bcrypt",
    "SQLAlchemy",
    "aiosqlite",
]


def subjects() -> dict[str, Any]:
    """Makes what the statements of CASES name. All contenders work on the same token."""
    text = keylatch.SecretRing.generate()
    ring, pure_ring = keylatch.SecretRing(text), pure_python.SecretRing(text)
    hasher = keylatch.Hasher(ring)
    argon2_cffi = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
    token = keylatch.mint("acme_live", ring)
    short = token[-67:].encode()  # bcrypt takes 72 bytes; these hold the whole secret
    return {
        "ID": Type.ID,
        "argon2_cffi": argon2_cffi,
        "bcrypt": bcrypt,
        "crypted": bcrypt.hashpw(short, bcrypt.gensalt(12)),
        "hash_secret": hash_secret,
        "hasher": hasher,
        "keylatch": keylatch,
        "pure_python": pure_python,
        "pure_ring": pure_ring,
        "ring": ring,
        "short": short,
        "stored": hasher.hash(token),
        "stretched": argon2_cffi.hash(token),
        "stretching": keylatch.Hasher(ring, scheme="argon2id"),
        "token": token,
        "urandom": os.urandom,
        "verify_secret": verify_secret,
    }


def race(
    contenders: dict[str, str], names: dict[str, Any], *, rounds: int, batch: float
) -> dict[str, dict[str, float]]:
    """Times the contenders in turn; `batch` is about how many seconds a turn takes."""
    timers = {}
    calls = {}
    for name, statement in contenders.items():
        if not eval(statement, names):
            sys.exit(f"wrong result: {statement}")
        timers[name] = timer = Timer(statement, globals=names)
        once = min(timer.repeat(3, 1))
        calls[name] = max(1, round(batch / once))
    times: dict[str, list[float]] = {name: [] for name in timers}
    order = list(timers)
    for _ in range(rounds):
        for name in order:
            times[name].append(timers[name].timeit(calls[name]) / calls[name] * 1e9)
        order.append(order.pop(0))
    return {name: summary(times[name], times[OURS]) for name in timers}


def summary(times: list[float], ours: list[float]) -> dict[str, float]:
    """Sums up the nanoseconds of one contender, and their ratios to ours round by round."""
    ratios = [theirs / own for theirs, own in zip(times, ours, strict=True)]
    deciles = statistics.quantiles(ratios, n=10, method="inclusive")
    return {
        "median_ns": statistics.median(times),
        "min_ns": min(times),
        "ratio": statistics.median(ratios),
        "ratio_p10": deciles[0],
        "ratio_p90": deciles[-1],
        "ratio_of_minimums": min(times) / min(ours),
    }


def environment(packages: list[str]) -> dict[str, Any]:
    """Tells where and with what a measurement was made."""
    cpuinfo = Path("/proc/cpuinfo")
    facts = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = re.findall(r"^model name\s*: (.*)$", facts, re.MULTILINE)
    rustc = shutil.which("rustc")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        # Without these instructions SHA-256 is OpenSSL's strength, not ours.
        "sha": next(iter(re.findall(r"\b(?:sha_ni|sha2)\b", facts)), None),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION,
        "rust": subprocess.check_output([rustc, "--version"], text=True).strip() if rustc else None,
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def verdicts(cases: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Holds the ratios against what is expected of them."""
    return [
        {
            "case": case,
            "contender": contender,
            "ratio": cases[case][contender]["ratio"],
            "at_least": least,
            "met": cases[case][contender]["ratio"] >= least,
        }
        for case, contender, least in EXPECTED
    ]


def show_environment(facts: dict[str, Any]) -> None:
    """Prints where and with what a measurement was made."""
    for name in ("date", "cpu", "cores", "sha", "system", "python", "openssl", "rust"):
        print(f"{name:8} {facts[name]}")
    versions = facts["packages"].items()
    print(f"{'packages':8} {', '.join(f'{name} {version}' for name, version in versions)}\n")


def show(report: dict[str, Any]) -> None:
    """Prints the report as a table."""
    show_environment(report["environment"])
    print(
        f"{'case':18} {'contender':23} {'median µs':>11} {'minimum µs':>11}"
        f" {'to keylatch':>11}   {'p10 to p90':15} {'of minimums':>11}"
    )
    for case, contenders in report["cases"].items():
        for name, row in contenders.items():
            spread = f"{row['ratio_p10']:.2f} to {row['ratio_p90']:.2f}"
            print(
                f"{case:18} {name:23} {row['median_ns'] / 1e3:11.3f} {row['min_ns'] / 1e3:11.3f}"
                f" {row['ratio']:11.2f}   {spread:15} {row['ratio_of_minimums']:11.2f}"
            )
    print()
    for verdict in report["expected"]:
        print(
            f"{'met' if verdict['met'] else 'MISSED':6} {verdict['case']}: {verdict['contender']}"
            f" takes {verdict['ratio']:.2f} times as long as keylatch,"
            f" expected at least {verdict['at_least']:.2f}"
        )


def main() -> None:
    """Runs every case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the report here as well")
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    options = parser.parse_args()
    rounds, batch = (3, 0.0001) if options.quick else (31, 0.005)

    names = subjects()
    cases = {
        case: race(contenders, names, rounds=rounds, batch=batch)
        for case, contenders in CASES.items()
    }
    report = {
        "environment": environment(PACKAGES),
        "rounds": rounds,
        "cases": cases,
        "expected": verdicts(cases),
        "request": hot.measure(quick=options.quick),
    }
    show(report)
    print()
    hot.show(report["request"])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
