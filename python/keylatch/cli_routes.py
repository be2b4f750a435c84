"""The command ``keylatch routes``: what each route of an application asks for.

Knows the application as Python imports it, and the output; no keys and no database.
"""

import contextlib
import importlib
import re
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keylatch import cli_output as output
from keylatch.cli_options import AsJSON
from keylatch.errors import ConfigurationError

# As diff has it.
_FOUND: Final = 1

app: Final = typer.Typer()


@app.command()
def routes(
    *,
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="As uvicorn takes it: acme.main:app.")
    ],
    factory: Annotated[
        bool, typer.Option("--factory", help="APP is a function that makes the application.")
    ] = False,
    app_dir: Annotated[
        str, typer.Option(metavar="DIRECTORY", help="Where the module is; here, if left out.")
    ] = ".",
    fail_open: Annotated[
        bool, typer.Option("--fail-open", help="Exit with 1 if a route stands open: for CI.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="One that may: a whole path such as /health, or all below one, such as /static/*. "
            "Again for more.",
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the routes of an application, and what each asks for.

    Imports a FastAPI or Starlette application, and calls none of its routes. One is open where
    somebody without any credential gets in. What is not seen: whether another scheme than
    keylatch's looks at what it is given, and whether a route class, a subclass of keylatch's or a
    middleware of the application's own lets a request around a check. Needs neither server secret
    nor database, unless the application does.
    """
    if find_spec("fastapi") is None:
        raise ConfigurationError('fastapi is not installed: pip install "keylatch[fastapi]"')
    from keylatch.routes import survey

    allowed = [_allowed(path) for path in allow or []]
    found = survey(_load(target, app_dir, factory=factory))
    rows: list[dict[str, Any]] = [
        asdict(each) | {"allowed": each.open and any(_is(path, each.path) for path in allowed)}
        for each in found
    ]
    left = [row for row in rows if row["open"] and not row["allowed"]]
    if as_json:
        output.document({"items": rows})
    else:
        output.routes(rows)
        output.say(f"routes: {len(rows)}, open and not allowed to be: {len(left)}")
    for path in allowed:
        if not any(row["allowed"] and _is(path, row["path"]) for row in rows):
            output.say(f"--allow {path} is of no use: no open route is there")
    if fail_open and left:
        raise typer.Exit(_FOUND)


def _allowed(path: str) -> str:
    if not path.startswith("/") or path == "/*":
        raise ConfigurationError(
            "what may stand open is named by its whole path as it is listed, such as /health, or "
            "by all below one, such as /static/*"
        )
    return path


def _is(allowed: str, path: str) -> bool:
    return path == allowed or (allowed.endswith("/*") and path.startswith(allowed[:-1]))


def _load(target: str, directory: str, *, factory: bool) -> Any:
    module, _, names = target.partition(":")
    if not re.fullmatch(r"[\w.]+:[\w.]+", target):
        raise ConfigurationError("an application is named as uvicorn takes it: acme.main:app")
    sys.path.insert(0, str(Path(directory).resolve()))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # which is not the answer
            found: Any = importlib.import_module(module)
            for name in names.split("."):
                found = getattr(found, name)
            return found() if factory else found
    except Exception as error:  # noqa: BLE001 - whatever the application raises
        missing = getattr(error, "name", None)
        reason = f"{type(error).__name__}{f' of {missing}' if missing else ''}"
    # Not its text, which may hold what the application keeps to itself.
    raise ConfigurationError(
        f"{module} cannot be imported, or has no {names} ({reason}): see --app-dir and --factory, "
        f"and try python -c 'import {module}'"
    )
