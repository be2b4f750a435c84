"""``keylatch scan`` in repositories that somebody has made to stop it, or to lead it elsewhere."""

import os
import shutil

import pytest
from repositories import Repository, history, tokens

LOOSE = "aa/" + "b" * 38
MAKERS = (os.mkfifo, lambda path: path.symlink_to("/dev/zero"))


@pytest.fixture
def repository(tmp_path):
    """One with a commit."""
    repository = Repository(tmp_path / "tree" / "r")
    repository.commit(a="x")
    return repository


@pytest.fixture
def private(tmp_path):
    """A repository outside of the tree, with a token."""
    private = Repository(tmp_path / "private")
    private.commit(a=tokens(1)[0][0])
    return private


def refused(command_line, path):
    """Why the history of the one repository was not read, or a part of it."""
    told = command_line.json("scan", str(path), code=7)
    assert told["findings"] == []
    return [each["reason"] for each in told["unread"]]


@pytest.mark.parametrize(
    "place", ["info/alternates", LOOSE, "pack/pack-x.idx", "pack/multi-pack-index.d/x", "ab"]
)
@pytest.mark.parametrize("make", MAKERS)
def test_a_pipe_or_a_link_among_the_objects_stops_no_search(outside, repository, place, make):
    """Git would wait for a pipe without an end; the line names it, and says what to do."""
    path = repository.path / ".git/objects" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    make(path)
    (reason,) = refused(outside, repository.path)
    assert place.removeprefix("info/") in reason
    assert "put a file or a directory in its place" in reason


@pytest.mark.parametrize("place", ["aa", "pack", "info"])
def test_a_link_to_a_directory_with_a_pipe_stops_no_search(outside, repository, place):
    """Git follows it; and the pipe is not among the objects for whoever does not."""
    evil = repository.path / "evil"
    evil.mkdir()
    for name in ("b" * 38, "pack-x.idx", "alternates"):
        os.mkfifo(evil / name)
    directory = repository.path / ".git/objects"
    shutil.rmtree(directory / place, ignore_errors=True)
    (directory / place).symlink_to("../../evil")
    (reason,) = refused(outside, repository.path)
    assert reason.startswith(f"{place} is a link, a pipe or the like")


def test_a_pipe_among_borrowed_objects_stops_no_search(outside, repository):
    """However many directories stand between, even if they lead in a circle."""
    evil = repository.path / "evil"
    (evil / "objects/aa").mkdir(parents=True)
    (evil / "objects/info").mkdir()
    (evil / "objects/info/alternates").write_text("../../.git/objects\n../other\n")
    (evil / "other/aa").mkdir(parents=True)
    alternates = repository.path / ".git/objects/info/alternates"
    alternates.write_text("../../evil/objects\n")
    assert outside.json("scan", str(repository.path))["unread"] == []
    os.mkfifo(evil / "other" / LOOSE)
    (reason,) = refused(outside, repository.path)
    assert LOOSE in reason


def test_a_pipe_where_git_does_not_look_hides_no_history(outside, repository):
    """Nor does it among the branches, or as any other file that git opens in a repository."""
    (token,), (key_id,) = tokens(1)
    repository.commit(a=token)
    directory = repository.path / ".git"
    for name in ("config", "index", "packed-refs", "shallow", "commondir", "refs/heads/main"):
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)
    (directory / "objects/info/x").mkdir()
    for name in ("commit-graph", "x/y"):
        os.mkfifo(directory / "objects/info" / name)
    (directory / "HEAD").unlink()
    (directory / "HEAD").symlink_to("/dev/zero")
    (directory / "logs/HEAD").unlink()
    (directory / "logs/HEAD").symlink_to("../../../../outside")
    assert history(outside, repository.path)[key_id]["path"] == "a"


