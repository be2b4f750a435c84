"""Writes docs/reference/cli.md from what the installed command tells about itself.

Usage: cli_reference.py [--check]. With --check it writes nothing, and exits with 1 if the page is
not what it would write.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup

from keylatch.cli_commands import app

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
INTRODUCTION = """\
<!-- Written by tools/cli_reference.py: `make docs-cli` writes it anew. -->

# Command line

`pip install "keylatch[cli]"` installs `keylatch`. `--help`, behind it or a command, shows the same;
`--version` tells which it is.
Durations are written like `30m`, `12h`, `90d` or `2w`, and moments like `2030-01-31T12:00:00Z`.
"""
_SPELLED = re.compile(
    r"(?<![\w`])(--[a-z][a-z-]*|KEYLATCH_[A-Z]+|keylatch [a-z-]+(?= )|\w+=\$\([^)]*\))"
)


def page() -> str:
    """The page: what belongs to all commands, and then each of them."""
    command = typer.main.get_command(app)
    with typer.Context(command, info_name="keylatch") as context:
        parts = [INTRODUCTION, *epilog(command.epilog or "")]
        parts += described(command, context)
    return "\n".join(parts)


def epilog(text: str) -> Iterator[str]:
    """The tables of environment variables and exit codes: of lines with two columns."""
    for block in re.split(r"^\x08\n", text, flags=re.MULTILINE):
        title, *lines = block.strip().splitlines() or [""]
        if not lines:
            continue
        yield f"## {title.strip(':')}\n"
        yield from table(
            ["name" if title.startswith("Env") else "code", "meaning"],
            [[f"`{name}`", cell(rest)] for name, rest in (row.split(maxsplit=1) for row in lines)],
        )


def described(command: TyperGroup | TyperCommand, context: typer.Context) -> Iterator[str]:
    """A command and those below it."""
    if context.parent is not None:
        yield f"## {context.command_path}\n"
        yield f"```text\n{usage(command, context)}\n```\n"
        for paragraph in (command.help or "").split("\n\n"):
            yield f"{prose(' '.join(paragraph.split()))}\n"
        yield from parameters(command, context)
    for name in command.list_commands(context) if isinstance(command, TyperGroup) else ():
        below = command.get_command(context, name)
        if below is not None:
            yield from described(below, typer.Context(below, info_name=name, parent=context))


def usage(command: TyperGroup | TyperCommand, context: typer.Context) -> str:
    """The first line of the help."""
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def parameters(command: TyperGroup | TyperCommand, context: typer.Context) -> Iterator[str]:
    """The arguments and options, but for --help."""
    rows = []
    for parameter in command.get_params(context):
        shown, text = parameter.get_help_record(context) or ("", "")
        if shown and "--help" not in parameter.opts:
            rows.append([f"`{shown}`", cell(text)])
    if rows:
        yield from table(["option", "meaning"], rows)


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    yield "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Text for a place in a table."""
    return prose(" ".join(text.split())).replace("|", "\\|")


def prose(text: str) -> str:
    """A line of help as Markdown, with what is typed set as code."""
    escaped = re.sub(r"([*_<\[\]])", r"\\\1", text)
    return _SPELLED.sub(lambda match: f"`{match[1]}`", unescaped(escaped))


def unescaped(text: str) -> str:
    """Takes escapes out of what becomes code."""
    return re.sub(r"KEYLATCH\\_", "KEYLATCH_", text)


def main() -> None:
    """Writes or checks."""
    written = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(written, "utf-8")
    elif PAGE.read_text("utf-8") != written:
        sys.exit(f"{PAGE} is not what the command says: make docs-cli")


if __name__ == "__main__":
    main()
