"""``keylatch scan`` in the history of git repositories."""

import json
import os
import shutil
from unittest.mock import patch

import pytest
from repositories import Repository, history, tokens

from keylatch import history as _history
from keylatch._native import TokenFinder
from keylatch.git import copies
from keylatch.repositories import Repository as RepositoryOf


@pytest.fixture
def repository(tmp_path):
    """An empty one."""
    return Repository(tmp_path / "tree" / "r")


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_token_that_was_deleted_is_found_with_its_first_commit(outside, tmp_path, form):
    """Whether its objects are loose or packed; once, however many versions of the file have it."""
    repository = Repository(tmp_path / "tree" / "r", f"--object-format={form}")
    (token,), (key_id,) = tokens(1)
    repository.commit(other="x")
    first = repository.commit(**{"a.env": f"# \n KEY={token}\n"})
    for number in range(3):
        repository.commit(**{"a.env": f"# \n KEY={token}\n{number}"})
    repository.commit(**{"a.env": ""})
    for _ in range(2):
        found = history(outside, tmp_path / "tree")
        assert list(found) == [key_id]
        row = found[key_id]
        assert (row["commit"], row["path"], row["line"], row["column"]) == (first, "a.env", 2, 6)
        assert row["repository"] == f"{repository.path}/.git"
        assert row["object"] == repository.git("rev-parse", f"{first}:a.env")
        repository.git("gc", "--quiet", "--aggressive")
    shown = outside.run("scan", str(tmp_path / "tree")).stdout
    assert f"r/.git at {first[:12]}: a.env:2:6" in shown
    assert outside.json("scan", str(tmp_path / "tree"), "--no-history")["findings"] == []


def test_everything_that_was_ever_stored_is_looked_at(outside, repository):
    """Messages of commits and tags, stashes, what was amended, staged, merged or orphaned."""
    made, key_ids = tokens(7)
    repository.commit(f"oops {made[0]}", a="x")
    repository.git("tag", "-a", "v1", "-m", made[1])
    (repository.path / "a").write_text(made[2])
    repository.git("stash")
    amended = repository.commit(b=made[3])
    (repository.path / "b").write_text("clean")
    repository.git("commit", "--quiet", "--all", "--amend", "-m", "x")
    repository.git("reflog", "expire", "--expire=now", "--all")
    (repository.path / "c").write_text(made[4])
    repository.git("add", "c")
    repository.git("rm", "--quiet", "--cached", "c")
    (repository.path / "c").unlink()
    repository.git("checkout", "--quiet", "-b", "side")
    side = repository.commit(d=made[5])
    repository.git("checkout", "--quiet", "main")
    repository.commit(e="x")
    repository.git("merge", "--quiet", "--no-ff", "-m", "m", "side")
    repository.git("branch", "-D", "side")
    repository.commit(d="")
    (repository.path / '\u00e9 \n"x').mkdir()
    (repository.path / '\u00e9 \n"x' / "y").write_text(made[6])
    last = repository.commit()
    shutil.rmtree(repository.path / '\u00e9 \n"x')
    found = history(outside, repository.path)
    assert sorted(found) == sorted(key_ids)
    rows = [found[key_id] for key_id in key_ids]
    assert rows[0]["commit"] == rows[0]["object"]
    assert (rows[1]["commit"], rows[1]["path"]) == (None, None)
    assert rows[2]["path"] == "a"
    assert (rows[3]["commit"], rows[3]["path"]) == (amended, "b")
    assert (rows[4]["commit"], rows[4]["path"]) == (None, None)
    assert (rows[5]["commit"], rows[5]["path"]) == (side, "d")
    assert (rows[6]["commit"], rows[6]["path"]) == (last, '\u00e9 \n"x/y')


def test_work_trees_bare_and_shallow_repositories_are_known(outside, repository, tmp_path):
    """A store of objects is looked at once, however many ways lead to it."""
    (token,), (key_id,) = tokens(1)
    repository.commit(a=token)
    repository.commit(a="x")
    repository.git("worktree", "add", "--quiet", str(tmp_path / "tree" / "other"))
    assert history(outside, tmp_path / "tree" / "other")[key_id]["path"] == "a"
    told = outside.json("scan", str(tmp_path / "tree"), code=1)
    assert len(told["findings"]) == 1
    repository.commit(a=token)
    for name, options in (("bare", ["--bare"]), ("shallow", ["--depth=1"])):
        target = tmp_path / name
        repository.git("clone", "--quiet", *options, f"file://{repository.path}", str(target))
        assert history(outside, target)[key_id]["path"] == "a"


