"""``keylatch import article``: the keys of the article's own app, with all their oddities."""

import asyncio
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing

import article_rows as article
import pytest
import stores
from subject import SILENT
from terminals import Terminal

from keylatch import APIKeys, SecretRing
from keylatch.article import ArticleDatabase
from keylatch.article_import import ArticleImport
from keylatch.errors import InvalidKeyError

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
USERS = 2000
COMMAND = ("import", "article")
# Of each of the article's rows; those that become no key are named by `add_odd_rows`.
COUNT = USERS + 1


@pytest.fixture(scope="session")
def made_article(tmp_path_factory):
    """A database that the article's own code has filled."""
    path = tmp_path_factory.mktemp("article") / "app.db"
    article.make(f"sqlite:///{path}", USERS)
    return path


@pytest.fixture
def app(tmp_path, made_article, secret):
    """A copy of it with odd rows: its URL, and why each of these becomes no key."""
    shutil.copy(made_article, tmp_path / "app.db")
    url = f"sqlite:///{tmp_path / 'app.db'}"
    return url, article.add_odd_rows(url, secret, "acme_live")


def reasons(document):
    """Why rows became no key, by row."""
    return {each["row"]: each["reason"] for each in document["left_out"]}


def sums(document):
    """How many rows became what."""
    return tuple(document[name] for name in ("imported", "imported_before", "emptied"))


def collection(cli, url=None):
    """The keys of the command line."""
    secret = cli.env["KEYLATCH_SECRET"]
    options = {"prefix": "acme_live", "imported_tokens": True, "unsealed_lookups": 1_000_000}
    return APIKeys(url or cli.env["KEYLATCH_DATABASE"], secret=secret, **options, **SILENT)


def owners(cli, url, rows):
    """Whom keylatch takes the tokens of rows for; "refused" if for nobody."""

    async def whole():
        found = []
        async with collection(cli, url) as keys:
            for row in rows:
                try:
                    found.append((await keys.verify(row.secret_key)).owner)
                except InvalidKeyError:
                    found.append("refused")
        return found

    return asyncio.run(whole())


def sendable(row):
    """Whether a row has what a client could send at all."""
    return isinstance(row.secret_key, str) and row.secret_key


def test_every_row_becomes_a_key_or_is_named(inside, app):
    """Every old token finds its user, as with the article's own code, and no row is lost."""
    url, odd = app
    before = article.rows(url)
    document = inside.json(*COMMAND, url, "--scope", "a", "--scope", "b", "--actor", "me", code=1)
    assert reasons(document) == odd
    assert document["rows"] == len(before) == COUNT + len(odd)
    assert sums(document) == (COUNT, 0, 0)
    assert article.rows(url) == before
    rows = list(filter(sendable, before))
    found = owners(inside, inside.env["KEYLATCH_DATABASE"], rows)
    first = {row.secret_key: row for row in reversed(rows)}
    for row, owner in zip(rows, found, strict=True):
        left_out = odd.get(first[row.secret_key].id)
        assert owner == ("refused" if left_out else first[row.secret_key].user_id)
    sample = [*range(0, USERS, 100), *range(USERS, len(rows))]
    theirs = article.whose(url, [rows[number].secret_key for number in sample])
    for number, whose in zip(sample, theirs, strict=True):
        reason = odd.get(rows[number].id)
        if reason in (None, "public_key"):
            assert found[number] == whose
    assert theirs.count("refused") >= 4
    keys = inside.json("list", "--all", "--prefix", "")["items"]
    assert len(keys) == COUNT
    (key,) = [key for key in keys if key["metadata"] == {"user_api_keys": 7}]
    assert (key["owner"], key["name"], key["prefix"]) == ("user6", "user_api_keys 7", "")
    assert key["scopes"] == ["a", "b"]
    (event,) = inside.json("events", key["id"])["items"]
    assert (event["action"], event["actor"]) == ("imported", "me")


