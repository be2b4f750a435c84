"""Draws docs/terminal.svg: the installed command, run in a terminal of 100 columns.

Usage: terminal_picture.py [PATH]. What is shown is what the commands print. Only the token's secret
is cut, since nobody should get used to seeing one.
"""

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from keylatch import SecretRing

PICTURE = Path(__file__).parent.parent / "docs" / "terminal.svg"
COLUMNS = 100
SESSION = [
    "keylatch create --name ci --owner ada --scope items:read --expires-in 90d",
    "keylatch list",
    "keylatch scan src",
    "keylatch scan src --json > found.json",
    "keylatch leaked --from found.json --revoke --yes",
]
# Rich's own format asks a server for a font.
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
  aria-label="keylatch in a terminal: a key is made, listed, found by scan, and revoked">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""  # noqa: E501


def run(command: str, environment: dict[str, str]) -> str:
    """What a command shows in a terminal, without bars that come and go."""
    shown, code = pexpect.run(
        f"bash -c '{command} 2> >(cat)'",
        env=environment,
        cwd=environment["HOME"],
        encoding="utf-8",
        dimensions=(50, COLUMNS),
        timeout=60,
        withexitstatus=True,
    )
    if code not in {0, 1}:
        raise SystemExit(f"{command} exited with {code}: {shown}")
    return shown.replace("\r", "")


def session(home: Path) -> Text:
    """The whole session, in an empty folder."""
    environment = {
        "HOME": str(home),
        "KEYLATCH_DATABASE": "sqlite+aiosqlite:///keys.db",
        "KEYLATCH_PREFIX": "acme_live",
        "KEYLATCH_SECRET": SecretRing.generate(),
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    shown = Text()
    for command in SESSION:
        printed = run(command, environment)
        if tokens := re.findall(r"acme_live_\w{72}", printed):
            (home / "src").mkdir()
            (home / "src" / "deploy.env").write_text(f"API_KEY={tokens[0]}\n")
            printed = printed.replace(tokens[0], f"{tokens[0][:36]}…")
        shown.append("$ ", "bold green").append(command + "\n", "bold")
        shown.append_text(Text.from_ansi(printed.strip("\n")))
        shown.append("\n\n" if printed else "")
    shown.rstrip()
    return shown


def main(path: Path) -> None:
    """Draws it."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as home:
        console.print(session(Path(home)))
    picture = console.export_svg(
        title="keylatch", code_format=FORMAT, theme=MONOKAI, unique_id="keylatch"
    )
    path.write_text(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
