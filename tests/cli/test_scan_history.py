"""``keylatch scan`` in the history of git repositories, friendly ones and hostile ones."""

import json
import os
import shutil
import subprocess

import pytest

from keylatch import SecretRing, mint, parse

OTHER = SecretRing(SecretRing.generate())
WHO = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_CONFIG_GLOBAL": os.devnull}
WHO |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a", "PATH": os.environ["PATH"]}


class Repository:
    """A repository, in which each commit is a minute later than the one before."""

    def __init__(self, path, *options):
        self.path = path
        self.now = 1_800_000_000
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main", *options)

    def git(self, *arguments):
        """Runs git in it."""
        date = f"{self.now} +0000"
        env = WHO | {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=env, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, message="x", **files):
        """Writes files, by their names, and commits all of them. Returns the commit."""
        self.now += 60
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def outside(inside):
    """A command line without server secret and database, in which git can be found."""
    inside.env |= {"KEYLATCH_DATABASE": "", "KEYLATCH_SECRET": "", "PATH": os.environ["PATH"]}
    return inside


@pytest.fixture
def repository(tmp_path):
    """An empty one."""
    return Repository(tmp_path / "tree" / "r")


def history(command_line, path, code=1, **options):
    """What was found in history, by key id."""
    told = command_line.json("scan", str(path), code=code, **options)
    return {row["key_id"]: row for row in told["findings"] if row["repository"] is not None}


def tokens(count):
    """So many, and their key ids."""
    made = [mint("acme_live", OTHER) for _ in range(count)]
    return made, [parse(token).key_id for token in made]


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
        (directory / name).rename(tmp_path / name)
        (directory / name).symlink_to(tmp_path / name)
    assert history(outside, repository.path)[key_id]["path"] == "a"


@pytest.mark.parametrize("place", ["info/alternates", "aa/" + "b" * 38, "info/x/y"])
def test_a_pipe_among_the_objects_stops_no_search(outside, repository, place):
    """Git would wait for it without an end."""
    repository.commit(a="x")
    pipe = repository.path / ".git/objects" / place
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    told = outside.json("scan", str(repository.path), code=7)
    assert told["unread"][0]["reason"] == "a pipe or the like stands among its objects"


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
