"""A program whose children import the article's keys until somebody kills them.

Usage: import_crashing.py URL SOURCE KILLS. SOURCE is a SQLite file of the article's app. Forks one
child after the other, kills each with SIGKILL or SIGINT after a random while, and lets one of a
kind run to its end now and then. Says what was killed when, and what there is at each end.
"""

import asyncio
import json
import mmap
import os
import random
import select
import shutil
import signal
import sys
import time

import sqlalchemy as sa

from keylatch import APIKeys
from keylatch.article import ArticleDatabase
from keylatch.article_import import ArticleImport
from keylatch.tables import api_key_events, api_keys

# Seconds; the import of a portion takes some hundredths.
LONGEST = 0.15
PHASES = ("reading", "importing", "emptying", "done")
READING, IMPORTING, EMPTYING, DONE = range(4)
phase = mmap.mmap(-1, 1)


def enter(number: int) -> None:
    """Says what the child is at."""
    phase[0] = number


async def work(url: str, path: str) -> None:
    """Imports everything, and empties what has keys."""
    source = ArticleDatabase(f"sqlite:///{path}")
    async with APIKeys(url, prefix="acme_live", imported_tokens=True) as keys:
        done = ArticleImport(keys, source)
        enter(IMPORTING)
        await done.run(lambda _: None)
        enter(EMPTYING)
        await done.empty(lambda _: None)
    enter(DONE)


def child(url: str, path: str) -> int:
    """Forks one that works, and returns its number once it has begun."""
    reading, writing = os.pipe()
    enter(READING)
    number = os.fork()
    if number == 0:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(writing, b"begun")
        try:
            asyncio.run(work(url, path))
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    os.close(writing)
    select.select([reading], [], [])
    os.close(reading)
    return number


def outcome(url: str, path: str) -> str:
    """What keys and plaintext there are."""
    document = {}
    for name, where in (("keys", url), ("rows", f"sqlite:///{path}")):
        engine = sa.create_engine(where, poolclass=sa.NullPool)
        with engine.begin() as connection:
            if name == "keys":
                events = sa.select(api_key_events.c.key_id, api_key_events.c.action)
                document["events"] = sorted(map(list, connection.execute(events)))
                columns = [api_keys.c[each] for each in ("id", "owner", "name", "prefix")]
                found = connection.execute(sa.select(*columns, api_keys.c.metadata))
                document["keys"] = sorted(map(list, found))
                for table in (api_key_events, api_keys):
                    connection.execute(sa.delete(table))
            else:
                query = "SELECT id FROM user_api_keys WHERE secret_key = '' ORDER BY id"
                document["emptied"] = list(connection.scalars(sa.text(query)))
    return json.dumps(document)


def main() -> None:
    """Forks and kills."""
    url, path, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    asynchronous = url.replace("sqlite:", "sqlite+aiosqlite:")
    pristine = f"{path}.pristine"
    shutil.copy(path, pristine)
    killed = -1  # the first one is let alone: what it leaves is what all must leave
    while killed < kills:
        number = child(asynchronous, path)
        if killed >= 0:
            while killed % 2 and phase[0] < IMPORTING:
                time.sleep(0.001)  # every other one is killed at work, however slow the machine is
            time.sleep(random.uniform(0, LONGEST))
            os.kill(number, random.choice((signal.SIGKILL, signal.SIGINT)))
        status = os.waitpid(number, 0)[1]
        if killed < 0 or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0):
            assert status == 0, status
            print("outcome", outcome(url, path))
            shutil.copy(pristine, path)
            killed = max(0, killed)
        else:
            how = os.WTERMSIG(status) or os.WEXITSTATUS(status)
            assert how in (signal.SIGKILL, signal.SIGINT, 130), status
            print("killed", PHASES[phase[0]])
            killed += 1
    assert os.waitpid(child(asynchronous, path), 0)[1] == 0
    print("outcome", outcome(url, path))


if __name__ == "__main__":
    main()
