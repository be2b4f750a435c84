"""The command ``keylatch routes``: what each route of an application asks for.

Knows the application as Python imports it, and the output; no keys and no database.
"""

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
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
            metavar="[METHOD ]PATH",
            help="One that may, as it is listed: a whole path such as /health, or all below one, "
            'such as /static/*; with every method, or those before it, as in "GET /items" and '
            '"WEBSOCKET /feed". /* allows only what is listed as that. Again for more.',
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the routes of an application, and what each asks for.

    Imports a FastAPI or Starlette application, and calls none of its routes. One is open where
    somebody without any credential gets in. A path that ends with /* stands for all below it that
    no other route has: files, what is no application of these two, and what a router serves by
    default. A route of one host alone stands behind its name, as in other.example/health.

    What is not seen: whether another scheme than keylatch's looks at what it is given; whether a
    route class, a middleware or a subclass of the application's own lets a request around a check
    or answers by itself; what a handler of errors serves for a 404 or a refusal; and routes that
    are added when the application starts. Needs FastAPI 0.146 or later, and neither server secret
    nor database, unless the application does.
    """
    if find_spec("fastapi") is None:
        raise ConfigurationError('fastapi is not installed: pip install "keylatch[fastapi]"')
    from keylatch.routes import survey

    allowed = [each for text in allow or [] for each in _allowed(text)]
    found = survey(_load(target, app_dir, factory=factory))
    rows: list[dict[str, Any]] = [
        asdict(each) | {"allowed": each.open and _is_allowed(each, allowed)} for each in found
    ]
    left = [row for row in rows if row["open"] and not row["allowed"]]
    if as_json:
        output.document({"items": rows})
    else:
        output.routes(rows)
        output.say(f"routes: {len(rows)}, open and not allowed to be: {len(left)}")
    opened = [(each, method) for each in found if each.open for method in each.methods]
    for entry in allowed:
        if not any(_allows(entry, *each) for each in opened):
            output.say(f"--allow {' '.join(entry).strip()} is of no use: no open route is there")
    if fail_open and left:
        raise typer.Exit(_FOUND)


def _allowed(text: str) -> Iterator[tuple[str, str]]:
    """Each method with the place; the method is empty where all are meant."""
    *methods, place = text.split() or [""]
    if "/" not in place:
        raise ConfigurationError(
            "what may stand open is named by its whole path as it is listed, such as /health or "
            '"GET /items", or by all below one, such as /static/*'
        )
    for method in methods or [""]:
        yield method, place


def _is_allowed(route: Any, allowed: Sequence[tuple[str, str]]) -> bool:
    """Whether every method of a route is."""
    return all(any(_allows(each, route, method) for each in allowed) for method in route.methods)


def _allows(entry: tuple[str, str], route: Any, method: str) -> bool:
    named, place = entry
    found = f"{route.host}{route.path}"
    # That would be everything: by itself it only names what serves whatever is left.
    below = place.endswith("/*") and place != "/*" and found.startswith(place[:-1])
    if found != place and not below:
        return False
    # Starlette answers HEAD where it answers GET, with less.
    both = named == "GET" and "GET" in route.methods
    return named in ("", method) or (method == "HEAD" and both)


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
