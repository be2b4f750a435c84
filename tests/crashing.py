"""A program whose children make, rotate and revoke keys until somebody kills them.

Usage: crashing.py URL KILLS. Forks one child after the other, kills each with SIGKILL after a
random while, and passes on what they wrote: a line for each call, once it has returned. Says of
each in which phase of a call it was killed.
"""

import asyncio
import mmap
import os
import random
import select
import signal
import sys
import time
from datetime import timedelta

import sqlalchemy as sa

from keylatch import APIKeys, KeyRequest

# Seconds: from before the first connection to some dozens of calls.
SHORTEST, LONGEST = 0.005, 0.080
# Keys that are made at once: more than one call of a driver writes.
MANY = 250
PHASES = ("between calls", "in a transaction", "committing", "before its line")
BETWEEN, TRANSACTION, COMMITTING, RETURNED = range(4)
# Shared with the children, so that it is there when they are not.
phase = mmap.mmap(-1, 1)


def enter(number: int) -> None:
    """Says what the child is at."""
    phase[0] = number


async def live(url: str, pipe: int) -> None:
    """Makes keys for ever; now and then rotates or revokes one, or makes many at once."""

    def write(line: str) -> None:
        enter(RETURNED)
        os.write(pipe, f"{line}\n".encode())
        enter(BETWEEN)

    async with APIKeys(url, prefix="acme") as keys:
        engine = keys._store._database.engine
        core = getattr(engine, "sync_engine", engine)
        sa.event.listen(core, "begin", lambda _: enter(TRANSACTION))
        sa.event.listen(core, "commit", lambda _: enter(COMMITTING))
        while True:
            new = await keys.create(name="ci", owner="u1")
            write(f"created {new.token}")
            chance = random.random()
            if chance < 0.3:
                successor = await keys.rotate(new.key.id, grace=timedelta(days=1))
                write(f"created {successor.token}")
            elif chance < 0.5:
                await keys.revoke(new.key.id)
                write(f"revoked {new.token}")
            elif chance < 0.6:
                await keys.create_many([KeyRequest(name="ci", owner="many")] * MANY)


def main() -> None:
    """Forks and kills."""
    url, kills = sys.argv[1], int(sys.argv[2])
    asyncio.run(warm(url))
    for number in range(kills):
        enter(BETWEEN)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            asyncio.run(live(url, writing))
        os.close(writing)
        if number % 2:
            # Every other child is killed at work for sure, however slow the machine is.
            select.select([reading], [], [])
        time.sleep(random.uniform(SHORTEST, LONGEST))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        # A child that ended by itself has met an error, which it has shown.
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        with os.fdopen(reading) as lines:
            sys.stdout.write(lines.read())
        sys.stdout.write(f"killed {PHASES[phase[0]]}\n")


async def warm(url: str) -> None:
    """Has the children inherit every import, so that they are killed at work."""
    async with APIKeys(url, prefix="acme") as keys:
        await keys.list()


if __name__ == "__main__":
    main()
