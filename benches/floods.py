"""What floods of bad tokens cost: answers a second, and queries of the database.

Knows the format of tokens, and the server that is flooded.
"""

import json
import secrets
import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import over_http
import pure_python
from contenders import KEY, MIDDLEWARE, OPEN, OPEN_CASE, Contender

import keylatch

REFUSING = "dependency that refuses all"
FORGED, WRONG, JUNK = "forged tokens", "right ids, wrong secrets", "junk"
# Of tokens that no server secret has sealed, in a process: as `unsealed_lookups` has it, with as
# many at once after a second without any.
LOOKUPS = 50


def tokens_of(kind: str, count: int, token: str) -> list[str]:
    """Different bad tokens of a kind."""
    if kind == FORGED:
        ring = keylatch.SecretRing(keylatch.SecretRing.generate())
        return [keylatch.mint("acme_live", ring) for _ in range(count)]
    if kind == WRONG:
        known = token[: -len("secret") - 49]  # prefix and id, in front of secret, seal and checksum
        return [_summed(known + _digits(49)) for _ in range(count)]
    return [secrets.token_urlsafe(60) for _ in range(count)]


def over_network(
    known: dict[str, Contender],
    *options: str,
    rounds: int,
    seconds: float,
    connections: int,
    count: int,
) -> dict[str, dict[str, Any]]:
    """Floods one server with one worker, in turns with requests for its open route."""
    flooded = [known[name] for name in (KEY, MIDDLEWARE) if name in known]
    floods = {OPEN: (known[OPEN], [known[OPEN].token])}
    for target in flooded:
        for kind in (FORGED, WRONG, JUNK):
            made = tokens_of(kind, count, target.token)
            floods[f"{kind}, to {target.name}"] = target, made
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in floods}
    with over_http.serving([known[OPEN], *flooded], *options):
        for _ in range(rounds):
            for name, done in turns.items():
                target, tokens = floods[name]
                before, start = queries(target), time.monotonic()
                counts = over_http.load(target, tokens, seconds=seconds, connections=connections)
                counts["lookups"] = queries(target) - before
                counts["lookups_budget"] = LOOKUPS * (1 + time.monotonic() - start)
                done.append(counts)
    rows = {}
    for name, found in turns.items():
        rows[name] = over_http.summary(found, turns[OPEN])
        rows[name] |= {
            key: sum(turn[key] for turn in found) for key in ("lookups", "lookups_budget")
        }
    return rows


def in_process(
    contender: Contender, directory: Path, *, rounds: int, number: int
) -> dict[str, dict[str, Any]]:
    """Microseconds of an answer without a server, and which answers these are."""
    cases = {OPEN: OPEN_CASE, REFUSING: "apps:refusing_app/items"}
    for kind in (FORGED, WRONG, JUNK):
        lines = directory / f"{len(cases)}.flood"
        lines.write_text("\n".join(tokens_of(kind, (rounds + 1) * number, contender.token)))
        cases[kind] = f"{contender.app}{contender.path}={lines}"
    found = over_http.in_process(cases, contender, rounds=rounds, number=number)
    return {
        name: {"median_us": statistics.median(row["ns"]) / 1e3, "statuses": row["statuses"]}
        for name, row in found.items()
    }


def queries(contender: Contender) -> int:
    """How often its process has looked for a key so far."""
    answer = contender.server and contender.server.ask("/queries", contender.token)
    return json.loads(answer or "{}")["lookups"]


def _digits(count: int) -> str:
    return "".join(secrets.choice(pure_python.BASE62) for _ in range(count))


def _summed(text: str) -> str:
    return text + pure_python.base62(zlib.crc32(text.encode()))
