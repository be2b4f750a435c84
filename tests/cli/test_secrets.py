"""The command line on server secrets: what keys need which, and which can go."""

import pytest

from keylatch import SecretRing, parse

K2 = SecretRing.generate("k2")


@pytest.fixture
def rotating(cli):
    """The command line after a second server secret became the active one."""
    cli.env["KEYLATCH_SECRET"] = f"{K2},{cli.secret}"
    return cli


def status(cli, code, **options):
    """What ``secret status`` shows to people, on both streams."""
    done = cli.run("secret", "status", **options)
    assert done.returncode == code
    return done.stdout, done.stderr


def test_status_tells_when_the_old_secret_can_go(rotating, new):
    """It exits with 1 until no living key needs another one than the active one, for cron."""
    out, err = status(rotating, 1, env={"KEYLATCH_PREFIX": ""})
    assert out == "k2  active: 0 living keys, 0 dead\nk1  retired: 1 living keys, 0 dead\n"
    assert err == ""
    assert rotating.run("verify", stdin=new["token"]).returncode == 0  # moves it
    out, err = status(rotating, 0)
    assert out == "k2  active: 1 living keys, 0 dead\nk1  retired: 0 living keys, 0 dead\n"
    assert err == "keylatch: no living key needs k1: it can leave the ring\n"
    rotating.env["KEYLATCH_SECRET"] = K2
    assert rotating.run("verify", stdin=new["token"]).returncode == 0
    assert status(rotating, 0) == ("k2  active: 1 living keys, 0 dead\n", "")


def test_status_tells_programs_the_same(rotating, new):
    """As one JSON document."""
    done = rotating.run("secret", "status", "--json")
    assert done.returncode == 1
    assert '"done": false' in done.stdout
    rotating.run("revoke", new["key"]["id"], "--yes")
    rotating.sql("UPDATE api_keys SET hash = '$argon2id$v=19$m=7168,t=1,p=1$c2FsdHNhbHQ$x'")
    rotating.run("create", "--name", "ci")
    assert rotating.json("secret", "status") == {
        "done": True,
        "active": "k2",
        "removable": ["k1"],
        "missing": [],
        "secrets": [
            {"kid": "k2", "role": "active", "living": 1, "dead": 0, "imported": 0},
            {"kid": "k1", "role": "retired", "living": 0, "dead": 0, "imported": 0},
            {"kid": None, "role": "unkeyed", "living": 0, "dead": 1, "imported": 0},
        ],
    }


def test_a_secret_that_went_too_early_is_named(cli, new):
    """Commands that make or verify keys are refused; those that list and revoke are not."""
    cli.env["KEYLATCH_SECRET"] = K2
    for command in (["verify"], ["create", "--name", "ci"]):
        assert "not in the ring: k1" in cli.fails(4, *command, stdin=new["token"])
    out, err = status(cli, 1)
    assert "k1  not in the ring: 1 living keys" in out
    assert "living keys need k1, not in the ring" in err
    assert len(cli.json("list")["items"]) == 1
    cli.run("revoke", parse(new["token"]).key_id, "--yes")
    assert status(cli, 0)[1] == ""


def test_status_needs_a_secret_and_a_database(cli):
    """It says which one is missing."""
    assert "server secret is empty" in cli.fails(4, "secret", "status", env={"KEYLATCH_SECRET": ""})
    assert "--database" in cli.fails(2, "secret", "status", env={"KEYLATCH_DATABASE": ""})
    elsewhere = {"KEYLATCH_DATABASE": "sqlite+aiosqlite:////nowhere/keys.db"}
    assert "no such database file" in cli.fails(5, "secret", "status", env=elsewhere)
