"""``keylatch scan`` over files: what it finds, what it tells of that, and how it writes it."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest
from terminals import Terminal

from keylatch import SecretRing, mint, parse

SCHEMA = json.loads((Path(__file__).parents[1] / "vectors/sarif-2.1.0.json").read_text())
OTHER = SecretRing(SecretRing.generate())
NO_DATABASE = {"KEYLATCH_DATABASE": "", "KEYLATCH_SECRET": ""}


def look_alike(token):
    """The same with a wrong checksum."""
    return token[:-1] + ("0" if token[-1] != "0" else "1")


@pytest.fixture
def tree(tmp_path):
    """A directory to be looked at."""
    path = tmp_path / "tree"
    path.mkdir()
    return path


def test_nothing_found_exits_with_0_and_something_with_1(outside, tree):
    """As ``diff`` has it; and what is found is shown masked, with its place."""
    (tree / "a.txt").write_text("nothing\n")
    done = outside.run("scan", str(tree))
    assert (done.returncode, done.stdout) == (0, "")
    assert "files: 1" in done.stderr
    token = mint("acme_live", OTHER)
    (tree / "a.txt").write_text(f"# h\u00e9\nKEY={token}\n")
    done = outside.run("scan", str(tree))
    assert done.returncode == 1
    masked = f"acme_live_{parse(token).key_id}_***"
    assert done.stdout.splitlines()[1].split() == [masked, f"{tree}/a.txt:2:5", "a", "token"]
    assert token[-55:] not in done.stdout + done.stderr


def test_every_kind_of_file_is_looked_at(outside, tree):
    """Hidden, ignored, binary, empty and large ones, in UTF-8 and UTF-16, and names, too."""
    tokens = [mint("acme_live", OTHER) for _ in range(8)]
    (tree / ".gitignore").write_text(".env\nnode_modules\n")
    (tree / ".env").write_text(f"KEY={tokens[0]}")
    (tree / "node_modules" / ".cache").mkdir(parents=True)
    (tree / "node_modules" / ".cache" / "x").write_text(f'{{"k": "a\\n{tokens[1]}\\n"}}')
    (tree / "binary").write_bytes(b"\0\xff\xfe" * 99 + tokens[2].encode() + b"\0\xff")
    (tree / "little").write_bytes(f"x\r\n\u3042{tokens[3]}\u3042".encode("utf-16-le"))
    (tree / "big").write_bytes(f"\ufeff{tokens[4]}\u3042".encode("utf-16-be"))
    (tree / "large").write_bytes(b"x" * 3_000_000 + b" " + tokens[5].encode() + b"y" * 3_000_000)
    (tree / f"name-{tokens[6]}.txt").write_text("")
    (tree / f"directory {tokens[7]}").mkdir()
    (tree / "packed.gz").write_bytes(gzip.compress(mint("acme_live", OTHER).encode()))
    found = outside.json("scan", str(tree), code=1)
    key_ids = [row["key_id"] for row in found["findings"]]
    assert sorted(key_ids) == sorted(parse(token).key_id for token in tokens)
    rows = {row["key_id"]: row for row in found["findings"]}
    little, large, name = (rows[parse(tokens[number]).key_id] for number in (3, 5, 6))
    assert (little["encoding"], little["line"], little["column"]) == ("utf-16", 2, 2)
    assert (large["line"], large["column"], large["offset"]) == (1, 3_000_002, 3_000_001)
    assert (name["line"], name["column"]) == (None, None)
    assert name["path"] == f"{tree}/name-acme_live_{name['key_id']}_***.txt"
    assert not any(token[-43:] in json.dumps(found) for token in tokens)


def test_a_fingerprint_tells_the_same_token_elsewhere(outside, tree):
    """It is the SHA-256 of the token, wherever that stands, and if a URL has escaped its ``_``."""
    token, other = mint("a", OTHER), mint("a", OTHER)
    (tree / "one").write_text(f"{token} {other}")
    (tree / "two").write_text(f"/?k={token.replace('_', '%5F')}&x=1")
    rows = outside.json("scan", str(tree), code=1)["findings"]
    prints = [row["fingerprint"] for row in rows]
    digest = subprocess.run(
        ["sha256sum"], input=token, check=True, capture_output=True, text=True
    ).stdout.split()[0]
    assert prints[0] == prints[2] == digest != prints[1]
    assert [row["column"] for row in rows] == [1, len(token) + 2, 5]
    assert rows[2]["masked"] == f"a_{parse(token).key_id}_***"
    assert "tokens: 2, places: 3" in outside.run("scan", str(tree)).stderr


def test_look_alikes_are_told_on_request_only(outside, tree):
    """What has a wrong checksum is nobody's token; a text of another shape is never told."""
    token = mint("acme_live", OTHER)
    wrong = look_alike(token)
    (tree / "a").write_text(f"{wrong}\n{token[:-1]}\n{token.replace('_', '-')}\n{token.upper()}\n")
    assert outside.json("scan", str(tree))["findings"] == []
    (row,) = outside.json("scan", str(tree), "--look-alikes", code=1)["findings"]
    assert (row["line"], row["checksum"], row["seal_checked"]) == (1, "wrong", False)
    assert "its checksum is wrong" in outside.run("scan", "--look-alikes", str(tree)).stdout


