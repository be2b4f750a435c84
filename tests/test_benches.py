"""The benchmark runs, and what it compares the native core with does the same work."""

import json
import math
import runpy
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keylatch

ROOT = Path(__file__).parent.parent
VECTORS = json.loads((ROOT / "tests/vectors/keylatch-v1.json").read_text())
pure_python = SimpleNamespace(**runpy.run_path(str(ROOT / "benches/pure_python.py")))

RING = keylatch.SecretRing(VECTORS["secret_ring"])
PURE_RING = pure_python.SecretRing(VECTORS["secret_ring"])
HASHER = keylatch.Hasher(RING)

CASES = {
    "mint": {"keylatch", "pure Python"},
    "parse": {"keylatch", "pure Python"},
    "hash (hmac)": {"keylatch", "pure Python"},
    "verify (hmac)": {"keylatch", "pure Python"},
    "hash (argon2id)": {"keylatch", "argon2-cffi", "argon2-cffi, low level", "bcrypt 12"},
    "verify (argon2id)": {"keylatch", "argon2-cffi", "argon2-cffi, low level", "bcrypt 12"},
}
ROUTES = {
    "open route",
    "dependency that does nothing",
    "the same, with scopes and request",
    "one hard-coded key",
    "keylatch",
    "keylatch, not started",
}
FLOODS = {"forged tokens", "right ids, wrong secrets", "junk"}
SVG = "{http://www.w3.org/2000/svg}"


def parsed(parse, text):
    """What a parse says of a text: its parts, or that it is refused."""
    try:
        token = parse(text)
    except ValueError:
        return "refused"
    return token.prefix, token.key_id


def verified(verify, *arguments):
    """What a verification says: yes, no, or that the stored hash is refused."""
    try:
        return verify(*arguments)
    except ValueError:
        return "refused"


@st.composite
def edited(draw, originals):
    """One of the originals with up to two characters replaced, inserted or left out."""
    text = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        put = draw(st.text("Az09_-$+/=,:ilou \né\0\ud800", max_size=1))
        text = text[:at] + put + text[at + draw(st.integers(0, 1)) :]
    return text


def test_quick_run_reports_every_case_in_positive_numbers(tmp_path):
    """A quick run ends well and its JSON holds a positive number for everything it measures."""
    path = tmp_path / "results" / "native.json"
    command = [sys.executable, ROOT / "benches/native.py", "--quick", "--json", path]

    run = subprocess.run(command, check=True, capture_output=True, text=True)

    report = json.loads(path.read_text())
    assert {case: set(rows) for case, rows in report["cases"].items()} == CASES
    for case, rows in report["cases"].items():
        assert case in run.stdout
        for row in rows.values():
            assert all(math.isfinite(number) and number > 0 for number in row.values())
    assert all(report["environment"][name] for name in ("date", "cpu", "cores", "python"))
    assert all(report["environment"]["packages"].values())
    request = report["request"]
    assert {"keylatch, headers to key", "no-op PyO3 call"} <= set(request["hot"])
    assert set(request["cold"]) == {"keylatch, key not cached", "SQLAlchemy select"}
    for row in [*request["hot"].values(), *request["cold"].values()]:
        assert all(math.isfinite(number) and number > 0 for number in row.values())
    whats = [each["what"] for each in request["promises"]]
    assert len(whats) == len(set(whats)) >= 3
    assert all(what in run.stdout for what in whats)


