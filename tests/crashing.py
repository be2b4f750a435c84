"""A program whose children make, rotate and revoke keys until somebody kills them.

Usage: crashing.py URL KILLS. Forks one child after the other, kills each with SIGKILL after a
random while, and passes on what they wrote: a line for each call, once it has returned.
"""

import asyncio
import os
import random
import select
import signal
import sys
import time
from datetime import timedelta

from keylatch import APIKeys

# Seconds: from before the first connection to some dozens of calls.
SHORTEST, LONGEST = 0.005, 0.080


async def live(url: str, pipe: int) -> None:
    """Makes keys for ever; now and then rotates or revokes one."""
    async with APIKeys(url, prefix="acme") as keys:
        while True:
            new = await keys.create(name="ci", owner="u1")
            os.write(pipe, f"created {new.token}\n".encode())
            chance = random.random()
            if chance < 0.3:
                successor = await keys.rotate(new.key.id, grace=timedelta(days=1))
                os.write(pipe, f"created {successor.token}\n".encode())
            elif chance < 0.5:
                await keys.revoke(new.key.id)
                os.write(pipe, f"revoked {new.token}\n".encode())


def main() -> None:
    """Forks and kills."""
    url, kills = sys.argv[1], int(sys.argv[2])
    asyncio.run(warm(url))
    for number in range(kills):
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
        sys.stdout.write("killed\n")


async def warm(url: str) -> None:
    """Has the children inherit every import, so that they are killed at work."""
    async with APIKeys(url, prefix="acme") as keys:
        await keys.list()


if __name__ == "__main__":
    main()
