"""The commands of ``keylatch``, as Typer has them. Knows the collection of keys and the output.

What goes wrong is raised: the entry point makes an exit code of it.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from keylatch import cli_bulk as bulk
from keylatch import cli_output as output
from keylatch._native import SecretRing, parse
from keylatch.cli_database import require_file, run
from keylatch.cli_db import app as db
from keylatch.cli_options import (
    Actor,
    AsJSON,
    Database,
    ExpiresAt,
    ExpiresIn,
    Metadata,
    Prefix,
    Scopes,
)
from keylatch.cli_secrets import app as secrets
from keylatch.cli_tokens import Inspection, on_terminal, read_token
from keylatch.errors import AuthenticationError, ConfigurationError
from keylatch.keys import APIKeys
from keylatch.records import APIKey, Page, Status

T = TypeVar("T")

# A \b keeps the lines of a paragraph as they are.
_EPILOG: Final = """\b
Environment:
  KEYLATCH_SECRET    the application's server secret; never an option
  KEYLATCH_DATABASE  instead of --database
  KEYLATCH_PREFIX    instead of --prefix

\b
Exit codes:
    0  fine
    1  the token is refused (verify, inspect); keys need an old secret (secret status)
    2  usage
    3  no such key
    4  configuration: server secret, database URL, tables, missing package
    5  the database is unavailable
   70  a defect of keylatch
   74  the answer could not be written
  130  stopped at a prompt
  141  the reader of the answer has gone
"""

app = typer.Typer(
    help="API keys: make, list, revoke and verify them, and look after their tables.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut the names of options in a narrow window
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(db, name="db")
app.add_typer(secrets, name="secret")


@app.command()
def create(
    *,
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What people call the key. Needed for one.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Make many keys, all or none: a CSV file whose first line names its columns, of "
            "name, owner, scopes (blanks between them), expires_in, expires_at, metadata (JSON) "
            "and prefix; - is standard input.",
        ),
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="With --from, write the tokens to this new file, for its owner alone to read.",
        ),
    ] = None,
    database: Database = "",
    prefix: Prefix = "",
    owner: Annotated[
        str | None, typer.Option(metavar="ID", help="Whom it belongs to: a user or tenant id.")
    ] = None,
    scope: Scopes = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    metadata: Metadata = None,
    actor: Actor = None,
    as_json: AsJSON = False,
) -> None:
    """Make a key, and show its token this once.

    Standard output has the token and nothing else: TOKEN=$(keylatch create --name ci). With --from
    it has a CSV file of ids and tokens in the order of the lines, with --json a JSON document on a
    line for each.
    """
    if source is not None:
        given = (name, owner, scope, expires_in, expires_at, metadata)
        if any(value is not None for value in given):
            raise ValueError("with --from, write names, owners and the like into the file")
        requests = bulk.read(source)
        many = _collection(database, [prefix, *(requests.prefixes - {prefix})])
        bulk.create(many, requests, path=tokens_file, actor=actor, as_json=as_json)
        return
    if name is None or tokens_file is not None:
        raise ValueError("give --name TEXT for one key, or --from FILE, maybe with --output FILE")
    if expires_in is not None and expires_at is not None:
        raise ValueError("give --expires-in or --expires-at, not both")
    keys = _collection(database, prefix)
    new = _run(
        keys,
        lambda: keys.create(
            name=name,
            owner=owner,
            scopes=scope or (),
            expires_in=expires_in,
            expires_at=expires_at,
            metadata=metadata,
            actor=actor,
        ),
    )
    now = datetime.now(UTC)
    try:
        if as_json:
            output.document({"token": new.token, "key": output.key_document(new.key, now)})
            return
        output.write(f"{new.token}\n")
    except output.OutputError:
        raise output.OutputError(
            f"the token could not be written and is lost: revoke {new.key.id} and make another"
        ) from None
    output.note_rows(output.key_rows(new.key, now))
    if sys.stdout.isatty():
        output.say("the token is not shown again: copy it now")


@app.command("list")
def list_keys(
    *,
    database: Database = "",
    owner: Annotated[
        str | None, typer.Option(metavar="ID", help="Only keys of this owner.")
    ] = None,
    status: Annotated[Status | None, typer.Option(help="Only keys of this status.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="How many, 1 to 500.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where an earlier list ended.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List keys, the newest first. Needs neither server secret nor prefix."""
    keys = _stored_keys(database)

    async def found() -> Page:
        page = await keys.list(owner=owner, status=status, limit=limit, cursor=cursor)
        items = page.items
        while every and page.next_cursor is not None:
            page = await keys.list(owner=owner, status=status, limit=limit, cursor=page.next_cursor)
            items += page.items
        return Page(items, page.next_cursor)

    page = _run(keys, found)
    now = datetime.now(UTC)
    if as_json:
        items = [output.key_document(key, now) for key in page.items]
        output.document({"items": items, "next_cursor": page.next_cursor})
        return
    if page.items:
        output.keys(page.items, now)
    else:
        output.say("there are no keys")
    if page.next_cursor is not None:
        output.say(f"there are more: add --all, or --cursor {page.next_cursor}")


