"""Commands that read and change keys, given what they cannot take: one line, nothing changed."""

import pytest

KEY = "0123456789abcdef"


@pytest.fixture
def new(inside):
    """A key and its token."""
    return inside.json("create", "--name", "ci", "--owner", "u1")


@pytest.mark.usefixtures("new")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show"], "Missing argument"),
        (["events", KEY, "more"], "more"),
        (["expiring"], "--within"),
        (["expiring", "--within", "14"], "30m (minutes), 12h, 90d or 2w"),
        (["expiring", "--within", "-1d"], "30m (minutes), 12h, 90d or 2w"),
        (["expiring", "--within", "1.5h"], "30m (minutes), 12h, 90d or 2w"),
        (["expiring", "--within", "5201w"], "at most 5200w"),
        (["unused"], "--for"),
        (["unused", "--for", "3y"], "30m (minutes), 12h, 90d or 2w"),
        (["list", "--unused-for", "99999999w"], "at most 5200w"),
        (["list", "--scope", "a b"], "a scope is"),
        (["list", "--cursor", "Y3g="], "cursor"),
        (["update", KEY], "nothing to update"),
        (["update", KEY, "--scope", "a", "--no-scopes"], "--scope or --no-scopes"),
        (["update", KEY, "--expires-in", "1d", "--never-expires"], "--never-expires"),
        (["update", KEY, "--metadata", "{"], "JSON object"),
        (["update", KEY, "--name", "ci", "--actor", ""], "actor must be"),
        (["rotate", KEY], "--grace"),
        (["rotate", KEY, "--grace", "24h", "--expires-in", "0d"], "in the future"),
        (["revoke", "--yes"], "--owner"),
        (["revoke", KEY, "--owner", "u1", "--yes"], "--owner"),
        (["revoke", "--owner", "u1"], "add --yes"),
        (["purge", "--yes"], "--dead-for"),
        (["purge", "--dead-for", "1h"], "add --yes"),
        (["purge", "--dead-for", "0d", "--yes"], "at least an hour"),
    ],
)
def test_wrong_usage_exits_with_2_and_changes_nothing(inside, arguments, says):
    """The line names the option or the form that is wanted; scripts must say --yes."""
    assert says in inside.fails(2, *arguments)
    assert inside.sql("SELECT name, revoked_at, successor FROM api_keys") == [("ci", None, None)]


def test_a_token_in_the_place_of_an_id_is_refused_and_not_shown(inside, new):
    """Of the collection's format, or of another one; whole, and as ``inspect`` masks it."""
    token = new["token"]
    foreign = "sk-live-" + token[-55:]
    masked = inside.json("inspect", stdin=token)["masked"]
    for command in (
        ("show",),
        ("events",),
        ("update", "--name", "x"),
        ("rotate", "--grace", "0h"),
        ("revoke", "--yes"),
    ):
        assert "looks like a token" in inside.fails(2, *command, token)
        for text in (foreign, masked):
            told = inside.fails(3, *command, text)
            assert "the 16 characters of key.id" in told
            assert text[-10:] not in told
    assert inside.sql("SELECT revoked_at, successor FROM api_keys") == [(None, None)]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "--database URL, or set KEYLATCH_DATABASE"),
        ("hunter2.db", "pass a URL such as"),
        ("postgres://u:hunter2@host/keys", "postgresql+asyncpg://"),
        ("mysql://u:hunter2@host/keys", "mariadb+asyncmy://"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///{}/other.db", "no such database file"),
    ],
)
def test_a_wrong_url_is_said_without_its_password(inside, tmp_path, url, says):
    """A missing one is wrong usage, an impossible one a matter of configuration."""
    code = 2 if not url else 5 if "other" in url else 4
    env = {"KEYLATCH_DATABASE": url.format(tmp_path)}
    for command in (("show", KEY), ("unused", "--for", "1d"), ("rotate", KEY, "--grace", "1h")):
        told = inside.fails(code, *command, env=env)
        assert says in told
        assert "hunter2" not in told
    assert not (tmp_path / "other.db").exists()


def test_a_rotation_without_the_server_secret_exits_with_4(inside, new):
    """It is refused before the old key is touched."""
    told = inside.fails(4, "rotate", new["key"]["id"], "--grace", "0h", env={"KEYLATCH_SECRET": ""})
    assert "KEYLATCH_SECRET is not set" in told
    assert inside.sql("SELECT expires_at FROM api_keys") == [(None,)]


def test_a_user_without_a_name_is_told_of_as_the_command_line(inside, new, monkeypatch):
    """As in a container whose user stands in no list."""

    def nobody():
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    inside.json("revoke", new["key"]["id"], "--yes")
    assert inside.json("events", new["key"]["id"])["items"][-1]["actor"] == "cli"
