"""The commands ``keylatch import``: move the keys of another application over.

Knows what moves them, and the output.
"""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keylatch import cli_output as output
from keylatch.cli_database import require_file, run
from keylatch.cli_keys import sealing
from keylatch.cli_options import Actor, AsJSON, Database, Prefix, Scopes
from keylatch.cli_progress import bar
from keylatch.cli_tokens import on_terminal

if TYPE_CHECKING:
    from keylatch.article import ArticleDatabase
    from keylatch.article_import import ArticleImport, LeftOut, Report
    from keylatch.keys import APIKeys

_LEFT_OUT: Final = 1

app: Final = typer.Typer(
    help="Move the keys of another application over.",
    rich_markup_mode=None,
)


@app.command()
def article(
    *,
    url: Annotated[
        str,
        typer.Argument(
            envvar="KEYLATCH_ARTICLE",
            metavar="URL",
            show_default=False,
            help="The article's database, such as sqlite:///app.db. One with a password belongs "
            "in the environment, since every user of the machine sees arguments.",
        ),
    ],
    database: Database = "",
    prefix: Prefix = "",
    scope: Scopes = None,
    empty_plaintext: Annotated[
        bool,
        typer.Option(
            "--empty-plaintext",
            help="When all is imported, empty secret_key of the rows that have keys, for good. "
            "On a terminal it is asked about.",
        ),
    ] = False,
    actor: Actor = None,
    as_json: AsJSON = False,
) -> int:
    """Import the keys of an app that was built after the article.

    That is "Securing Your FastAPI with API Key Authentication: A Step-by-Step Guide". Every token
    in its table user_api_keys becomes a key of the row's user_id, and clients go on as they are:
    the application needs imported_tokens=True. Rows that become no key are named, with the
    reason, but never their secrets: those without a secret, with that of an earlier row, without
    a user, with a public_key that the article would not take, and with a secret that no header
    can carry. That the bcrypt hash is the secret's is not checked, which would take a fifth of a
    second a row.

    It can be stopped anywhere and run again: nothing is imported twice. Only --empty-plaintext
    changes the article's tables; copies may stay in backups and in free pages of the database
    (VACUUM). Exits with 1 if rows were left out.
    """
    from keylatch.article import ArticleDatabase
    from keylatch.article_import import ArticleImport

    keys = sealing(database, prefix, imported_tokens=True)
    source = ArticleDatabase(url)
    require_file(url, "check the path in URL, which is the article's database")
    del url  # it may hold a password
    work = ArticleImport(keys, source, scopes=scope or (), actor=actor)
    try:
        report = run(lambda: _imported(keys, source, work))
        emptied = 0
        # Asked between two runs: inside of one, asyncio would hold Ctrl-C back.
        if empty_plaintext or (not as_json and _agrees(work.can_be_emptied)):
            emptied = run(lambda: _emptied(source, work, report.rows))
    except KeyboardInterrupt:
        output.say("stopped: what was imported stays, and the same command goes on from there")
        raise
    _write(report, emptied, as_json=as_json)
    return _LEFT_OUT if report.left_out else 0


async def _imported(keys: "APIKeys", source: "ArticleDatabase", work: "ArticleImport") -> "Report":
    try:
        async with keys:
            with bar("importing keys", await source.count()) as progress:
                return await work.run(progress)
    finally:
        await source.close()


async def _emptied(source: "ArticleDatabase", work: "ArticleImport", rows: int) -> int:
    try:
        with bar("emptying secrets", rows) as progress:
            return await work.empty(progress)
    finally:
        await source.close()


def _agrees(count: int) -> bool:
    """Asks on a terminal, where a no is what is meant if nothing is said."""
    if not count or not on_terminal():
        return False
    rows = "1 row" if count == 1 else f"{count} rows"
    sys.stderr.write(f"Empty secret_key of {rows} whose tokens have keys now, for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _write(report: "Report", emptied: int, *, as_json: bool) -> None:
    if as_json:
        output.document(asdict(report) | {"emptied": emptied})
        return
    output.rows(
        [
            ("rows", str(report.rows)),
            ("imported", str(report.imported)),
            ("imported before", str(report.imported_before)),
            ("left out", str(len(report.left_out))),
            ("emptied", str(emptied)),
        ]
    )
    if report.left_out:
        output.rows([(f"row {each.row}", _explained(each)) for each in report.left_out])


def _explained(each: "LeftOut") -> str:
    return f"{'no user' if each.user_id is None else f'of {each.user_id}'}: {each.detail}"
