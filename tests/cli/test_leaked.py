"""``keylatch leaked``: from tokens to their keys, and to the end of these, for their own alone."""

import asyncio
import csv
import json
import re
from datetime import datetime
from unittest.mock import patch

import pytest
from terminals import Terminal

from keylatch import APIKeys, Hasher, SecretRing, mint, parse
from keylatch.cli_output import OutputError


@pytest.fixture
def three(inside):
    """Three keys."""
    return [inside.json("create", "--name", name, "--owner", "u1") for name in "abc"]


def revoked(command_line):
    """The names of the keys that are revoked."""
    rows = command_line.sql("SELECT name FROM api_keys WHERE revoked_at IS NOT NULL ORDER BY name")
    return [name for (name,) in rows]


async def use(command_line, token):
    """Uses a key, as a client does. Tells when that was."""
    options = {"prefix": "acme_live", "secret": command_line.secret}
    async with APIKeys(command_line.env["KEYLATCH_DATABASE"], **options) as keys:
        key = await keys.verify(token)
        await keys.flush()
        return (await keys.get(key.id)).last_used_at


def lines(three):
    """Tokens as they are written to standard input."""
    return "".join(f" {new['token']}\r\n" for new in three)


def test_a_token_leads_to_its_key(inside, three):
    """Whose it is, since when and when it was last used; which is no use, and changes nothing."""
    new = three[0]
    used = asyncio.run(use(inside, new["token"]))
    assert inside.sql("SELECT sum(use_count) FROM api_keys") == [(1,)]
    shown = inside.run("leaked", stdin=new["token"])
    assert shown.returncode == 0
    rows = dict(re.split(" {2,}", line) for line in shown.stdout.splitlines())
    assert (rows["proven"], rows["owner"], rows["name"]) == ("yes", "u1", "a")
    assert (rows["status"], rows["uses"]) == ("active", "1")
    assert "created" in rows
    assert rows["last used"].startswith(f"{used:%Y-%m-%d %H:%M} UTC")
    assert new["token"][-43:] not in shown.stdout + shown.stderr
    (told,) = inside.json("leaked", stdin=new["token"])["items"]
    masked = f"acme_live_{new['key']['id']}_***"
    assert told == {
        "masked": masked,
        "key_id": new["key"]["id"],
        "proven": True,
        "sealed_by": parse(new["token"]).sealed_by(SecretRing(inside.secret)),
        "key": new["key"] | {"last_used_at": told["key"]["last_used_at"], "use_count": 1},
        "action": None,
        "token": None,
    }
    assert datetime.fromisoformat(told["key"]["last_used_at"]) == used
    assert inside.sql("SELECT count(*) FROM api_key_events") == [(3,)]
    assert inside.sql("SELECT sum(use_count) FROM api_keys") == [(1,)]


def test_revoke_ends_the_keys_of_several_tokens_with_the_reason(inside, three):
    """Each with an event; once for a token that stands there twice, and again without harm."""
    given = lines([three[0], three[1], three[0]])
    for _ in range(2):
        told = inside.json("leaked", "--revoke", "--yes", "--actor", "ops", stdin=given)["items"]
        assert [row["key"]["status"] for row in told] == ["revoked", "revoked"]
        assert revoked(inside) == ["a", "b"]
    events = inside.json("events", three[0]["key"]["id"])["items"]
    assert [event["action"] for event in events] == ["created", "revoked"]
    assert (events[-1]["actor"], events[-1]["details"]) == ("ops", {"reason": "leaked"})
    inside.json("leaked", "--revoke", "--yes", "--reason", "in a log", stdin=three[2]["token"])
    assert inside.json("events", three[2]["key"]["id"])["items"][-1]["details"] == {
        "reason": "in a log"
    }


def test_rotate_replaces_the_keys_and_writes_the_new_tokens(inside, three):
    """As CSV, or in the JSON; the leaked ones open nothing from then on."""
    done = inside.run("leaked", "--rotate", "--yes", stdin=lines(three[:2]))
    assert done.returncode == 0
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["replaces"] for row in rows] == [new["key"]["id"] for new in three[:2]]
    for row, old in zip(rows, three, strict=False):
        assert inside.json("verify", stdin=row["token"])["key"]["name"] == old["key"]["name"]
        assert "expired" in inside.fails(1, "verify", stdin=old["token"])
        assert row["token"][-43:] not in done.stderr
    event = inside.json("events", three[0]["key"]["id"])["items"][-1]
    assert (event["action"], event["details"]["reason"]) == ("rotated", "leaked")
    options = ("--rotate", "--yes", "--grace", "1h")
    (told,) = inside.json("leaked", *options, stdin=three[2]["token"])["items"]
    assert told["action"] == "rotated"
    assert inside.json("verify", stdin=told["token"])["valid"]
    assert inside.json("verify", stdin=three[2]["token"])["valid"]
    # One that was replaced before, and still works for the grace, is revoked.
    (told,) = inside.json("leaked", *options, stdin=three[2]["token"])["items"]
    assert (told["action"], told["token"]) == ("revoked", None)
    assert revoked(inside) == ["c"]