def test_another_run_changes_nothing(inside, app):
    """Under whatever server secret is active by then, and after keys were revoked or rotated."""
    url, odd = app
    inside.json(*COMMAND, url, code=1)
    ended, rotated = [key["id"] for key in inside.json("list", "--limit", "2")["items"]]
    inside.json("revoke", ended, "--yes")
    inside.json("rotate", rotated, "--grace", "0h")
    keys = inside.json("list", "--all")
    inside.env["KEYLATCH_SECRET"] = f"{SecretRing.generate('k2')},{inside.env['KEYLATCH_SECRET']}"
    document = inside.json(*COMMAND, url, code=1)
    assert sums(document) == (0, COUNT, 0)
    assert reasons(document) == odd
    assert inside.json("list", "--all") == keys


def test_users_that_are_no_text_own_nothing(inside, app):
    """They are named: read as text, different ones would be the same."""
    url, odd = app
    numbers = (9001, 9002)
    for number, user in zip(numbers, ("x'ff41'", "x'fe41'"), strict=True):
        article.execute(
            url,
            f"INSERT INTO users (id, user_id) VALUES ({number}, {user})",
            "INSERT INTO user_api_keys (id, user_id, secret_key, public_key) "
            f"SELECT {number}, {user}, 'MV_SECRET_{number}', public_key "
            "FROM user_api_keys WHERE id = 1",
        )
    document = inside.json(*COMMAND, url, code=1)
    assert reasons(document) == odd | dict.fromkeys(numbers, "user_id")
    assert sums(document) == (COUNT, 0, 0)


def test_plaintext_is_emptied_of_what_has_a_key(inside, app):
    """Duplicates included, and nothing else; after that another run knows what it had emptied."""
    url, odd = app
    before = article.rows(url)
    document = inside.json(*COMMAND, url, "--empty-plaintext", code=1)
    with_key = {row.id for row in before if odd.get(row.id) is None}
    with_key |= {row.id for row in before if row.secret_key == before[0].secret_key}
    assert sums(document) == (COUNT, 0, len(with_key))
    assert len(with_key) == COUNT + 2
    for old, new in zip(before, article.rows(url), strict=True):
        assert new.secret_key == ("" if old.id in with_key else old.secret_key)
        assert (new.user_id, new.public_key) == (old.user_id, old.public_key)
    again = inside.json(*COMMAND, url, "--empty-plaintext", code=1)
    assert sums(again) == (0, COUNT, 0)
    empty = {row: "empty" if row in with_key else reason for row, reason in odd.items()}
    assert reasons(again) == empty


def test_a_database_in_another_encoding_is_read_as_well(inside, tmp_path):
    """And keylatch's tables may stand in the same file, whoever made it."""
    path = tmp_path / "app.db"
    url = f"sqlite:///{path}"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16be'")
        connection.execute("CREATE TABLE other (x)")
    article.make(url, 3)
    inside.env["KEYLATCH_DATABASE"] = url
    rows = article.rows(url)
    assert sums(inside.json(*COMMAND, url)) == (3, 0, 0)
    assert owners(inside, url, rows) == ["user0", "user1", "user2"]
    assert sums(inside.json(*COMMAND, url, "--empty-plaintext")) == (0, 3, 3)
    assert {row.secret_key for row in article.rows(url)} == {""}
    assert sums(inside.json(*COMMAND, url, "--empty-plaintext")) == (0, 3, 0)


def test_a_secret_that_was_changed_meanwhile_is_not_emptied(inside, app):
    """What is compared is the row as it is then, not as it was when its token was imported."""
    url, _ = app

    async def whole():
        source = ArticleDatabase(url)
        async with collection(inside) as keys:
            work = ArticleImport(keys, source)
            await work.run(lambda _: None)
            article.execute(url, "UPDATE user_api_keys SET secret_key = 'another-1' WHERE id = 2")
            article.execute(url, "DELETE FROM user_api_keys WHERE id = 3")
            assert await work.empty(lambda _: None) == work.can_be_emptied - 2
        await source.close()

    asyncio.run(whole())
    left = {row.id: row.secret_key for row in article.rows(url)}
    assert (left[1], left[2], left[4]) == ("", "another-1", "")