@pytest.mark.parametrize("form", ["sha1", "sha256"])
@pytest.mark.parametrize("packed", [False, True])
def test_no_configuration_hides_objects(outside, tmp_path, form, packed):
    """Of which form the names of objects are is not taken from what a repository says."""
    (token,), (key_id,) = tokens(1)
    repository = Repository(tmp_path / "r", f"--object-format={form}")
    repository.commit(a=token)
    if packed:
        repository.git("gc", "--quiet")
    for text in (
        "",
        '[extensions]\nobjectformat = "sha256" # so\n',
        "[x]\nobjectformat = sha256\n",
    ):
        (repository.path / ".git/config").write_text(text)
        (repository.path / "a").unlink(missing_ok=True)
        assert history(outside, repository.path)[key_id]["object"]


def test_objects_that_git_does_not_see_are_unread(outside, repository):
    """Rather that than a history without tokens."""
    repository.commit(a="x")
    repository.git("gc", "--quiet")
    (index,) = (repository.path / ".git/objects/pack").glob("*.idx")
    index.unlink()
    told = outside.json("scan", str(repository.path), code=7)
    assert "git sees none of its objects" in told["unread"][0]["reason"]


def test_links_that_git_follows_hide_no_history(outside, repository, tmp_path):
    """Old versions of git made a link of HEAD, and some work trees link to the objects."""
    (token,), (key_id,) = tokens(1)
    repository.commit(a=token)
    repository.commit(a="x")
    directory = repository.path / ".git"
    (directory / "HEAD").unlink()
    (directory / "HEAD").symlink_to("refs/heads/main")
    assert history(outside, repository.path)[key_id]["path"] == "a"
    for name in ("objects", "refs"):
        (directory / name).rename(tmp_path / "tree" / name)
        (directory / name).symlink_to(tmp_path / "tree" / name)
    assert history(outside, tmp_path / "tree")[key_id]["path"] == "a"


def test_borrowed_objects_are_looked_at_once(outside, repository, tmp_path):
    """As those of the repository that they are borrowed from, if that is looked at as well."""
    made, key_ids = tokens(2)
    repository.commit(a=made[0])
    clone = Repository(tmp_path / "tree" / "clone")
    clone.git("remote", "add", "origin", str(repository.path))
    (clone.path / ".git/objects/info/alternates").write_text("# x\n\n../../../r/.git/objects\n")
    clone.git("pull", "--quiet", "origin", "main")
    clone.commit(a="", b=made[1])
    told = outside.json("scan", str(tmp_path / "tree"), code=1)
    rows = {row["key_id"]: row for row in told["findings"] if row["repository"]}
    assert [rows[key_id]["repository"] for key_id in key_ids] == [
        f"{repository.path}/.git",
        f"{clone.path}/.git",
    ]
    assert len([row for row in told["findings"] if row["repository"]]) == 2
    assert rows[key_ids[1]]["path"] == "b"
    # A store that is no repository of its own is looked at as the borrower's.
    (repository.path / ".git" / "HEAD").unlink()
    assert history(outside, tmp_path / "tree")[key_ids[0]]["repository"] == f"{clone.path}/.git"


def test_the_results_are_the_same_however_many_cores_there_are(outside, repository):
    """And in the same order, although each core reads a share of the objects."""
    made, _ = tokens(40)
    for number, token in enumerate(made):
        repository.commit(token if number % 7 == 0 else "x", **{f"f{number % 9}": f"\n{token}"})
    told = []
    for _ in (False, True):
        for cores in (1, 2, 5):
            with (
                patch("os.cpu_count", return_value=cores),
                patch.object(_history, "_LEAST_SHARE", 1),
            ):
                told.append(outside.json("scan", str(repository.path / ".git"), code=1))
        assert told[-3]["findings"] == told[-2]["findings"] == told[-1]["findings"]
        assert len([row for row in told[-1]["findings"] if row["repository"]]) == 46
        assert told[-3]["bytes"] == told[-2]["bytes"] == told[-1]["bytes"]
        repository.git("gc", "--quiet")


