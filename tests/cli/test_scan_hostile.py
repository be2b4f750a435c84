"""``keylatch scan`` over trees that somebody has made to stop it, to mislead it or its reader."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from keylatch import SecretRing, mint, parse
from keylatch._native import TokenFinder, scan_files

OTHER = SecretRing(SecretRing.generate())


@pytest.fixture
def token():
    """One to be found."""
    return mint("acme_live", OTHER)


def looked_at(*paths, progress=lambda *_: None):
    """What the native search makes of it."""
    return scan_files(list(map(str, paths)), prefixes=[], look_alikes=False, progress=progress)


def test_a_name_steers_no_terminal(outside, tmp_path, token):
    """Line breaks, escape sequences, markup, and what is no UTF-8 are shown as what they are."""
    name = b"\x1b[2J[red]\n\r\xff\xe2\x80\xae.txt"
    (tmp_path / os.fsdecode(name)).write_text(token)
    done = outside.run("scan", str(tmp_path))
    assert "\\x1b[2J[red]\\n\\r\\udcff\\u202e.txt:1:1" in done.stdout
    assert len(done.stdout.splitlines()) == 2
    (row,) = outside.json("scan", str(tmp_path), code=1)["findings"]
    assert os.fsencode(row["path"]) == os.fsencode(tmp_path) + b"/" + name


def test_what_is_no_file_is_passed_over(tmp_path, token):
    """A pipe, a socket and a device would never end; links would lead out, or in circles."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tree / "socket"))
        (tmp_path / "elsewhere").write_text(token)
        (tree / "link").symlink_to(tmp_path / "elsewhere")
        (tree / "circle").symlink_to(tree)
        (tree / "itself").symlink_to(tree / "itself")
        (tree / "zero").symlink_to("/dev/zero")
        seen = looked_at(tree)
    assert (seen.found, seen.unread, seen.files) == ([], [], 0)
    # What was asked for by name is followed, and told of if it is no file.
    seen = looked_at(tree / "link", tree / "pipe", "/dev/null", tree / "itself")
    assert len(seen.found) == 1
    assert [Path(path).name for path, _ in seen.unread] == ["null", "itself", "pipe"]


def test_a_file_that_became_a_pipe_does_not_stop_the_search(tmp_path):
    """Between the listing and the opening anything may happen."""
    target = tmp_path / "x"
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for make in (target.touch, lambda: os.mkfifo(target)):
                make()
                target.unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            assert looked_at(tmp_path).found == []
    finally:
        stop.set()
        thread.join()


def test_a_file_that_changes_is_read_as_it_is(tmp_path, token):
    """It grows, shrinks and goes while it is read: nothing fails, and what stays is found."""
    changing, stop = tmp_path / "changing", threading.Event()
    (tmp_path / "still").write_text(token)

    def change():
        while not stop.is_set():
            changing.write_bytes(b"x" * 2_000_000)
            os.truncate(changing, 10)
            changing.unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            seen = looked_at(tmp_path)
            assert [path for path, _ in seen.found] == [str(tmp_path / "still")]
            assert seen.unread == []
    finally:
        stop.set()
        thread.join()


def test_what_may_not_be_read_is_named(token):
    """The rest is read all the same."""
    # Root may read everything, so that it has to become somebody else.
    code = """
import os, sys
from keylatch._native import scan_files
if os.geteuid() == 0:
    os.setgroups([]), os.setuid(65534)
seen = scan_files(sys.argv[1:], prefixes=[], look_alikes=False, progress=lambda *_: None)
print([path for path, _ in seen.found], seen.unread)
"""
    with tempfile.TemporaryDirectory() as directory:  # those of pytest are its user's alone
        tree = Path(directory)
        tree.chmod(0o755)
        (tree / "open").write_text(token)
        (tree / "closed").write_text(token)
        (tree / "shut").mkdir()
        for name in ("closed", "shut"):
            (tree / name).chmod(0)
        command = [sys.executable, "-c", code, directory]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (tree / "shut").chmod(0o755)
    reason = "permission denied"
    unread = [(f"{tree}/closed", reason), (f"{tree}/shut", reason)]
    assert told == f"{[f'{tree}/open']} {unread}\n"


