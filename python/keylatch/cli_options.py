"""The options that commands share, and how their texts are read.

Knows Typer. No error here repeats what was given: it may be a secret.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Reads a duration. ``BadParameter`` if it is none."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter("write a duration like 30m, 12h, 90d or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """Reads a moment, which must be aware. ``BadParameter`` if it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a moment like 2030-01-31T12:00:00Z") from None
    if found.utcoffset() is None:
        raise typer.BadParameter("add a time zone: 2030-01-31T12:00:00Z, or +01:00 instead of Z")
    return found


def json_object(text: str) -> dict[str, Any]:
    """Reads a JSON object. ``BadParameter`` if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter("""write a JSON object like '{"team": "data"}'""")
    return value


def _needed(option: str, variable: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not value:
            raise ValueError(f"give {option}, or set {variable} in the environment")
        return value

    return check


# Not required in Typer's way: its error would not name the environment variable.
Database = Annotated[
    str,
    typer.Option(
        envvar="KEYLATCH_DATABASE",
        metavar="URL",
        show_default=False,
        callback=_needed("--database URL", "KEYLATCH_DATABASE"),
        help="Where the keys are, such as sqlite+aiosqlite:///keys.db. Needed.",
    ),
]
Prefix = Annotated[
    str,
    typer.Option(
        envvar="KEYLATCH_PREFIX",
        metavar="PREFIX",
        show_default=False,
        callback=_needed("--prefix PREFIX", "KEYLATCH_PREFIX"),
        help="What the application's tokens begin with, such as acme_live. Needed.",
    ),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="SCOPE", help="Such as items:read; may be repeated."),
]
ExpiresIn = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="DURATION", help="Such as 30m, 12h, 90d or 2w."),
]
ExpiresAt = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="MOMENT", help="Such as 2030-01-31T12:00:00Z."),
]
Metadata = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=json_object, metavar="JSON", help="A JSON object to keep with it."),
]
Actor = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Who does it, for the audit trail.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write one JSON document, for programs.")]