@pytest.mark.parametrize("parents", [1, 2, 3])
def test_what_a_merge_alone_brings_is_told_with_it(outside, repository, parents):
    """And what one of its parents has, with that one."""
    (theirs, own), key_ids = tokens(2)
    repository.commit(a="x")
    sides = [repository.commit(**{f"b{number}": theirs}) for number in range(parents)]
    repository.now += 60
    (repository.path / "a").write_text(own)
    repository.git("add", "--all")
    named = [word for side in sides for word in ("-p", side)]
    merge = repository.git("commit-tree", repository.git("write-tree"), *named, "-m", "m")
    found = history(outside, repository.path)
    told = [(found[key_id]["commit"], found[key_id]["path"]) for key_id in key_ids]
    assert told == [(sides[0], "b0"), (merge, "a")]


def test_a_search_that_is_stopped_stops_on_all_cores(repository):
    """With what the progress raises, as Ctrl-C does."""
    for number in range(20):
        repository.commit(a=f"{number}\n" * 200_000)
    found = RepositoryOf.at(str(repository.path / ".git"), [str(repository.path)])

    def stop(objects, size):
        raise LookupError

    def finder():
        return TokenFinder(prefixes=[], look_alikes=False)

    with (
        patch("os.cpu_count", return_value=3),
        patch.object(_history, "_LEAST_SHARE", 1),
        pytest.raises(LookupError),
        copies() as copied,
    ):
        _history.search(found, found.stores, copied, finder, stop)


def test_without_git_the_files_are_looked_at_and_the_exit_code_is_7(outside, repository):
    """The line says what to do, and --no-history does without."""
    (token,), _ = tokens(1)
    repository.commit(a=token)
    no_git = {"PATH": "/nowhere"}
    told = outside.json("scan", str(repository.path), code=7, env=no_git)
    assert len(told["findings"]) == 1
    assert "git is not installed" in told["unread"][0]["reason"]
    assert "--no-history" in told["unread"][0]["reason"]
    outside.json("scan", str(repository.path), "--no-history", code=1, env=no_git)


def test_git_is_not_told_the_server_secret(inside, repository, tmp_path):
    """Nor the database's address: it is another program."""
    (token,), _ = tokens(1)
    repository.commit(a=token)
    real = shutil.which("git")
    (tmp_path / "git").write_text(f'#!/bin/sh\nenv >> {tmp_path}/told\nexec {real} "$@"\n')
    (tmp_path / "git").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KEYLATCH_DATABASE": ""}
    assert history(inside, repository.path, env=env)
    told = (tmp_path / "told").read_text()
    assert "GIT_OBJECT_DIRECTORY" in told
    assert "KEYLATCH" not in told


def test_damaged_and_missing_repositories_are_unread(outside, repository, tmp_path):
    """What can be read of them is looked at."""
    (token,), _ = tokens(1)
    repository.commit(a=token)
    repository.commit(a="x")
    blob = repository.git("rev-parse", "HEAD:a")
    damaged = repository.path / ".git/objects" / blob[:2] / blob[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    told = outside.json("scan", str(repository.path), code=7)
    assert told["unread"][0]["path"] == f"{repository.path}/.git"
    link = tmp_path / "link"
    link.mkdir()
    for text in ("gitdir: nowhere\n", "gitdir: \0\n", "nothing", "", "gitdir: ../../../../\n"):
        (link / ".git").write_text(text)
        told = outside.json("scan", str(link), code=7)
        assert told["unread"][0]["path"] == f"{link}/.git"
    fake = tmp_path / "fake"
    for name in ("objects", "refs"):
        (fake / name).mkdir(parents=True)
    (fake / "HEAD").write_text("x")
    (fake / "objects" / "x").write_text(token)
    told = outside.json("scan", str(fake), code=1)
    assert [row["path"] for row in told["findings"]] == [f"{fake}/objects/x"]


def test_sarif_names_what_was_a_file(outside, repository):
    """By the path that it had in the work tree, with the commit in the message."""
    (token,), _ = tokens(1)
    first = repository.commit(**{"a b": token})
    repository.commit(**{"a b": ""})
    done = outside.run("scan", "--sarif", str(repository.path))
    (result,) = json.loads(done.stdout)["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == f"file://{repository.path}/a%20b"
    assert first[:12] in result["message"]["text"]
    assert result["properties"]["commit"] == first