def test_what_was_not_read_exits_with_7(outside, tmp_path, token):
    """Whether or not there is a token elsewhere; standard error and JSON name it."""
    (tmp_path / "open").write_text(token)
    nowhere = str(tmp_path / "nowhere\n")
    done = outside.run("scan", nowhere)
    assert (done.returncode, done.stdout) == (7, "")
    assert "nowhere\\n: no such file or directory" in done.stderr
    told = outside.json("scan", str(tmp_path), nowhere, code=7)
    assert len(told["findings"]) == 1
    assert told["unread"][0]["reason"] == "no such file or directory"


def test_a_tree_deeper_than_a_path_can_be_is_told_of(tmp_path, token):
    """What lies deeper than the operating system opens is unread, and is no crash."""
    current = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=current)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = inner
    os.close(current)
    (tmp_path / "x").write_text(token)
    seen = looked_at(tmp_path)
    assert len(seen.found) == 1
    assert [reason for _, reason in seen.unread] == ["file name too long"]


def test_holes_and_lines_without_an_end_are_read(tmp_path, token):
    """A gigabyte of nothing on no disk, with a token behind it; and millions of letters."""
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(200_000_000)
        file.write(token.encode())
    (tmp_path / "line").write_text("_" * 5_000_000 + "a" * 5_000_000 + "_" + token)
    places = {Path(path).name: (s.line, s.column) for path, s in looked_at(tmp_path).found}
    assert places == {"sparse": (1, 200_000_001), "line": (1, 10_000_002)}


def test_many_look_alikes_take_no_time_of_the_square(tmp_path):
    """Texts that are nearly tokens, from end to end: each costs the same."""
    almost = f"{'a_' * 12}{'0' * 16}_{'0' * 55}_"
    (tmp_path / "x").write_text(almost * 50_000 + "_0000000000000000_" * 100_000)
    assert looked_at(tmp_path).found == []


def test_many_tokens_in_many_files_are_all_found(tmp_path, token):
    """However the work is split up: flat, deep, and in directories that are full."""
    for number in range(1000):
        place = tmp_path / f"d{number % 3}" / ("e/" * (number % 5))
        place.mkdir(parents=True, exist_ok=True)
        (place / str(number)).write_text(f"{token}\n{token}")
    seen = looked_at(tmp_path)
    assert (len(seen.found), seen.files) == (2000, 1000)
    assert seen.bytes == 1000 * (2 * len(token) + 1)
    assert [path for path, _ in seen.found] == sorted(path for path, _ in seen.found)


def test_a_search_that_is_stopped_stops(tmp_path):
    """With what the progress raises; and Ctrl-C exits with 130."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)

    def stop(files, size):
        raise LookupError

    with pytest.raises(LookupError):
        looked_at(tmp_path, progress=stop)
    # Whoever runs the tests in the background may have it ignored.
    code = """
import os, signal, sys, threading
from keylatch.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "scan", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_finder_takes_pieces_of_any_size(token):
    """As a stream brings them; each token once."""
    text = f"x\n{token} {token}\n".encode()
    for size in (1, 7, 82, len(text)):
        finder = TokenFinder(prefixes=[], look_alikes=False)
        for _ in range(2):
            found = []
            for start in range(0, len(text), size):
                found += finder.feed(text[start : start + size])
            found += finder.end()
            assert [(s.line, s.column) for s in found] == [(2, 1), (2, 84)]
            assert found[0].token().reveal() == token


def test_no_repr_shows_a_token(token):
    """Nor does a pickle of what was seen."""
    finder = TokenFinder(prefixes=[], look_alikes=False)
    finder.feed(token.encode())
    (seen,) = finder.end()
    assert repr(seen) == f"<Sighting acme_live_{parse(token).key_id}_***>"
    with pytest.raises(TypeError):
        seen.__reduce__()
