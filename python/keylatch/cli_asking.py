"""Asks before what cannot be undone is done. Knows a terminal, and no command."""

import sys

import typer

from keylatch.cli_tokens import on_terminal


def require_somebody(*, yes: bool) -> None:
    """Refuses to go on where nobody can be asked, and ``--yes`` was not given."""
    if not yes and not on_terminal():
        raise ValueError("there is nobody to ask, standard input is no terminal: add --yes")


def confirm(question: str) -> None:
    """Asks, and stops the command unless the answer is a yes."""
    # Not typer.confirm, which writes a blank to standard output.
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise typer.Abort