@app.command()
def revoke(
    *,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id; not its token.")],
    database: Database = "",
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, for the audit trail.")
    ] = None,
    actor: Actor = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed in scripts.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Revoke a key, for good. Needs neither server secret nor prefix."""
    if not yes and not on_terminal():
        raise ValueError("there is nobody to ask, standard input is no terminal: add --yes")
    keys = _stored_keys(database)
    if not yes:
        # Asked between two runs: inside of one, asyncio would hold Ctrl-C back.
        _confirm(_run(keys, lambda: keys.get(key_id)))
    key = _run(keys, lambda: keys.revoke(key_id, reason=reason, actor=actor))
    _write_key(key, as_json=as_json)


@app.command()
def verify(
    *, database: Database = "", prefix: Prefix = "", scope: Scopes = None, as_json: AsJSON = False
) -> None:
    """Tell whether the application accepts a token.

    The token comes from standard input, or from a hidden prompt if that is a terminal.
    """
    keys = _collection(database, prefix)
    require_file(database)
    token = read_token()
    try:
        key = _run(keys, lambda: keys.verify(token, scopes=scope or ()))
    except AuthenticationError as error:
        if as_json:
            output.document({"valid": False, "code": error.code, "detail": str(error)})
        raise
    now = datetime.now(UTC)
    if as_json:
        output.document({"valid": True, "key": output.key_document(key, now)})
    else:
        output.rows(output.key_rows(key, now))


@app.command()
def inspect(*, as_json: AsJSON = False) -> None:
    """Tell the parts of a token, without a database.

    The token comes as for verify, and is shown masked. If KEYLATCH_SECRET is set, this tells
    which server secret sealed it.
    """
    ring = SecretRing.from_env() if os.environ.get("KEYLATCH_SECRET") else None
    text = read_token()
    inspection = Inspection.of(text, ring)
    if as_json:
        output.document(asdict(inspection))
    else:
        output.rows(inspection.rows(ring))
    parse(text)  # raises what to say of a text that is no token


def _run(keys: APIKeys, action: Callable[[], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with keys:
            return await action()

    return run(opened)


def _collection(database: str, prefix: str | Sequence[str]) -> APIKeys:
    if not os.environ.get("KEYLATCH_SECRET"):
        raise ConfigurationError(
            "KEYLATCH_SECRET is not set: set it to the application's server secret (`keylatch "
            "secret` makes one for a new application)"
        )
    return APIKeys(database, prefix=prefix)


def _stored_keys(database: str) -> APIKeys:
    """The keys for those who neither make nor verify any.

    Listing and revoking use neither prefix nor server secret: these are gone with the process.
    """
    secret = SecretRing(SecretRing.generate())
    keys = APIKeys(database, prefix="keylatch", secret=secret, allow_missing_secrets=True)
    require_file(database)
    return keys


def _confirm(key: APIKey) -> None:
    # Not typer.confirm, which writes a blank to standard output.
    whose = "" if key.owner is None else f" of {output.printable(key.owner)}"
    name = output.printable(key.name)
    sys.stderr.write(f"Revoke {key.id} ({name}){whose}, for good? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise typer.Abort


def _write_key(key: APIKey, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        output.document(output.key_document(key, now))
    else:
        output.rows(output.key_rows(key, now))
