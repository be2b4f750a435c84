"""Git repositories to be searched, and what ``keylatch scan`` finds in their history."""

import os
import subprocess

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


def history(command_line, path, code=1, **options):
    """What was found in history, by key id."""
    told = command_line.json("scan", str(path), code=code, **options)
    return {row["key_id"]: row for row in told["findings"] if row["repository"] is not None}


def tokens(count):
    """So many, and their key ids."""
    made = [mint("acme_live", OTHER) for _ in range(count)]
    return made, [parse(token).key_id for token in made]
