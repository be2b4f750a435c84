"""``keylatch scan`` in repositories that somebody has made to keep it, or the machine, busy."""

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from hashlib import sha1
from unittest.mock import patch

import pytest
from repositories import Repository, history, tokens

from keylatch import git
from keylatch import history as _history
from keylatch.repositories import holdings

# Whoever runs the tests may have signals ignored.
AS_EVER = """
import signal, sys
from keylatch.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
sys.exit(main())
"""


@pytest.fixture
def repository(tmp_path):
    """One with a token."""
    repository = Repository(tmp_path / "tree" / "r")
    repository.commit(a=tokens(1)[0][0])
    return repository


@pytest.fixture
def circle(repository):
    """Two objects of a pack, each of which is made of the other."""
    delta = zlib.compress(b"\5\5\x90\5")  # of 5 bytes 5 bytes, which are those from the first on
    names = [b"\x11" * 20, b"\x22" * 20]
    entries = [b"\x74" + base + delta for base in reversed(names)]
    pack = b"PACK" + struct.pack(">II", 2, 2) + b"".join(entries)
    pack += sha1(pack).digest()
    upto = [sum(name[0] <= first for name in names) for first in range(256)]
    index = b"\xfftOc" + struct.pack(">257I", 2, *upto) + b"".join(names)
    index += struct.pack(">4I", 0, 0, 12, 12 + len(entries[0])) + pack[-20:]
    index += sha1(index).digest()
    for kind, content in (("pack", pack), ("idx", index)):
        (repository.path / f".git/objects/pack/pack-x.{kind}").write_bytes(content)
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


def commit_of_too_many(repository, leaf):
    """Commits a directory of ten equal ones of ten, and so on: 10^30 paths in a few kB."""

    def made(kind, name):
        entries = "".join(f"{kind} {name}\t{number}\n" for number in range(10))
        command = ["git", "mktree"]
        done = subprocess.run(
            command, cwd=repository.path, input=entries, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    tree = made(*leaf)
    for _ in range(30):
        tree = made("040000 tree", tree)
    commit = repository.git("commit-tree", tree, "-m", "x")
    repository.git("update-ref", "refs/heads/other", commit)


def test_a_directory_with_more_paths_than_can_be_counted_stops_no_search(outside, repository):
    """Git would go on for years, with the same few objects; what was found is told."""
    commit_of_too_many(repository, ("100644 blob", repository.git("rev-parse", "HEAD:a")))
    with patch.object(_history, "_LEAST_TIME", 0.3), patch.object(_history, "_TIMES", 0):
        (reason,) = unread(outside, repository.path)
    assert reason == "not all commits were looked at: they have too many files"


def test_nor_does_one_without_files(outside, repository):
    """Of which git says nothing, and keeps nothing."""
    empty = repository.git("hash-object", "-t", "tree", "-w", os.devnull)
    commit_of_too_many(repository, ("040000 tree", empty))
    with patch.object(_history, "_LEAST_TIME", 0.3), patch.object(_history, "_TIMES", 0):
        (reason,) = unread(outside, repository.path)
    assert "too many files" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits another process")
def test_objects_that_are_made_of_each_other_take_no_more_memory_than_is_given(outside, circle):
    """Git would take all that there is."""
    with patch.object(_history, "_MEMORY", 1 << 26):
        told = outside.json("scan", str(circle.path), code=7)
    (reason,) = [each["reason"] for each in told["unread"]]
    assert "out of memory" in reason.lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_search_that_is_ended_leaves_nothing_behind(repository, tmp_path, number):
    """Neither git, which may be busy for long without a word, nor temporary files."""
    (tmp_path / "git").write_text(
        "#!/bin/sh\n"
        'case "$*" in *batch-check*) echo 1111111111111111111111111111111111111111 5; exit;; esac\n'
        f"echo $$ > {tmp_path}/id; mv {tmp_path}/id {tmp_path}/busy; exec sleep 60\n"
    )
    (tmp_path / "git").chmod(0o755)
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", AS_EVER, "scan", str(repository.path)]
    environment = {"PATH": f"{tmp_path}:{os.defpath}", "TMPDIR": f"{tmp_path}/temporary"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (tmp_path / "busy").exists():
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130 if number == signal.SIGINT else -number, b"")
    assert list((tmp_path / "temporary").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "busy").read_text()), 0)
