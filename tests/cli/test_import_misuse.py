"""``keylatch import article`` where it cannot work, and what other commands make of its keys."""

import json

import article_rows as article
import pytest

from keylatch import SecretRing

COMMAND = ("import", "article")
COUNT = 3


@pytest.fixture
def url(tmp_path):
    """A small database of the article's app."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    article.make(url, COUNT)
    return url


def test_verify_show_and_rotate_know_imported_keys(inside, url):
    """A rotation needs a prefix, and says so."""
    inside.json(*COMMAND, url)
    token = article.rows(url)[0].secret_key
    key = inside.json("verify", stdin=token)["key"]
    assert (key["owner"], key["prefix"]) == ("user0", "")
    assert "none, since its token was imported" in inside.run("show", key["id"]).stdout
    refused = inside.fails(2, "rotate", key["id"], "--grace", "0h", env={"KEYLATCH_PREFIX": ""})
    assert "--prefix" in refused
    new = inside.json("rotate", key["id"], "--grace", "0h")
    assert new["key"]["prefix"] == "acme_live"
    assert "expired" in inside.fails(1, "verify", stdin=token)
    assert inside.json("verify", stdin=new["token"])["key"]["owner"] == "user0"
    inside.env["KEYLATCH_SECRET"] = f"{SecretRing.generate('k2')},{inside.env['KEYLATCH_SECRET']}"
    status = inside.run("secret", "status")
    assert f"{COUNT} living keys ({COUNT - 1} of them imported), 1 dead" in status.stdout
    assert "do not move when they are used" in status.stderr
    document = json.loads(inside.run("secret", "status", "--json").stdout)
    assert [each["imported"] for each in document["secrets"]] == [0, COUNT - 1]


def test_the_url_may_stand_in_the_environment(inside, url):
    """Where other users of the machine do not see its password, as they see arguments."""
    inside.env["KEYLATCH_ARTICLE"] = url
    assert inside.json(*COMMAND)["imported"] == COUNT
    inside.env["KEYLATCH_ARTICLE"] = "postgresql+psycopg://u:hunter22@127.0.0.1:1/x"
    assert "hunter22" not in inside.fails(5, *COMMAND)
    assert "hunter22" not in inside.run(*COMMAND, "--help").stdout


def test_what_cannot_be_imported_says_what_to_do(inside, url, tmp_path):
    """Wrong URLs, other tables, no server secret: an exit code, and nothing is written."""
    (tmp_path / "empty.db").touch()
    for code, source, said in [
        (5, f"sqlite:///{tmp_path}/nowhere.db", "no such database file: check the path in URL"),
        (4, f"sqlite:///{tmp_path}/empty.db", "needs a table users with the columns user_id"),
        (4, inside.env["KEYLATCH_DATABASE"], "no database of the article's app"),
        (4, "nosuch://u:hunter22@db/x", "begin the URL with"),
        (4, "u:hunter22@db", "the article's database cannot be read as one"),
        (5, "postgresql+psycopg://u:hunter22@127.0.0.1:1/x", "the article's database failed"),
        (4, "postgresql+psycopg2://u:hunter22@127.0.0.1:1/x", "psycopg2 is not installed"),
    ]:
        inside.run("create", "--name", "ci")
        error = inside.fails(code, *COMMAND, source)
        assert said in error
        assert "hunter22" not in error
    assert "KEYLATCH_SECRET" in inside.fails(4, *COMMAND, url, env={"KEYLATCH_SECRET": ""})
    assert "--prefix" in inside.fails(2, *COMMAND, url, env={"KEYLATCH_PREFIX": ""})
    assert "--database" in inside.fails(2, *COMMAND, url, env={"KEYLATCH_DATABASE": ""})
    assert "URL" in inside.fails(2, *COMMAND)
    assert "scope" in inside.fails(2, *COMMAND, url, "--scope", "a b")
    assert inside.json("list", "--prefix", "")["items"] == []
    inside.sql("UPDATE keylatch_version SET version_num = '0001'")
    assert "keylatch db upgrade" in inside.fails(4, *COMMAND, url)
