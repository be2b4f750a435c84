"""The commands ``keylatch secret``: makes a server secret, and tells when an old one can go.

Knows the store and the output, and no keys.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keylatch import cli_output as output
from keylatch._native import SecretRing
from keylatch.cli_database import require_file, run
from keylatch.cli_options import AsJSON, Database
from keylatch.errors import ConfigurationError
from keylatch.kids import SecretStatus, SecretUse

if TYPE_CHECKING:
    from keylatch.sqlalchemy import SQLAlchemyStore

# In seconds: counting reads every key.
_DEADLINE: Final = 3600.0
_IN_USE: Final = 1

app: Final = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def secret(
    context: typer.Context,
    *,
    kid: Annotated[str, typer.Option(metavar="KID", help="Its public name.")] = "k1",
) -> None:
    """Make a server secret, or look after those there are.

    Standard output has nothing else: export KEYLATCH_SECRET=$(keylatch secret).
    """
    if context.invoked_subcommand is not None:
        return
    try:
        text = SecretRing.generate(kid)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None  # here it is the usage that is wrong
    output.write(f"{text}\n")


@app.command()
def status(*, database: Database = "", as_json: AsJSON = False) -> int:
    """Count the keys that need each server secret of KEYLATCH_SECRET, and others.

    A key moves to the active secret when it is used, unless its token was imported. Exits with 1
    as long as living keys need another one, with 0 once the active one is enough. Reads every
    key. Needs no prefix.
    """
    from keylatch.sqlalchemy import SQLAlchemyStore

    ring = SecretRing.from_env()
    store = SQLAlchemyStore(database, deadline=_DEADLINE)
    require_file(database)
    found = run(lambda: _count(store, ring))
    if as_json:
        output.document(_document(found))
    else:
        output.rows([(use.kid or "none", _row(found, use)) for use in found.uses])
        for text in _advice(found):
            output.say(text)
    return 0 if found.done else _IN_USE


async def _count(store: "SQLAlchemyStore", ring: SecretRing) -> SecretStatus:
    try:
        await store.check()
        return SecretStatus.of(ring.kids, await store.count_secrets(datetime.now(UTC)))
    finally:
        await store.close()


def _role(found: SecretStatus, kid: str | None) -> str:
    if kid is None:
        return "unkeyed"
    if kid == found.active:
        return "active"
    return "retired" if kid in found.retired else "not in the ring"


def _document(found: SecretStatus) -> dict[str, object]:
    uses = [
        {
            "kid": use.kid,
            "role": _role(found, use.kid),
            "living": use.living,
            "dead": use.dead,
            "imported": use.imported,
        }
        for use in found.uses
    ]
    return {
        "done": found.done,
        "active": found.active,
        "removable": found.removable,
        "missing": found.missing,
        "secrets": uses,
    }


def _row(found: SecretStatus, use: SecretUse) -> str:
    imported = f" ({use.imported} of them imported)" if use.imported else ""
    return f"{_role(found, use.kid)}: {use.living} living keys{imported}, {use.dead} dead"


def _advice(found: SecretStatus) -> list[str]:
    advice = []
    if found.removable:
        advice.append(f"no living key needs {', '.join(found.removable)}: it can leave the ring")
    if found.missing:
        advice.append(
            f"living keys need {', '.join(found.missing)}, not in the ring: put it back behind the "
            "active one"
        )
    staying = [use for use in found.uses if use.imported and use.kid != found.active]
    advice += [
        f"{use.imported} imported keys stay under {use.kid}, which do not move when they are used: "
        "rotate them, or revoke them"
        for use in staying
    ]
    return advice
