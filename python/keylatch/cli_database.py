"""What commands with a database share: it must be there, and nothing of it outlives the command.

Knows no command and no keys.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from keylatch.errors import UnavailableError

T = TypeVar("T")

_ADVICE: Final = (
    "check the path in --database (`keylatch create` and `keylatch db upgrade` make the file)"
)


def run(action: Callable[[], Awaitable[T]]) -> T:
    """Runs to the end what needs an event loop."""

    async def whole() -> T:
        try:
            return await action()
        finally:
            # Interrupted while it closed, a collection leaves its tasks behind, and aiosqlite the
            # thread of a connection that failed. What outlives the loop would print a traceback.
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for thread in threading.enumerate():
                if "_connection_worker_thread" in thread.name:
                    await asyncio.to_thread(thread.join, 1)

    return asyncio.run(whole())


def require_file(database: str, advice: str = _ADVICE) -> None:
    """Refuses a SQLite file that is not there: a typing error would make it, without keys.

    Args:
        database: The URL.
        advice: What to do.

    Raises:
        UnavailableError: There is no such file.
    """
    from sqlalchemy.engine import make_url

    url = make_url(database)
    path = url.database
    if url.get_backend_name() == "sqlite" and path and not path.startswith("file:"):
        try:
            there = Path(path).exists()
        except (OSError, ValueError):
            there = False
        if not there:
            raise UnavailableError(f"there is no such database file: {advice}")
