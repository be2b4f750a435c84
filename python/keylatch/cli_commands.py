"""The commands of ``keylatch``, as Typer has them: all of them, and those about tokens.

Knows the collection of keys and the output. What goes wrong is raised: the entry point makes an
exit code of it.
"""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata as packages
from pathlib import Path
from typing import Annotated, Final

import typer

from keylatch import cli_bulk as bulk
from keylatch import cli_output as output
from keylatch._native import SecretRing, parse
from keylatch.cli_changing import app as changing
from keylatch.cli_database import require_file
from keylatch.cli_db import app as db
from keylatch.cli_import import app as importing
from keylatch.cli_keys import run, sealing
from keylatch.cli_leaked import app as leaking
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
from keylatch.cli_reading import app as reading
from keylatch.cli_routes import app as routes
from keylatch.cli_scan import app as scanning
from keylatch.cli_secrets import app as secrets
from keylatch.cli_tokens import Inspection, read_token
from keylatch.errors import AuthenticationError

# A \b keeps the lines of a paragraph as they are.
_EPILOG: Final = """\b
Environment:
  KEYLATCH_SECRET    the application's server secret; never an option
  KEYLATCH_DATABASE  instead of --database
  KEYLATCH_PREFIX    instead of --prefix
  KEYLATCH_ARTICLE   instead of URL (import article)

\b
Exit codes:
    0  fine
    1  refused (verify, inspect, leaked), left out (import), found (scan, routes and reminders)
    2  usage
    3  no such key
    4  configuration: server secret, database URL, tables, missing package
    5  the database is unavailable
    6  the key has ended, or was rotated (update, rotate)
    7  something could not be read (scan)
   70  a defect of keylatch
   74  the answer could not be written
  130  stopped: at a prompt nothing was changed, later it may be
  141  the reader of the answer has gone
"""

app: Final = typer.Typer(
    help="API keys: make, verify, list, change and end them, and look after their tables.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut the names of options in a narrow window
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(reading)
app.add_typer(changing)
app.add_typer(routes)
app.add_typer(scanning)
app.add_typer(leaking)
app.add_typer(db, name="db")
app.add_typer(secrets, name="secret")
app.add_typer(importing, name="import")


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 - as Typer calls it
    if wanted:
        output.write(f"keylatch {packages.version('keylatch')}\n")
        raise typer.Exit


@app.callback()
def _all(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


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
        many = sealing(database, [prefix, *(requests.prefixes - {prefix})])
        bulk.create(many, requests, path=tokens_file, actor=actor, as_json=as_json)
        return
    if name is None or tokens_file is not None:
        raise ValueError("give --name TEXT for one key, or --from FILE, maybe with --output FILE")
    if expires_in is not None and expires_at is not None:
        raise ValueError("give --expires-in or --expires-at, not both")
    keys = sealing(database, prefix)
    new = run(
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
    output.token(new, as_json=as_json)


@app.command()
def verify(
    *, database: Database = "", prefix: Prefix = "", scope: Scopes = None, as_json: AsJSON = False
) -> None:
    """Tell whether the application accepts a token.

    The token comes from standard input, or from a hidden prompt if that is a terminal. One that
    was imported is accepted by applications with imported_tokens=True only.
    """
    keys = sealing(database, prefix, imported_tokens=True)
    require_file(database)
    token = read_token()
    try:
        key = run(keys, lambda: keys.verify(token, scopes=scope or ()))
    except AuthenticationError as error:
        if as_json:
            output.document({"valid": False, "code": error.code, "detail": str(error)})
        raise
    if as_json:
        output.document({"valid": True, "key": output.key_document(key, datetime.now(UTC))})
    else:
        output.key(key, as_json=False)


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
