"""The commands that change keys, or end them: what cannot be undone is asked about first.

Knows the collection of keys and the output.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from keylatch import bounds
from keylatch import cli_output as output
from keylatch.cli_asking import confirm, require_somebody
from keylatch.cli_database import require_file
from keylatch.cli_keys import every, run, sealing, stored
from keylatch.cli_options import (
    Actor,
    AsJSON,
    Database,
    ExpiresAt,
    ExpiresIn,
    KeyID,
    Metadata,
    Scopes,
    Yes,
    duration,
)
from keylatch.keys import APIKeys
from keylatch.records import APIKey, NewKey

app: Final = typer.Typer()


@app.command()
def update(
    *,
    key_id: KeyID,
    database: Database = "",
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Another name.")] = None,
    scope: Scopes = None,
    no_scopes: Annotated[bool, typer.Option("--no-scopes", help="Take every scope away.")] = False,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="It ends no more by itself.")
    ] = False,
    metadata: Metadata = None,
    actor: Actor = None,
    as_json: AsJSON = False,
) -> None:
    """Change an active key; what is not given stays as it is.

    The scopes and the metadata that are given replace all of the old ones. Needs neither server
    secret nor prefix.
    """
    if scope and no_scopes:
        raise ValueError("give --scope or --no-scopes, not both")
    if (expires_in is not None) + (expires_at is not None) + never_expires > 1:
        raise ValueError("give one of --expires-in, --expires-at and --never-expires")
    edits: dict[str, Any] = {}
    if name is not None:
        edits["name"] = name
    if scope or no_scopes:
        edits["scopes"] = scope or ()
    if expires_in is not None:
        expires_at = datetime.now(UTC) + expires_in
    if expires_at is not None or never_expires:
        edits["expires_at"] = expires_at
    if metadata is not None:
        edits["metadata"] = metadata
    keys = stored(database)
    key = run(keys, lambda: keys.update(key_id, **edits, actor=actor))
    output.key(key, as_json=as_json)


@app.command()
def rotate(
    *,
    key_id: KeyID,
    grace: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long the old token still works, such as 24h; 0h if it has leaked.",
        ),
    ],
    database: Database = "",
    prefix: Annotated[
        str | None,
        typer.Option(
            envvar="KEYLATCH_PREFIX",
            metavar="PREFIX",
            show_default=False,
            help="What the new token begins with, needed if the old one was imported.",
        ),
    ] = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    actor: Actor = None,
    as_json: AsJSON = False,
) -> None:
    """Replace a key, and show the new token this once.

    The new key has the same owner, prefix, name, scopes and metadata; without an expiry of its
    own it lives for as long as the old one was to. Standard output has the token and nothing
    else: TOKEN=$(keylatch rotate ID --grace 24h).
    """
    keys = sealing(database, prefix) if prefix else sealing(database)
    require_file(database)

    async def rotated() -> NewKey:
        if not prefix and not (await keys.get(key_id)).prefix:
            raise ValueError(
                "the key's token was imported, so that the new one needs a prefix: give --prefix "
                "PREFIX, or set KEYLATCH_PREFIX in the environment"
            )
        return await keys.rotate(
            key_id, grace=grace, expires_in=expires_in, expires_at=expires_at, actor=actor
        )

    output.token(run(keys, rotated), as_json=as_json)


@app.command()
def revoke(
    *,
    key_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The key's id; not its token.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="ID", help="Instead, every key of this owner.")
    ] = None,
    database: Database = "",
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, for the audit trail.")
    ] = None,
    actor: Actor = None,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Revoke a key, or every key of an owner, for good.

    Needs neither server secret nor prefix.
    """
    if (key_id is None) == (owner is None):
        raise ValueError("give the id of a key, or --owner ID for every key of an owner")
    require_somebody(yes=yes)
    keys = stored(database)
    if owner is not None:
        _revoke_all(keys, owner, reason=reason, actor=actor, yes=yes, as_json=as_json)
    elif key_id is not None:
        if not yes:
            # Asked between two runs: inside of one, asyncio would hold Ctrl-C back.
            confirm(f"Revoke {_named(run(keys, lambda: keys.get(key_id)))}, for good?")
        key = run(keys, lambda: keys.revoke(key_id, reason=reason, actor=actor))
        output.key(key, as_json=as_json)


@app.command()
def purge(
    *,
    dead_for: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long they must have been revoked or expired, such as 30d.",
        ),
    ],
    database: Database = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count them, and delete nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Delete keys that ended long ago, with their audit trails.

    An hour is the least, by when every worker has heard of their end. Needs neither server secret
    nor prefix.
    """
    require_somebody(yes=yes or dry_run)
    keys = stored(database)
    until = bounds.dead_since(dead_for, now=datetime.now(UTC))
    if dry_run:
        answer = {"would_delete": _count_dead(keys, until)}
    else:
        if not yes and (count := _count_dead(keys, until)):
            ended = f"{_many(count)} that had ended by {until:%Y-%m-%d %H:%M} UTC"
            confirm(f"Delete {ended}, with all that is known of them, for good?")
        with output.progress("deleting keys"):
            answer = {"deleted": run(keys, lambda: keys.purge(dead_for=dead_for))}
    if as_json:
        output.document(answer)
        return
    for verb, count in answer.items():
        output.write(f"{verb.replace('_', ' ')} {_many(count)}\n")


def _revoke_all(
    keys: APIKeys, owner: str, *, reason: str | None, actor: str | None, yes: bool, as_json: bool
) -> None:
    async def unrevoked() -> int:
        return sum([key.revoked_at is None async for key in every(keys, owner=owner)])

    whose = output.printable(owner)
    if not yes and (count := run(keys, unrevoked)):
        confirm(f"Revoke {_many(count)} of {whose}, for good?")
    with output.progress("revoking keys"):
        ids = run(keys, lambda: keys.revoke_all(owner=owner, reason=reason, actor=actor))
    if as_json:
        output.document({"revoked": ids})
    else:
        output.write(f"revoked {_many(len(ids))} of {whose}\n")


def _count_dead(keys: APIKeys, until: datetime) -> int:
    """How many keys a purge would delete. Reads every revoked one, and that takes a while."""

    def ended(moment: datetime | None) -> bool:
        return moment is not None and moment < until

    async def count() -> int:
        expired = sum([1 async for _ in every(keys, expiring_before=until)])
        revoked = every(keys, status="revoked")
        return expired + sum(
            [ended(key.revoked_at) and not ended(key.expires_at) async for key in revoked]
        )

    return run(keys, count)


def _named(key: APIKey) -> str:
    whose = "" if key.owner is None else f" of {output.printable(key.owner)}"
    return f"{key.id} ({output.printable(key.name)}){whose}"


def _many(count: int) -> str:
    return f"{count} key" if count == 1 else f"{count} keys"
