"""The options that commands share, and how their texts are read.

Knows Typer. No error here repeats what was given: it may be a secret.
"""

import getpass
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,7})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# So long before or after now, a moment is still one.
_LONGEST: Final = timedelta(weeks=5200)


def duration(text: str) -> timedelta:
    """Reads a duration, of at most a hundred years. ``BadParameter`` if it is none."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter("write a duration like 30m (minutes), 12h, 90d or 2w")
    duration = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if duration > _LONGEST:
        raise typer.BadParameter("a duration is at most 5200w, which is a hundred years")
    return duration


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


def _who(actor: str | None) -> str:
    if actor is not None:
        return actor
    try:
        return f"cli:{getpass.getuser()}"
    except (ImportError, KeyError, OSError):  # a user without a name, as in a container
        return "cli"


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
    str | None,
    typer.Option(
        metavar="TEXT",
        callback=_who,
        help="Who does it, for the audit trail; your system's user if left out.",
    ),
]
KeyID = Annotated[str, typer.Argument(metavar="ID", help="The key's id; not its token.")]
OfOwner = Annotated[str | None, typer.Option("--owner", metavar="ID", help="Only of this owner.")]
OfPrefix = Annotated[
    str | None,
    # Not from KEYLATCH_PREFIX: that would hide keys without a word.
    typer.Option("--prefix", metavar="PREFIX", help="Only those whose tokens begin with this."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needed in scripts.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Write one JSON document, for programs.")]