def test_a_made_up_token_ends_no_key(inside, three, wrong_secret):
    """Key ids are public: whoever writes one into a token must not have that key revoked."""
    token, key_id = three[0]["token"], three[0]["key"]["id"]
    forged = mint("acme_live", SecretRing(SecretRing.generate()))
    planted = [
        wrong_secret(token),
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        forged,
        "garbage",
        "sk_4eC39HqLyjWDarjtT1zdp7dc",
    ]
    for action in ("--revoke", "--rotate"):
        options = (action, "--yes")
        told = inside.json("leaked", *options, code=1, stdin="\n".join(planted))["items"]
        assert [row["action"] for row in told] == [None] * 4
        assert [row["proven"] for row in told] == [False] * 4
        assert told[0]["key"]["id"] == key_id
        assert [row["key"] for row in told[1:]] == [None] * 3
        assert (revoked(inside), inside.sql("SELECT count(*) FROM api_keys")) == ([], [(3,)])
    shown = inside.run("leaked", "--revoke", "--yes", stdin=planted[0])
    assert (shown.returncode, revoked(inside)) == (1, [])
    assert "anyone can write a key id into a token" in shown.stderr
    # With the right token beside it the key is ended for that one.
    told = inside.json("leaked", "--revoke", "--yes", stdin=f"{planted[0]}\n{token}")["items"]
    assert [row["proven"] for row in told] == [True]
    # And where the operator says so.
    other = wrong_secret(three[1]["token"])
    (told,) = inside.json("leaked", "--revoke", "--unproven", "--yes", stdin=other)["items"]
    assert (told["action"], told["proven"], revoked(inside)) == ("revoked", False, ["a", "b"])