def test_quick_run_of_protected_routes_reports_every_part(tmp_path):
    """A quick run ends well, its JSON holds every part, and the chart shows every contender."""
    path, chart = tmp_path / "results" / "serving.json", tmp_path / "results" / "chart.svg"
    command = [sys.executable, ROOT / "benches/serving.py", "--quick", "--no-peers"]

    run = subprocess.run(
        [*command, "--json", path, "--chart", chart], check=True, capture_output=True, text=True
    )

    report = json.loads(path.read_text())
    assert set(report["http"]) == {"2"}
    for rows in (report["in_process"], *report["http"].values()):
        assert set(rows) >= ROUTES
        assert set(rows) | set(report["left_out"]) >= ROUTES | {"keylatch, middleware"}
        assert all(name in run.stdout for name in rows)
    for rows in report["http"].values():
        assert all(row["refused"] == row["broken"] == 0 < row["passed"] for row in rows.values())
    over_http, alone = report["floods"]["http"], report["floods"]["in_process"]
    targets = {"keylatch", "keylatch, middleware"} - set(report["left_out"])
    flooded = {f"{flood}, to {target}" for flood in FLOODS for target in targets}
    assert set(over_http) == {"open route", *flooded}
    assert set(alone) == {"open route", "dependency that refuses all", *FLOODS}
    assert all(over_http[name]["passed"] == 0 for name in flooded)
    assert any(over_http[name]["lookups"] > 0 for name in flooded)
    assert all("200" not in alone[flood]["statuses"] for flood in FLOODS)
    assert set(report["growth"]["keys"]) == {"1", "1000"}
    assert report["growth"]["bad_tokens"]["tokens"] >= 3_000
    whats = [each["what"] for each in report["promises"]]
    assert len(whats) == len(set(whats))
    assert all(what in run.stdout for what in whats)
    written = {text.text for text in ET.parse(chart).iter(f"{SVG}text")}
    assert set(report["http"]["2"]) - {"the same, with scopes and request"} <= written


@pytest.mark.parametrize("vector", VECTORS["tokens"], ids=lambda vector: vector["prefix"])
def test_pure_python_parses_what_the_native_core_parses(vector):
    """Both read the same parts out of a well-formed token."""
    parts = (vector["prefix"], vector["key_id"])

    assert parsed(pure_python.parse, vector["token"]) == parts
    assert parsed(keylatch.parse, vector["token"]) == parts


@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda vector: vector["why"])
def test_pure_python_refuses_what_the_native_core_refuses(vector):
    """Both refuse a malformed token."""
    assert parsed(pure_python.parse, vector["token"]) == "refused"
    assert parsed(keylatch.parse, vector["token"]) == "refused"


def test_pure_python_verifies_what_the_native_core_verifies():
    """Both say yes to the token of a stored hash, and no to any other token."""
    tokens = [vector["token"] for vector in VECTORS["tokens"]]
    for vector in VECTORS["hashes"]:
        for token in [vector["token"], *tokens, "", "é", "\ud800", "x" * 4097]:
            expected = token == vector["token"]
            assert pure_python.verify(token, vector["stored"], PURE_RING) is expected
            assert HASHER.verify(token, vector["stored"]) is expected


@pytest.mark.parametrize("prefix", ["k", "acme_live", "abcdefghijklmnopqrstuvwx"])
def test_each_reads_what_the_other_made(prefix):
    """A token minted in pure Python is sealed and hashed as a native one is, and vice versa."""
    token = pure_python.mint(prefix, PURE_RING)

    assert keylatch.parse(token).sealed_by(RING) == "k1"
    assert HASHER.verify(token, pure_python.hash_token(token, PURE_RING))
    assert pure_python.verify(token, HASHER.hash(token), PURE_RING)
    assert parsed(pure_python.parse, keylatch.mint(prefix, RING))[0] == prefix


@pytest.mark.parametrize("prefix", ["", "1a", "a__b", "a_", "a-b", "é", "a\n", "x" * 25])
def test_both_refuse_to_mint_under_a_malformed_prefix(prefix):
    """A prefix outside its format is a ValueError on both sides."""
    for mint, ring in ((keylatch.mint, RING), (pure_python.mint, PURE_RING)):
        with pytest.raises(ValueError, match="a prefix is 1 to 24"):
            mint(prefix, ring)


@given(edited([vector["token"] for vector in VECTORS["tokens"]]))
def test_both_judge_an_edited_token_alike(text):
    """Whatever was done to a token, both read it alike or both refuse it."""
    summed = text[:-6]
    checksum = pure_python.base62(zlib.crc32(summed.encode(errors="surrogatepass")))

    for token in (text, summed + checksum):
        assert parsed(pure_python.parse, token) == parsed(keylatch.parse, token)


@given(st.sampled_from(VECTORS["hashes"]), edited([hash_["stored"] for hash_ in VECTORS["hashes"]]))
def test_both_judge_an_edited_stored_hash_alike(vector, stored):
    """Whatever was done to a stored hash, both give the same answer."""
    token = vector["token"]

    pure = verified(pure_python.verify, token, stored, PURE_RING)

    assert pure == verified(HASHER.verify, token, stored)
