"""The commands that tell of keys: those asked for, one, its past, and those that need a look.

Knows the collection of keys and the output. None needs the server secret.
"""

import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from keylatch import cli_output as output
from keylatch.cli_keys import every, run, stored
from keylatch.cli_options import AsJSON, Database, KeyID, OfOwner, OfPrefix, duration
from keylatch.keys import APIKeys
from keylatch.records import Page, Status

# As diff has it: 0 for nothing, 1 for something, more than that for trouble.
_NOTHING: Final = 0
_SOMETHING: Final = 1

app: Final = typer.Typer()


@app.command("list")
def list_keys(
    *,
    database: Database = "",
    owner: OfOwner = None,
    prefix: OfPrefix = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status.")] = None,
    scope: Annotated[
        str | None, typer.Option(metavar="SCOPE", help="Only those that have this scope.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those of exactly this name.")
    ] = None,
    unused_for: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Only those neither used nor made for so long.",
        ),
    ] = None,
    expiring_within: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Only those that end within this, and are active unless --status says otherwise.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="How many, 1 to 500.")] = 50,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Go on where an earlier list of the same ended."),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List keys that pass every filter. Needs neither server secret nor prefix.

    The newest come first; with --status revoked or expired those that ended last, with
    --expiring-within those that end soonest.
    """
    now = datetime.now(UTC)
    if expiring_within is not None and status is None:
        status = "active"
    wanted: dict[str, Any] = {
        "owner": owner,
        "prefix": prefix,
        "status": status,
        "scope": scope,
        "name": name,
        "unused_since": None if unused_for is None else now - unused_for,
        "expiring_before": None if expiring_within is None else now + expiring_within,
        "cursor": cursor,
    }
    keys = stored(database)
    page = _whole(keys, wanted) if whole else run(keys, lambda: keys.list(limit=limit, **wanted))
    _write(page, used=unused_for is not None, as_json=as_json)
    if as_json:
        return
    if not page.items:
        output.say("there are no such keys")
    if page.next_cursor is not None:
        output.say(f"there are more: add --all, or --cursor {page.next_cursor}")


@app.command()
def show(*, key_id: KeyID, database: Database = "", as_json: AsJSON = False) -> None:
    """Show a key. Needs neither server secret nor prefix."""
    keys = stored(database)
    output.key(run(keys, lambda: keys.get(key_id)), as_json=as_json)


@app.command()
def events(*, key_id: KeyID, database: Database = "", as_json: AsJSON = False) -> None:
    """Show what happened to a key, when and by whom.

    The oldest come first. Needs neither server secret nor prefix.
    """
    keys = stored(database)
    found = run(keys, lambda: keys.events(key_id))
    if as_json:
        output.document({"items": [asdict(event) for event in found]})
    else:
        output.events(found)


@app.command()
def expiring(
    *,
    within: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="How soon, such as 14d.")
    ],
    database: Database = "",
    owner: OfOwner = None,
    prefix: OfPrefix = None,
    as_json: AsJSON = False,
) -> int:
    """List active keys that expire soon, as a reminder.

    The soonest come first. Exits with 1 if there are any; if not, it exits with 0 and writes
    nothing, so that cron mails nothing. Needs neither server secret nor prefix.
    """
    until = datetime.now(UTC) + within
    wanted = {"owner": owner, "prefix": prefix, "expiring_before": until}
    page = _whole(stored(database), wanted | {"status": "active"})
    _write(page, as_json=as_json)
    return _found(page, f"no active key expires before {until:%Y-%m-%d %H:%M} UTC")


@app.command()
def unused(
    *,
    time: Annotated[
        timedelta,
        typer.Option("--for", parser=duration, metavar="DURATION", help="How long, such as 90d."),
    ],
    database: Database = "",
    owner: OfOwner = None,
    prefix: OfPrefix = None,
    as_json: AsJSON = False,
) -> int:
    """List active keys that nobody has used for a time.

    Those made meanwhile are left out. Exits with 1 if there are any; if not, it exits with 0 and
    writes nothing, so that cron mails nothing. Needs neither server secret nor prefix.
    """
    since = datetime.now(UTC) - time
    wanted = {"owner": owner, "prefix": prefix, "unused_since": since}
    page = _whole(stored(database), wanted | {"status": "active"})
    _write(page, used=True, as_json=as_json)
    return _found(page, f"every active key was used or made since {since:%Y-%m-%d %H:%M} UTC")


def _whole(keys: APIKeys, wanted: dict[str, Any]) -> Page:
    async def found() -> Page:
        return Page([key async for key in every(keys, **wanted)], None)

    return run(keys, found)


def _write(page: Page, *, used: bool = False, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        items = [output.key_document(key, now) for key in page.items]
        output.document({"items": items, "next_cursor": page.next_cursor})
    elif page.items:
        output.keys(page.items, now, used=used)


def _found(page: Page, otherwise: str) -> int:
    if page.items:
        return _SOMETHING
    if sys.stdout.isatty():  # cron mails every word
        output.say(otherwise)
    return _NOTHING