def test_prefixes_narrow_the_search(outside, tree):
    """Only tokens of these, compared whole; ``KEYLATCH_PREFIX`` hides none."""
    for prefix in ("acme_live", "acme_test", "acme", "MV_SECRET"):
        (tree / prefix).write_text(mint(prefix, OTHER))
    assert len(outside.json("scan", str(tree), code=1)["findings"]) == 4
    options = ("--prefix", "acme", "--prefix", "MV_SECRET")
    rows = outside.json("scan", str(tree), *options, code=1)["findings"]
    assert [row["prefix"] for row in rows] == ["MV_SECRET", "acme"]


def test_the_server_secret_tells_which_tokens_it_sealed(inside, tree):
    """Without a database; what another secret sealed is a token, and not proven to be ours."""
    ours, theirs = mint("acme_live", SecretRing(inside.secret)), mint("acme_live", OTHER)
    (tree / "a").write_text(f"{ours}\n{theirs}\n")
    no_database = {"KEYLATCH_DATABASE": ""}
    rows = inside.json("scan", str(tree), code=1, env=no_database)["findings"]
    assert [row["sealed_by"] for row in rows] == ["k1", None]
    assert [row["proven"] for row in rows] == [True, False]
    assert [row["proof"] is None for row in rows] == [False, True]
    assert not any(row["key_checked"] for row in rows)
    shown = inside.run("scan", str(tree), env=no_database).stdout
    assert "sealed by k1" in shown
    assert "not sealed by KEYLATCH_SECRET" in shown


def test_the_database_tells_which_tokens_still_open(inside, tree, wrong_secret):
    """Active, revoked, expired, unknown, and the id of a key in somebody else's token."""
    made = [inside.json("create", "--name", name, "--owner", "u1") for name in "abc"]
    inside.json("revoke", made[1]["key"]["id"], "--yes")
    inside.sql("UPDATE api_keys SET expires_at = created_at WHERE id = ?", made[2]["key"]["id"])
    tokens = [new["token"] for new in made]
    tokens += [mint("acme_live", SecretRing(inside.secret)), wrong_secret(tokens[0])]
    (tree / "a").write_text("\n".join(tokens))
    rows = inside.json("scan", str(tree), code=1)["findings"]
    statuses = [row["key"] and row["key"]["status"] for row in rows]
    assert statuses == ["active", "revoked", "expired", None, "active"]
    assert [row["proven"] for row in rows] == [True, True, True, True, False]
    assert all(row["key_checked"] for row in rows)
    shown = inside.run("scan", str(tree)).stdout
    for text in ("key active, of u1", "key revoked", "no such key", "but another token's"):
        assert text in shown
    assert inside.sql("SELECT DISTINCT use_count, last_used_at FROM api_keys") == [(0, None)]
    # Without the server secret the key is known, and whether the token is its own is not.
    rows = inside.json("scan", str(tree), code=1, env={"KEYLATCH_SECRET": ""})["findings"]
    assert [row["proven"] for row in rows] == [None] * 5
    assert rows[0]["key"]["status"] == "active"