def test_two_imports_at_once_import_each_row_once(inside, app):
    """Whoever is later with a row finds it imported."""
    url, odd = app

    async def whole():
        sources = [ArticleDatabase(url) for _ in range(2)]
        async with collection(inside) as keys:
            works = [ArticleImport(keys, source) for source in sources]
            reports = await asyncio.gather(*(work.run(lambda _: None) for work in works))
        for source in sources:
            await source.close()
        return reports

    reports = asyncio.run(whole())
    assert sum(report.imported for report in reports) == COUNT
    for report in reports:
        assert report.imported + report.imported_before == COUNT
        assert {each.row: each.reason for each in report.left_out} == odd
    assert len(inside.json("list", "--all")["items"]) == COUNT


@pytest.mark.parametrize("engine_name", ["postgres-async", "mariadb-sync", "mariadb-async"])
def test_each_engine_has_both(inside, secret, engine_name):
    """The article's tables and keylatch's in one database, by drivers of either kind."""
    with stores.key_database(engine_name) as url:
        try:
            article.make(url, 40)
            odd = article.add_odd_rows(url, secret, "acme_live")
            inside.env["KEYLATCH_DATABASE"] = url
            before = article.rows(url)
            document = inside.json(*COMMAND, url, code=1)
            assert reasons(document) == odd
            assert sums(document) == (41, 0, 0)
            rows = [row for row in before if row.id not in odd]
            assert owners(inside, url, rows) == [row.user_id for row in rows]
            again = inside.json(*COMMAND, article.synchronous(url), "--empty-plaintext", code=1)
            assert sums(again) == (0, 41, 43)
            left = Counter(row.secret_key for row in article.rows(url))
            assert left[""] == 43 + 1
            assert sums(inside.json(*COMMAND, url, code=1)) == (0, 41, 0)
        finally:
            article.execute(url, "DROP TABLE user_api_keys", "DROP TABLE users")


def test_people_are_told_in_a_pipe(inside, app):
    """Sums and rows on standard output, without a bar, a question or a secret."""
    url, odd = app
    done = inside.run(*COMMAND, url)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["imported", str(COUNT)]
    assert lines[4].split() == ["emptied", "0"]
    assert len(lines) == 5 + len(odd)
    assert f"row {COUNT + 3}  of user1: its secret is that of row 1" in lines
    assert "8 to 512 visible ASCII characters" in done.stdout
    for row in filter(sendable, article.rows(url)):
        assert row.secret_key not in done.stdout


def test_a_clean_database_exits_with_nought(inside, made_article):
    """Every row has a key: cron has nothing to say."""
    document = inside.json(*COMMAND, f"sqlite:///{made_article}")
    assert document == {
        "rows": USERS,
        "imported": USERS,
        "imported_before": 0,
        "left_out": [],
        "emptied": 0,
    }


def test_a_person_is_shown_a_bar_and_asked(bare, app):
    """Only a yes empties; without one nothing is changed, and it is no failure."""
    url, _ = app
    before = article.rows(url)
    for line, emptied in [("", 0), ("y", COUNT + 2)]:
        terminal = Terminal(bare, *COMMAND, url)
        terminal.answer(f"of {COUNT + 2} rows whose tokens have keys now, for good? [y/N] ", line)
        assert terminal.end() == 1
        assert f"/{len(before)}" in terminal.shown
        assert f"emptied          {emptied}\r\n" in ESCAPE.sub("", terminal.shown)
        changed = sum(old != new for old, new in zip(before, article.rows(url), strict=True))
        assert changed == emptied
    terminal = Terminal(bare, *COMMAND, url)  # nothing is left to ask about
    assert terminal.end() == 1


def test_ctrl_c_at_the_question_keeps_what_was_imported(bare, app):
    """It exits with 130, and says how it goes on."""
    terminal = Terminal(bare, *COMMAND, app[0])
    terminal.interrupt("[y/N] ")
    assert terminal.end() == 130
    assert "the same command goes on from there" in " ".join(terminal.shown.split())
    assert len(bare.json("list", "--all")["items"]) == COUNT
