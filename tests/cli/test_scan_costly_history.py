"""``keylatch scan`` in repositories that somebody has made to keep it, or the machine, busy."""

import os

import pytest
from repositories import Repository, history, tokens

from keylatch import git
from keylatch.repositories import holdings


@pytest.fixture
def outside(inside):
    """A command line without server secret and database, in which git can be found."""
    inside.env |= {"KEYLATCH_DATABASE": "", "KEYLATCH_SECRET": "", "PATH": os.environ["PATH"]}
    return inside


@pytest.fixture
def repository(tmp_path):
    """One with a token."""
    repository = Repository(tmp_path / "tree" / "r")
    repository.commit(a=tokens(1)[0][0])
    return repository


def unread(command_line, path):
    """Why something could not be read, where tokens were found all the same."""
    told = command_line.json("scan", str(path), code=7)
    assert told["findings"]
    return [each["reason"] for each in told["unread"]]


@pytest.mark.parametrize(
    ("line", "others"), [("../q{}\n", 100), ("../q\n", 1), ("#\n../objects\n\n", 0)]
)
def test_what_is_borrowed_too_often_is_left_out(outside, repository, line, others):
    """Each line is looked at anew for each repository: thousands of them would cost hours."""
    alternates = repository.path / ".git/objects/info/alternates"
    alternates.write_text("".join(line.format(number) for number in range(4000)))
    *borrowed, last = unread(outside, repository.path)
    assert last == "it borrows objects 100 times: others are left out"
    assert len(borrowed) == others


def test_what_many_borrow_from_is_looked_at_once(outside, repository, tmp_path, monkeypatch):
    """Not for each of them."""
    for number in range(3):
        other = Repository(tmp_path / "tree" / str(number))
        alternates = other.path / ".git/objects/info/alternates"
        alternates.write_text(f"{repository.path}/.git/objects\n")
    looked_at = []

    def counted(store):
        looked_at.append(store)
        return holdings(store)

    monkeypatch.setattr(git, "holdings", counted)
    assert len(history(outside, tmp_path / "tree")) == 1
    assert len(looked_at) == len(set(looked_at)) == 4
