"""What commands with keys share: the collection that they work on, and how they read all of it.

Knows no command.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from keylatch import cli_database, cli_output
from keylatch._native import SecretRing
from keylatch.errors import ConfigurationError
from keylatch.keys import APIKeys
from keylatch.records import APIKey

T = TypeVar("T")

_MOST_AT_ONCE: Final = 500
# For commands to which it makes no difference.
_ANY_PREFIX: Final = "keylatch"


def sealing(
    database: str, prefix: str | Sequence[str] = _ANY_PREFIX, *, imported_tokens: bool = False
) -> APIKeys:
    """The keys for those who make or verify any: with the application's server secret."""
    if not os.environ.get("KEYLATCH_SECRET"):
        raise ConfigurationError(
            "KEYLATCH_SECRET is not set: set it to the application's server secret (`keylatch "
            "secret` makes one for a new application)"
        )
    return APIKeys(database, prefix=prefix, imported_tokens=imported_tokens)


def stored(database: str) -> APIKeys:
    """The keys for those who neither make nor verify any.

    Listing and revoking use neither prefix nor server secret: these are gone with the process.
    """
    return unlimited(database, None)


def unlimited(database: str, ring: SecretRing | None) -> APIKeys:
    """The keys for those who ask whose a token is, of whatever prefix, and count no use."""
    secret = ring or SecretRing(SecretRing.generate())
    keys = APIKeys(database, prefix=_ANY_PREFIX, secret=secret, allow_missing_secrets=True)
    cli_database.require_file(database)
    return keys


def run(keys: APIKeys, action: Callable[[], Awaitable[T]]) -> T:
    """Runs an action while the collection is open.

    What it made is returned, whoever presses Ctrl-C while the collection closes: there may be
    tokens among it, which nothing else has.
    """
    done: list[T] = []

    async def opened() -> None:
        async with keys:
            done.append(await action())

    try:
        cli_database.run(opened)
    except KeyboardInterrupt:
        if not done:
            cli_output.say("stopped: what was being changed may be changed, look at the keys")
            raise
    return done[0]


async def every(keys: APIKeys, **wanted: Any) -> AsyncIterator[APIKey]:
    """Reads all the keys that pass the filters of ``list``, from its ``cursor`` on."""
    count, cursor = 0, wanted.pop("cursor", None)
    with cli_output.progress("reading keys") as reached:
        while True:
            page = await keys.list(limit=_MOST_AT_ONCE, cursor=cursor, **wanted)
            for key in page.items:
                yield key
            count, cursor = count + len(page.items), page.next_cursor
            if cursor is None:
                return
            reached(count)
