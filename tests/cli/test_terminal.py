"""The command line on a terminal: prompts, colours, narrow windows and Ctrl-C."""

import re

import pytest
from terminals import Terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TOKEN = re.compile(r"^acme_live_[0-9a-z]{16}_[0-9A-Za-z]{55}\r$", re.MULTILINE)


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_token_is_typed_at_a_hidden_prompt(cli, new, command):
    """On a terminal the token is asked for, and neither echoed nor printed."""
    terminal = Terminal(cli, command)
    terminal.answer("Token (hidden): ", new["token"])
    assert terminal.end() == 0
    assert new["key"]["id"] in terminal.shown
    assert new["token"][-55:] not in terminal.shown


def test_revoke_asks_first(cli, new):
    """Only a yes revokes; anything else exits with 130 and changes nothing."""
    for line, code in [("", 130), ("yes please", 130), ("y", 0)]:
        assert cli.sql("SELECT revoked_at FROM api_keys") == [(None,)]
        terminal = Terminal(cli, "revoke", new["key"]["id"])
        terminal.answer("(ci) of u1, for good? [y/N] ", line)
        assert terminal.end() == code
        assert ("nothing was changed" in terminal.shown) == (code == 130)
    assert cli.sql("SELECT count(revoked_at) FROM api_keys") == [(1,)]


def test_the_question_of_revoke_obeys_no_escape_sequence(cli, new):
    """A name that another program wrote into the database cannot disguise the question."""
    cli.sql("UPDATE api_keys SET name = char(27) || '[2Jother' || char(13)")
    terminal = Terminal(cli, "revoke", new["key"]["id"])
    terminal.answer("(\\x1b[2Jother\\r) of u1", "n")
    assert terminal.end() == 130


def test_revoke_of_an_unknown_key_does_not_ask(cli):
    """There is nothing to ask about a key that is not there."""
    assert Terminal(cli, "revoke", "0123456789abcdef").end() == 3


def test_ctrl_c_at_a_prompt_exits_with_130(cli, new):
    """Whoever stops at a question sees no traceback, and nothing has changed."""
    for arguments, question in [
        (["verify"], "Token (hidden): "),
        (["inspect"], "Token (hidden): "),
        (["revoke", new["key"]["id"]], "[y/N] "),
    ]:
        terminal = Terminal(cli, *arguments)
        terminal.interrupt(question)
        assert terminal.end() == 130
    assert cli.sql("SELECT revoked_at FROM api_keys") == [(None,)]


def test_create_says_that_the_token_is_not_shown_again(bare):
    """On a terminal the token stands on a line of its own, whole, however narrow the window."""
    terminal = Terminal(bare, "create", "--name", "ci", columns=30)
    assert terminal.end() == 0
    assert TOKEN.search(terminal.shown)
    assert "not shown again" in terminal.shown


def test_a_narrow_window_shows_every_value(cli, new):
    """Where a table would not fit, each value has its line, no line is too long, no id is cut."""
    name = "a name that is much longer than a window of thirty columns"
    cli.json("create", "--name", name)
    terminal = Terminal(cli, "list", columns=30, NO_COLOR="1")
    assert terminal.end() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown).splitlines()
    assert max(map(len, lines)) <= 30
    assert any(line.endswith(new["key"]["id"]) for line in lines)
    assert name.replace(" ", "") in "".join(lines).replace(" ", "")


def test_colours_can_be_turned_off(cli):
    """A terminal shows the status in colour, but not with NO_COLOR, and never in JSON."""
    for options, env, coloured in [
        ((), {}, True),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"TERM": "dumb"}, False),
        (("--json",), {}, False),
    ]:
        terminal = Terminal(cli, "list", *options, columns=120, **env)
        assert terminal.end() == 0
        assert "active" in terminal.shown
        assert bool(COLOUR.search(terminal.shown)) == coloured


def test_create_from_shows_how_far_it_is(bare, tmp_path):
    """A bar on standard error; it is no part of the answer."""
    source = tmp_path / "keys.csv"
    source.write_text("name\n" + "ci\n" * 700)
    arguments = ("create", "--from", str(source), "--output", str(tmp_path / "tokens.csv"))
    terminal = Terminal(bare, *arguments)
    assert terminal.end() == 0
    assert re.search(r"\d+/700", terminal.shown)
    assert "700 keys were made" in terminal.shown
    assert "acme_live_" not in terminal.shown


def test_what_ends_many_keys_asks_with_their_number(cli, new):
    """Revoking all keys of an owner, and purging, count first and do nothing without a yes."""
    for line, code in [("n", 130), ("y", 0)]:
        assert cli.sql("SELECT revoked_at FROM api_keys") == [(None,)]
        terminal = Terminal(cli, "revoke", "--owner", "u1")
        terminal.answer("Revoke 1 key of u1, for good? [y/N] ", line)
        assert terminal.end() == code
    assert terminal.shown.endswith("revoked 1 key of u1\r\n")
    cli.let_two_hours_pass()
    for line, code in [("", 130), ("yes", 0)]:
        assert cli.sql("SELECT id FROM api_keys") == [(new["key"]["id"],)]
        terminal = Terminal(cli, "purge", "--dead-for", "1h")
        terminal.answer("for good? [y/N] ", line)
        assert terminal.end() == code
        assert "Delete 1 key that had ended by" in terminal.shown
    assert cli.sql("SELECT count(*) FROM api_keys") == [(0,)]


def test_a_narrow_window_cuts_no_id_and_no_token_of_a_rotation(cli, new):
    """In forty columns the new token has its line, and the old key names its successor whole."""
    old = new["key"]["id"]
    terminal = Terminal(cli, "rotate", old, "--grace", "24h", columns=40)
    assert terminal.end() == 0
    assert TOKEN.search(terminal.shown)
    ((successor,),) = cli.sql("SELECT successor FROM api_keys WHERE id = ?", old)
    shown = {}
    for command in ("show", "events"):
        terminal = Terminal(cli, command, old, columns=40)
        assert terminal.end() == 0
        assert COLOUR.search(terminal.shown) or command == "events"
        shown[command] = ESCAPE.sub("", terminal.shown)
        assert max(map(len, shown[command].splitlines())) <= 40
        assert successor in shown[command]
    assert "(in 24 hours)" in " ".join(shown["show"].split())
    assert "rotated" in shown["events"]


def test_reading_many_keys_shows_how_far_it_is(cli, new):
    """On a terminal, and gone when the answer comes; without colours if none are wanted."""
    columns = [row[1] for row in cli.sql("PRAGMA table_info(api_keys)") if row[1] != "id"]
    cli.sql(
        "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 1200) "
        f"INSERT INTO api_keys (id, {', '.join(columns)}) "
        f"SELECT printf('%016d', n), {', '.join(columns)} FROM many, api_keys"
    )
    terminal = Terminal(cli, "list", "--all", "--json", NO_COLOR="1")
    assert terminal.end() == 0
    assert "reading keys" in terminal.shown
    assert not COLOUR.search(terminal.shown)
    assert '"next_cursor": null' in ESCAPE.sub("", terminal.shown).splitlines()[-2]


def test_a_reminder_of_nothing_says_so_to_a_person(cli):
    """On a terminal silence would leave one wondering."""
    terminal = Terminal(cli, "expiring", "--within", "14d")
    assert terminal.end() == 0
    assert "no active key expires before 2" in terminal.shown
    terminal = Terminal(cli, "unused", "--for", "0d", columns=120)
    assert terminal.end() == 1
    assert "last used (UTC)" in terminal.shown
