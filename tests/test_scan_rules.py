"""Rules for other tools: they parse, find every planted token and nothing of another shape.

Rust's ``regex`` is tried on the same vectors in ``src/tests/rules.rs``.
"""

import hashlib
import importlib
import json
import math
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from keylatch import SecretRing, mint, parse, scan_rules
from keylatch.errors import InvalidTokenError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rules-v1.json").read_text())
PREFIXES = VECTORS["prefixes"]


def written(kind, *prefixes):
    """What the command line writes."""
    options = [option for prefix in prefixes for option in ("--prefix", prefix)]
    code = "import sys; from keylatch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "scan-rules", "--format", kind, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def entropy(text):
    """Shannon's, in bits a character, as gitleaks and trufflehog compute it."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


def found(expressions, text):
    """The tokens that regular expressions find, in their order."""
    hits = [hit for each in expressions for hit in re.finditer(each, text, re.ASCII)]
    return [hit[1] for hit in sorted(hits, key=lambda hit: hit.start(1))]


def holds(expressions):
    """Checks all that was planted."""
    assert found(expressions, VECTORS["text"]) == VECTORS["planted"]
    for text in VECTORS["look_alikes"]:
        assert found(expressions, text) == [], text


def test_the_expressions_are_those_of_the_vectors():
    """So that Rust tries the same ones."""
    for prefix, expression in VECTORS["expressions"].items():
        assert scan_rules.expression(prefix) == expression
    holds(VECTORS["expressions"].values())


def test_the_rules_for_gitleaks():
    """TOML, with the fields of gitleaks 8: keywords are in lower case, and the group is there."""
    text = written("gitleaks", *PREFIXES)
    rules = tomllib.loads(text)
    assert rules["extend"] == {"useDefault": True}
    assert [rule["id"] for rule in rules["rules"]] == ["keylatch-acme-live", "keylatch-MV-SECRET"]
    for rule, prefix in zip(rules["rules"], PREFIXES, strict=True):
        assert set(rule) == {
            *("id", "description", "regex", "secretGroup", "entropy", "keywords", "tags"),
        }
        assert rule["keywords"] == [f"{prefix.lower()}_"]
        assert re.compile(rule["regex"]).groups == rule["secretGroup"] == 1
    holds([rule["regex"] for rule in rules["rules"]])


def test_the_rules_for_trufflehog():
    """YAML, with custom detectors of one regular expression each, whose group is the secret."""
    detectors = yaml.safe_load(written("trufflehog", *PREFIXES))["detectors"]
    for detector, prefix in zip(detectors, PREFIXES, strict=True):
        assert set(detector) == {"name", "keywords", "regex", "entropy"}
        assert detector["keywords"] == [f"{prefix.lower()}_"]
        assert list(detector["regex"]) == ["token"]
    holds([detector["regex"]["token"] for detector in detectors])


def test_the_rules_for_github():
    """The fields of its form; together they find the same, and its sample is no token."""
    patterns = yaml.safe_load(written("github", *PREFIXES))["patterns"]
    expressions = []
    for pattern in patterns:
        middle = pattern["Secret format"]
        before, after = pattern["Before secret"], pattern["After secret"].replace(r"\z", r"\Z")
        # Hyperscan looks for all matches, also where they overlap.
        expressions.append(f"(?:{before})({middle})(?={after})")
        assert found(expressions[-1:], pattern["Test string"]) == [pattern["Test string"]]
    glued = [token for line in VECTORS["text"].splitlines() for token in found(expressions, line)]
    assert glued == VECTORS["planted"]
    for text in VECTORS["look_alikes"]:
        assert found(expressions, text) == []


def test_the_rules_find_what_is_planted_in_a_tree(monkeypatch, tmp_path):
    """Between code, logs, base64 and binary data; and what only the checksum tells from a token."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benches")
    made = importlib.import_module("planted").tree(tmp_path, 3_000_000, 100)
    rules = tomllib.loads(scan_rules.rules("gitleaks", ["acme_live", "acme_test", "MV_SECRET"]))
    expressions = [re.compile(rule["regex"].encode()) for rule in rules["rules"]]
    texts = {
        (str(path), hit.start(1), hashlib.sha256(hit[1]).hexdigest()): hit[1].decode()
        for path in tmp_path.rglob("f*")
        for expression in expressions
        for hit in expression.finditer(path.read_bytes())
    }
    assert len(made.tokens) == len(texts) == 40
    wide = {place for place in made.tokens if Path(place[0]).read_bytes()[place[1] + 1] == 0}
    assert made.tokens - texts.keys() == wide
    look_alikes = [texts[place] for place in texts.keys() - made.tokens]
    assert len(look_alikes) == len(wide) == 20
    for text in look_alikes:
        with pytest.raises(InvalidTokenError):
            parse(text)


def test_rust_finds_in_a_tree_what_python_finds(monkeypatch, tmp_path):
    """In each line: by Rust's ``regex``, which jsonschema-rs has patterns compiled by."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benches")
    importlib.import_module("planted").tree(tmp_path, 3_000_000, 100)
    rules = tomllib.loads(scan_rules.rules("gitleaks", ["acme_live", "acme_test", "MV_SECRET"]))
    texts = [rule["regex"] for rule in rules["rules"]]
    expressions = [re.compile(text) for text in texts]
    patterns = {"anyOf": [{"pattern": text} for text in texts]}
    rust = jsonschema_rs.validator_for(patterns, pattern_options=jsonschema_rs.RegexOptions())
    matching = 0
    for path in tmp_path.rglob("f*"):
        for line in path.read_text("latin-1").split("\n"):
            matches = any(expression.search(line) for expression in expressions)
            assert rust.is_valid(line) == matches
            matching += matches
    assert matching == 40


def test_every_token_has_more_entropy_than_is_asked_for():
    """Or rules would leave some out; a placeholder has less."""
    ring = SecretRing(SecretRing.generate())
    least = min(entropy(mint("a", ring)) for _ in range(2000))
    assert least > scan_rules.ENTROPY + 0.4
    assert entropy(f"acme_live_{'0' * 16}_{'x' * 55}") < scan_rules.ENTROPY


@pytest.mark.parametrize("prefix", ["a'''b", "a\nb", "", "a.*", "a__b"])
def test_what_is_no_prefix_is_refused(prefix):
    """It would break out of the file."""
    for kind in ("gitleaks", "github", "trufflehog"):
        with pytest.raises(ValueError, match="a prefix is"):
            scan_rules.rules(kind, ["acme", prefix])
