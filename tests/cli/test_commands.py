"""The command line in scripts: what each command answers through a pipe."""

import json
import re
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from keylatch import SecretRing, parse

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_secret_prints_a_server_secret_and_nothing_else(bare):
    """What ``keylatch secret`` writes can be the environment variable as it stands."""
    done = bare.run("secret", "--kid", "k7", env={"KEYLATCH_SECRET": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert SecretRing(done.stdout.removesuffix("\n")).kids == ["k7"]


def test_a_created_key_verifies_until_it_is_revoked(bare):
    """The token of create passes verify with its scopes, and no more after revoke."""
    created = bare.run("create", "--name", "ci", "--scope", "a", "--scope", "b")
    token = created.stdout
    assert token.count("\n") == 1
    assert token.strip() not in created.stderr
    assert bare.json("verify", "--scope", "a", stdin=token)["key"]["scopes"] == ["a", "b"]
    shown = bare.run("verify", stdin=token)
    assert (shown.returncode, shown.stderr) == (0, "")
    key_id = parse(token.strip()).key_id
    revoked = bare.json("revoke", key_id, "--yes", "--reason", "leaked", "--actor", "ops")
    assert (revoked["id"], revoked["status"]) == (key_id, "revoked")
    assert bare.sql("SELECT revoked_reason FROM api_keys") == [("leaked",)]
    assert "revoked" in bare.fails(1, "verify", stdin=token)


def test_create_writes_what_it_was_told(bare):
    """Every option of create reaches the key and its audit trail."""
    options = ("--owner", "u1", "--metadata", '{"team": "data"}', "--actor", "ops")
    made = bare.json("create", "--name", "ci", "--expires-at", "2100-01-01T01:00+01:00", *options)
    key = made["key"]
    assert (key["name"], key["owner"], key["metadata"]) == ("ci", "u1", {"team": "data"})
    assert (key["expires_at"], key["status"]) == ("2100-01-01T00:00:00+00:00", "active")
    assert bare.json("verify", stdin=made["token"]) == {"valid": True, "key": key}
    assert bare.sql("SELECT actor FROM api_key_events") == [("ops",)]


def test_options_go_before_the_environment(cli):
    """The database and the prefix can be given as options, too."""
    options = ("--database", cli.env["KEYLATCH_DATABASE"])
    env = {"KEYLATCH_DATABASE": options[1] + ".other"}
    made = cli.json("create", "--name", "ci", "--prefix", "other", *options, env=env)
    assert made["key"]["prefix"] == "other"
    assert len(cli.json("list", *options, env=env)["items"]) == 2


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations_are_minutes_hours_days_or_weeks(bare, text, duration):
    """A key lives as long as --expires-in says."""
    key = bare.json("create", "--name", "ci", "--expires-in", text)["key"]
    expires_at, created_at = (
        datetime.fromisoformat(key[name]) for name in ("expires_at", "created_at")
    )
    assert expires_at - created_at == duration


def test_list_filters_and_pages(cli, new):
    """List goes page by page, or to the end with --all, newest first, for an owner or a status."""
    second = cli.json("create", "--name", "second", "--owner", "u2")["key"]
    first_page = cli.json("list", "--limit", "1")
    rest = cli.json("list", "--cursor", first_page["next_cursor"])
    assert first_page["items"] == [second]
    assert rest == {"items": [new["key"]], "next_cursor": None}
    every = cli.json("list", "--all", "--limit", "1")
    assert every == {"items": [second, new["key"]], "next_cursor": None}
    assert cli.json("list", "--owner", "u1")["items"] == [new["key"]]
    assert cli.json("list", "--status", "revoked")["items"] == []
    assert first_page["next_cursor"] in cli.run("list", "--limit", "1").stderr


def test_list_and_revoke_need_no_server_secret_and_no_prefix(cli, new):
    """Who has the database's address alone can still find and stop a key."""
    env = {"KEYLATCH_SECRET": "", "KEYLATCH_PREFIX": ""}
    assert cli.json("list", env=env)["items"] == [new["key"]]
    assert cli.json("revoke", new["key"]["id"], "--yes", env=env)["status"] == "revoked"


def test_a_key_stands_on_one_line_of_a_pipe(cli, new):
    """Programs that read lines find a key's values side by side, without colours or blanks."""
    lines = cli.run("list").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:5] == [new["key"]["id"], "ci", "u1", "items:read", "active"]
    assert not any("\x1b" in line or line.endswith(" ") for line in lines)


def test_the_longest_values_stay_on_the_line_of_a_pipe(inside):
    """Whatever a key is called and may do, and whatever its trail tells of it."""
    scopes = [text for n in range(64) for text in ("--scope", f"{n:02}:{'s' * 61}")]
    made = inside.json("create", "--name", "n" * 255, "--owner", "o" * 255, *scopes)["key"]
    lines = inside.run("list").stdout.splitlines()
    assert lines[1].split()[:3] == [made["id"], "n" * 255, "o" * 255]
    inside.json("update", made["id"], "--metadata", json.dumps({"m": "m" * 8000}))
    assert [
        len(inside.run(*command).stdout.splitlines())
        for command in (("list",), ("events", made["id"]))
    ] == [2, 3]


def test_verify_tells_programs_why_with_a_code(cli, new):
    """A refused token exits with 1, and --json tells why on standard output."""
    other = new["token"].replace("acme_live", "acme_test")
    for stdin, scope, code in [
        ("nonsense", "items:read", "invalid_key"),
        ("\u00ff\0" * 5000, "items:read", "invalid_key"),
        (other, "items:read", "invalid_key"),
        (new["token"], "items:write", "insufficient_scope"),
    ]:
        done = cli.run("verify", "--json", "--scope", scope, stdin=stdin)
        told = json.loads(done.stdout)
        assert (done.returncode, told["valid"], told["code"]) == (1, False, code)
        assert done.stderr == f"keylatch: {told['detail']}\n"


def test_inspect_tells_the_parts_of_a_token(bare, new):
    """Prefix, key id, checksum and seal of a token, without a database."""
    token = new["token"]
    parts = {
        "masked": f"acme_live_{new['key']['id']}_***",
        "prefix": "acme_live",
        "key_id": new["key"]["id"],
        "checksum": "right",
    }
    no_database = {"KEYLATCH_DATABASE": "", "KEYLATCH_PREFIX": ""}
    told = bare.json("inspect", stdin=f"  {token}\r\n", env=no_database)
    assert told == parts | {"seal_checked": True, "sealed_by": "k1"}
    told = bare.json("inspect", stdin=token, env={"KEYLATCH_SECRET": ""})
    assert told == parts | {"seal_checked": False, "sealed_by": None}
    foreign = {"KEYLATCH_SECRET": SecretRing.generate("k2")}
    shown = bare.run("inspect", stdin=token, env=foreign)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "none of k2" in shown.stdout
    assert token[-55:] not in shown.stdout


def test_inspect_refuses_a_mistyped_token_and_still_names_its_key(bare, new):
    """A wrong checksum is told as such, with the key id; what has no token's shape has neither."""
    token = new["token"]
    mistyped = token[:-1] + ("0" if token[-1] != "0" else "1")
    done = bare.run("inspect", "--json", stdin=mistyped)
    told = json.loads(done.stdout)
    assert (done.returncode, told["checksum"], told["seal_checked"]) == (1, "wrong", False)
    assert (told["key_id"], told["sealed_by"]) == (new["key"]["id"], None)
    assert "checksum is wrong" in done.stderr
    cut = bare.run("inspect", "--json", stdin=token[:-1])
    assert (cut.returncode, json.loads(cut.stdout)["masked"]) == (1, None)
    assert "not a keylatch token" in bare.fails(1, "inspect", stdin=token[:-1])


def test_nothing_from_a_key_steers_the_terminal(cli):
    """Markup stays as it was written, and control and direction characters are escaped."""
    cli.json("create", "--name", "[red]bold[/red]:smile:\u202egnp.exe", "--owner", "\u00e9")
    cli.sql("UPDATE api_keys SET name = char(27) || '[31mred' || char(7) WHERE owner = 'u1'")
    shown = cli.run("list").stdout
    assert "[red]bold[/red]:smile:\\u202egnp.exe" in shown
    assert "\\x1b[31mred\\x07" in shown
    assert "\u00e9" in shown
    assert not set(shown) & set("\x1b\x07\u202e")
    assert cli.run("list", "--json").stdout.isascii()
    assert "\\xe9" in cli.run("list", env={"PYTHONIOENCODING": "ascii"}).stdout


def test_help_documents_every_exit_code(bare):
    """The numbers that scripts rely on stand in the help, which comes without arguments too."""
    shown = bare.run("--help")
    assert shown.stdout == bare.run().stdout
    listed = shown.stdout.split("Exit codes:")[1].splitlines()
    codes = [line.split()[0] for line in listed if line.strip()]
    assert codes == ["0", "1", "2", "3", "4", "5", "6", "7", "70", "74", "130", "141"]


def test_version_names_the_one_that_is_installed(inside):
    """For a report of a defect, or a script that asks for a later one."""
    assert inside.run("--version").stdout == f"keylatch {metadata.version('keylatch')}\n"


def test_the_readme_names_no_command_that_there_is_not(inside):
    """The help has all of those that it shows."""
    listed = inside.run("--help").stdout.split("Commands:\n")[1].split("\n\n")[0]
    commands = {line.split()[0] for line in listed.splitlines()}
    assert "..." not in listed
    named = set(re.findall(r"(?:`|^)keylatch (\w[\w-]*)", README, re.MULTILINE))
    assert len(named) > 3
    assert named <= commands