def test_a_database_that_cannot_be_asked_ends_the_search_before_it_begins(inside, tree):
    """A wrong URL must not show after gigabytes were read."""
    assert "no such database file" in inside.fails(5, "scan", str(tree))
    inside.fails(4, "scan", str(tree), env={"KEYLATCH_DATABASE": "nothing://x"})


def test_standard_input_is_looked_at(outside, tree):
    """As ``-``, whole, beside files."""
    token = mint("acme_live", OTHER)
    (tree / "a").write_text(token)
    text = "x\n" * 400_000 + f" {token}\n"
    rows = outside.json("scan", "-", str(tree), code=1, stdin=text)["findings"]
    assert [(row["path"], row["line"], row["column"]) for row in rows] == [
        ("-", 400_001, 2),
        (f"{tree}/a", 1, 1),
    ]


def test_sarif_is_valid_and_says_what_json_says(inside, tree, tmp_path):
    """Against the schema of OASIS, with names that have to be quoted, and with what was unread."""
    token = mint("acme_live", SecretRing(inside.secret))
    (tree / "a b#%?\u00e9:[x]\n").write_text(f"\n {token} {look_alike(token)}")
    (tree / f"x{token}").write_text("")
    arguments = ("scan", str(tree), str(tmp_path / "nowhere"), "--sarif", "--look-alikes")
    done = inside.run(*arguments, env={"KEYLATCH_DATABASE": ""})
    assert done.returncode == 7
    log = json.loads(done.stdout)
    jsonschema_rs.validator_for(SCHEMA).validate(log)
    (run,) = log["runs"]
    first, second, third = run["results"]
    place = first["locations"][0]["physicalLocation"]
    quoted = f"file://{tree}/a%20b%23%25%3F%C3%A9%3A%5Bx%5D%0A"
    assert place["artifactLocation"]["uri"] == quoted
    assert place["region"] == {"startLine": 2, "startColumn": 2, "byteOffset": 2}
    assert (first["level"], second["level"]) == ("error", "note")
    assert first["properties"]["sealedBy"] == "k1"
    assert "region" not in third["locations"][0]["physicalLocation"]
    assert not run["invocations"][0]["executionSuccessful"]
    assert token[-43:] not in done.stdout
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(SCHEMA).validate(log | {"version": "2"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scan"], "Missing argument"),
        (["scan", ".", "--json", "--sarif"], "not both"),
        (["scan", ".", "--prefix", "a-b"], "a prefix is"),
        (["scan", "-", "--prefix", "\udcff"], "a prefix is"),
        (["scan-rules"], "--prefix"),
        (["scan-rules", "--prefix", "a'b"], "a prefix is"),
        (["scan-rules", "--prefix", "a", "--format", "other"], "other"),
    ],
)
def test_wrong_usage_exits_with_2(outside, arguments, says):
    """In a line that says what is wanted."""
    assert says in outside.fails(2, *arguments)


def test_a_terminal_sees_how_far_it_is_and_no_token(bare, tree):
    """A bar on standard error; and standard input that is a terminal is no file."""
    bare.env |= NO_DATABASE
    token = mint("acme_live", OTHER)
    (tree / "a").write_text(token)
    with (tree / "b").open("wb") as large:
        large.truncate(1 << 30)  # takes no place, and long enough to be told of
    terminal = Terminal(bare, "scan", str(tree))
    assert terminal.end() == 1
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.shown)
    # How many, how much, how fast (once that is known) and for how long. No total: nobody knows it.
    far = r"reading files ━+ [12] read [\d.]+ [MG]B (\?|[\d.]+ [MG]B/s) \d:\d\d:\d\d"
    assert re.search(far, shown)
    assert parse(token).key_id in terminal.shown
    assert token[-43:] not in terminal.shown
    terminal = Terminal(bare, "scan", "-")
    assert terminal.end() == 2