@pytest.fixture
def results(inside, three, tmp_path, wrong_secret):
    """A tree with a leaked token and a three-up one, and what scan writes about it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "leak").write_text(f"{three[0]['token']}\n{wrong_secret(three[1]['token'])}\n")

    def results(**env):
        return json.dumps(inside.json("scan", str(tree), code=1, env=env))

    return results


@pytest.mark.parametrize("database", [True, False])
def test_the_results_of_scan_lead_to_the_keys_that_they_prove(inside, three, results, database):
    """With the server secret at hand, whether or not a database was."""
    given = results(**({} if database else {"KEYLATCH_DATABASE": ""}))
    told = inside.json("leaked", "--from", "-", "--revoke", "--yes", code=1, stdin=given)["items"]
    assert [row["proven"] for row in told] == [True, False]
    assert [row["key"]["id"] for row in told] == [new["key"]["id"] for new in three[:2]]
    assert revoked(inside) == ["a"]


def test_results_prove_nothing_that_they_only_say(inside, three, results, tmp_path):
    """Somebody who can write them, and has no server secret, cannot have keys revoked."""
    given = json.loads(results())
    good, bad = given["findings"]
    stranger = SecretRing(SecretRing.generate("k1"))
    text = f"keylatch scan: {bad['key_id']} {bad['fingerprint']}"
    forgeries = [
        None,
        good["proof"],
        "",
        "$argon2id$v=19$m=131072,t=10,p=4$AAAAAAAAAAAAAAAAAAAAAA$" + "A" * 43,
        Hasher(stranger).hash(text),
        inside.sql("SELECT hash FROM api_keys WHERE name = 'b'")[0][0],
    ]
    for proof in forgeries:
        rows = [bad | {"proven": True, "sealed_by": "k1", "proof": proof}]
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"findings": rows}))
        arguments = ("leaked", "--from", str(path), "--revoke", "--yes")
        assert inside.json(*arguments, code=1)["items"][0]["proven"] is False
    # A proof is one for its own token only.
    for change in ({"key_id": bad["key_id"]}, {"fingerprint": bad["fingerprint"]}):
        path.write_text(json.dumps({"findings": [good | change]}))
        assert inside.json(*arguments, code=1)["items"][0]["proven"] is False
    assert revoked(inside) == []


def test_results_without_a_server_secret_name_keys_and_prove_nothing(inside, three, results):
    """A machine that searches need not hold it; then the operator has to say so."""
    given = results(KEYLATCH_SECRET="", KEYLATCH_DATABASE="")
    arguments = ("leaked", "--from", "-", "--revoke", "--yes")
    inside.json(*arguments, code=1, stdin=given)
    assert revoked(inside) == []
    inside.json(*arguments, "--unproven", stdin=given)
    assert revoked(inside) == ["a", "b"]


def test_an_imported_token_leads_to_its_key(inside, three):
    """It has no format of ours; what replaces it needs a prefix."""
    token = "sk_4eC39HqLyjWDarjtT1zdp7dc"

    async def imported():
        options = {"prefix": "acme_live", "secret": inside.secret, "imported_tokens": True}
        async with APIKeys(inside.env["KEYLATCH_DATABASE"], **options) as keys:
            return await keys.import_token(token, name="old", weak=True)

    key = asyncio.run(imported())
    (told,) = inside.json("leaked", stdin=token)["items"]
    assert (told["key"]["id"], told["proven"], told["masked"]) == (key.id, True, None)
    options = ("leaked", "--rotate", "--yes")
    assert "--prefix" in inside.fails(2, *options, stdin=token, env={"KEYLATCH_PREFIX": ""})
    (told,) = inside.json(*options, stdin=token)["items"]
    assert parse(told["token"]).prefix == "acme_live"


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["--revoke", "--rotate", "--yes"], "x", "not both"),
        (["--revoke"], "x", "add --yes"),
        ([], " \n", "there is no token"),
        ([], "x " * 600_000, "1 MiB"),
        (["--from", "nowhere"], "", "cannot be read"),
        (["--from", "-"], "", "keylatch scan --json"),
        (["--from", "-"], "[" * 100_000, "keylatch scan --json"),
        (["--from", "-"], '{"findings": 1}', "keylatch scan --json"),
        (["--from", "-"], '{"findings": [1]}', "keylatch scan --json"),
        (["--from", "-"], '{"findings": [{"key_id": "x"}]}', "keylatch scan --json"),
        (["--grace", "x"], "x", "30m"),
    ],
)
def test_wrong_usage_is_told_in_a_line(inside, three, arguments, stdin, says):
    """And changes nothing."""
    assert says in inside.fails(2, "leaked", *arguments, stdin=stdin)
    assert revoked(inside) == []


def test_without_server_secret_or_database_nothing_is_told(inside, three):
    """Neither could be told whose a token is."""
    token = three[0]["token"]
    inside.fails(4, "leaked", stdin=token, env={"KEYLATCH_SECRET": ""})
    inside.fails(2, "leaked", stdin=token, env={"KEYLATCH_DATABASE": ""})
    inside.fails(5, "leaked", stdin=token, env={"KEYLATCH_DATABASE": "sqlite:////nowhere/x"})


def test_no_end_without_a_yes(cli, new):
    """On a terminal the token is typed hidden, and the keys are named before they end."""
    for line, code in [("n", 130), ("y", 0)]:
        assert cli.sql("SELECT revoked_at FROM api_keys") == [(None,)]
        terminal = Terminal(cli, "leaked", "--revoke")
        terminal.answer("Token (hidden): ", new["token"])
        terminal.answer(f"Revoke 1 key, for good: {new['key']['id']} (ci)? [y/N] ", line)
        assert terminal.end() == code
        assert new["token"][-43:] not in terminal.shown
    assert cli.sql("SELECT count(revoked_at) FROM api_keys") == [(1,)]


def test_a_key_that_is_replaced_meanwhile_stops_no_rotation(cli, new, tmp_path):
    """Its leaked token is ended all the same, and so are those behind it."""
    other = cli.json("create", "--name", "other")
    (tmp_path / "leak").write_text(f"{new['token']}\n{other['token']}\n")
    (tmp_path / "found").write_text(cli.run("scan", str(tmp_path / "leak"), "--json").stdout)
    terminal = Terminal(cli, "leaked", "--from", str(tmp_path / "found"), "--rotate")
    terminal.child.expect_exact("for good")
    cli.json("rotate", new["key"]["id"], "--grace", "1h")
    terminal.answer("[y/N] ", "y")
    assert terminal.end() == 0
    for made in (new, other):
        assert cli.run("verify", stdin=made["token"]).returncode == 1
    assert len(cli.json("list", "--status", "active")["items"]) == 2


def test_new_tokens_that_cannot_be_written_are_told_of(inside, three):
    """Nobody has them, so that their keys have to go."""
    with patch("keylatch.cli_output.write", side_effect=OutputError("full")):
        told = inside.fails(74, "leaked", "--rotate", "--yes", stdin=three[0]["token"])
    successor = inside.sql("SELECT successor FROM api_keys WHERE name = 'a' AND successor != ''")
    assert f"revoke {successor[0][0]}" in told
