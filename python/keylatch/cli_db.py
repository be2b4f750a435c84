"""The commands ``keylatch db``: whether the tables are those of this version, and how they get so.

Knows the store and the output, and no keys.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from keylatch import cli_output as output
from keylatch.cli_database import require_file, run
from keylatch.cli_options import AsJSON, Database

if TYPE_CHECKING:
    from keylatch.sqlalchemy import SQLAlchemyStore

T = TypeVar("T")

# In seconds: making an index of a big table takes a while.
_DEADLINE: Final = 3600.0

app: Final = typer.Typer(
    help="Make the tables, bring them up to date, or check them.", rich_markup_mode=None
)


@app.command()
def upgrade(*, database: Database = "", as_json: AsJSON = False) -> None:
    """Make the tables, or bring those of an older version up to date.

    There is no way back: have a backup. Needs neither server secret nor prefix.
    """
    store = _store(database, deadline=_DEADLINE)
    with output.progress("upgrading the tables"):
        before, after = _run(store, store.upgrade)
    if as_json:
        output.document({"before": before, "after": after})
    elif before is None:
        output.write(f"made the tables, at revision {after}\n")
    elif before == after:
        output.write(f"already at {after}\n")
    else:
        output.write(f"upgraded from {before} to {after}\n")


@app.command()
def check(*, database: Database = "", as_json: AsJSON = False) -> None:
    """Tell whether the tables are those of this version.

    Exits with 4 and says what to run if not. Needs neither server secret nor prefix.
    """
    store = _store(database)
    require_file(database)
    revision = _run(store, store.check)
    if as_json:
        output.document({"revision": revision})
    else:
        output.write(f"the tables are those of this version, revision {revision}\n")


def _store(database: str, **options: float) -> "SQLAlchemyStore":
    # Imported where it is needed: most of what a command's start would take goes into this.
    from keylatch.sqlalchemy import SQLAlchemyStore

    return SQLAlchemyStore(database, **options)


def _run(store: "SQLAlchemyStore", action: Callable[[], Awaitable[T]]) -> T:
    async def closed() -> T:
        try:
            return await action()
        finally:
            await store.close()

    return run(closed)
