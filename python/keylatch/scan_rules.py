"""Rules with which other tools find tokens of a prefix. Knows the token format alone.

Each tool has its own regular expressions: Go's RE2, Hyperscan. What stands here is common to them,
and to Python and Rust: no look-around.
"""

import json
from typing import Final, Literal

from keylatch._native import SecretRing, mint

Format = Literal["gitleaks", "github", "trufflehog"]

# What may stand on either side of a token: by default of GitHub's the same, but for the letter of
# an escaped line break.
BEFORE: Final = r"\A|[^0-9A-Za-z]|\\[nrt]"
AFTER: Final = r"\z|[^0-9A-Za-z]"
_BEFORE: Final = r"(?:^|[^0-9A-Za-z]|\\[nrt])"
# Of no width, or the next line would begin within what was matched, and its token be passed over.
_AFTER: Final = r"(?:\b|_)"
# In bits a character. Those of a random token are above 4.6, the rest are placeholders.
ENTROPY: Final = 4


def token(prefix: str) -> str:
    """The regular expression of a token."""
    return rf"{prefix}_[0-9a-hjkmnp-tv-z]{{16}}_[0-9A-Za-z]{{55}}"


def expression(prefix: str) -> str:
    """The same within a text, with the token as its first group."""
    return f"{_BEFORE}({token(prefix)}){_AFTER}"


def rules(kind: Format, prefixes: list[str]) -> str:
    """The rules for a tool, as it reads them.

    Args:
        kind: The tool.
        prefixes: Of the tokens that it should find.

    Raises:
        ValueError: A prefix is outside its format.
    """
    ring = SecretRing(SecretRing.generate())
    for prefix in prefixes:
        mint(prefix, ring)  # refuses what is none
    return {"gitleaks": _gitleaks, "github": _github, "trufflehog": _trufflehog}[kind](prefixes)


def _gitleaks(prefixes: list[str]) -> str:
    head = (
        "# Rules for gitleaks 8.25 or later: .gitleaks.toml at the root of a repository.\n"
        'title = "keylatch"\n\n[extend]\nuseDefault = true\n'
    )
    each = (
        f"""
[[rules]]
id = "keylatch-{prefix.replace("_", "-")}"
description = "API key of {prefix}"
regex = '''{expression(prefix)}'''
secretGroup = 1
entropy = {ENTROPY}
keywords = ["{prefix.lower()}_"]
tags = ["keylatch"]
"""
        for prefix in prefixes
    )
    return head + "".join(each)


def _trufflehog(prefixes: list[str]) -> str:
    head = (
        "# Custom detectors for trufflehog 3: trufflehog git file://. --config=FILE\ndetectors:\n"
    )
    each = (
        f"""\
  - name: keylatch {prefix}
    keywords:
      - {json.dumps(prefix.lower() + "_")}
    regex:
      token: '{expression(prefix)}'
    entropy: {ENTROPY}
"""
        for prefix in prefixes
    )
    return head + "".join(each)


def _github(prefixes: list[str]) -> str:
    head = (
        "# Custom patterns for GitHub secret scanning. GitHub reads no file: paste each value\n"
        "# into the field of its name, under Settings, Advanced Security, New pattern.\n"
        "patterns:\n"
    )
    each = (
        f"""\
  - Pattern name: {json.dumps(f"API key of {prefix}")}
    Secret format: '{token(prefix)}'
    Before secret: '{BEFORE}'
    After secret: '{AFTER}'
    Test string: {json.dumps(_sample(prefix))}
"""
        for prefix in prefixes
    )
    return head + "".join(each)


def _sample(prefix: str) -> str:
    """What matches, and is no token: its checksum is wrong."""
    return f"{prefix}_{'0' * 16}_{'0' * 55}"