def test_no_objects_outside_of_the_tree_are_read(outside, repository, private):
    """Whatever leads there: they would be told of as those of the repository that was given."""
    directory = repository.path / ".git"
    theirs = private.path / ".git/objects"
    (directory / "objects/info/alternates").write_text(f"{theirs}\n/nowhere\n")
    reasons = refused(outside, repository.path)
    assert [
        f"name {place} as well" in reason
        for place, reason in zip((theirs, "/nowhere"), reasons, strict=True)
    ] == [True, True]
    told = outside.json("scan", str(repository.path), str(private.path), code=7)
    assert {row["repository"] for row in told["findings"]} == {None, f"{private.path}/.git"}
    # Quoted, as git has it where a name begins so, it is not looked for elsewhere.
    (directory / "objects/info/alternates").write_text(f'"{theirs}"\n')
    (reason,) = refused(outside, repository.path)
    assert "no directory" in reason
    shutil.rmtree(directory / "objects")
    (directory / "objects").symlink_to(theirs)
    (reason,) = refused(outside, repository.path)
    assert f"name {theirs} as well" in reason


def test_only_a_repository_that_knows_of_the_work_tree_is_read_for_it(outside, tmp_path, private):
    """Anybody can write where a repository is; whose it is stands in the repository."""
    private.git("worktree", "add", "--quiet", str(tmp_path / "work"))
    (tmp_path / "work/a").unlink()
    assert history(outside, tmp_path / "work")
    forged = tmp_path / "forged"
    forged.mkdir()
    (forged / "admin").mkdir()
    (forged / "admin/commondir").write_text(f"{private.path}/.git\n")
    (forged / "admin/gitdir").write_text(f"{forged}/.git\n")
    for place in (
        f"{private.path}/.git/worktrees/work",
        f"{private.path}/.git",
        "admin",
    ):
        (forged / ".git").write_text(f"gitdir: {place}\n")
        (reason,) = refused(outside, forged)
        assert f"name {private.path}/.git/objects as well" in reason


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["commondir", "objects"])
def test_a_pipe_where_a_work_tree_leads_stops_no_search(outside, tmp_path, name, make):
    """Nor does a link to what has no end."""
    (tmp_path / "admin").mkdir()
    (tmp_path / ".git").write_text("gitdir: admin\n")
    make(tmp_path / "admin" / name)
    assert len(refused(outside, tmp_path)) == 1


def test_a_name_in_the_reason_steers_no_terminal(outside, repository):
    """It comes from the repository."""
    alternates = repository.path / ".git/objects/info/alternates"
    alternates.write_text("/x\x1b[2J\n")
    assert "/x\\x1b[2J" in outside.run("scan", str(repository.path)).stderr
    alternates.write_text("/x\n" * 50_000)
    assert refused(outside, repository.path) == ["info/alternates is too long"]


def test_a_hostile_repository_runs_nothing(outside, repository, tmp_path):
    """Its configuration can name programs, and its objects others; none of it is obeyed."""
    (token,), (key_id,) = tokens(1)
    repository.commit(a=token)
    repository.commit(a="x", **{".gitattributes": "* diff=evil filter=evil\n"})
    ran = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {ran}\n")
    evil.chmod(0o755)
    for name in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "gpg.program",
        "core.alternateRefsCommand",
        "remote.origin.uploadpack",
    ):
        repository.git("config", name, str(evil))
    repository.git("config", "log.showSignature", "true")
    repository.git("config", "remote.origin.url", f"ext::{evil}")
    repository.git("config", "remote.origin.promisor", "true")
    repository.git("config", "extensions.partialClone", "origin")
    repository.git("config", "protocol.ext.allow", "always")
    blob = repository.git("rev-parse", "HEAD:a")
    (repository.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        shutil.copy(evil, repository.path / ".git/hooks" / hook)
    # Of another owner, git itself would refuse it.
    if os.geteuid() == 0:
        os.chown(repository.path / ".git", 65534, 65534)
    ran.unlink(missing_ok=True)
    env = {"GIT_DIR": str(tmp_path), "GIT_EXTERNAL_DIFF": str(evil), "GIT_TRACE": str(ran)}
    assert history(outside, repository.path, env=env)[key_id]["path"] == "a"
    assert not ran.exists()
