"""The commands ``keylatch scan`` and ``keylatch scan-rules``: find tokens that have leaked.

Knows the search, the collection of keys and the output. Shows no token.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from keylatch import cli_output as output
from keylatch import sarif, scan_rules
from keylatch._native import SecretRing
from keylatch.cli_ending import cleaning_up
from keylatch.cli_keys import run, unlimited
from keylatch.cli_options import AsJSON
from keylatch.cli_search import STANDARD_INPUT, Search
from keylatch.cli_tokens import on_terminal
from keylatch.findings import Finding, Verdict, in_order, prove
from keylatch.identifying import Identified
from keylatch.keys import APIKeys

# As diff has it; more than that if something could not be read.
_NOTHING: Final = 0
_FOUND: Final = 1
_UNREAD: Final = 7

_MOST_SAID: Final = 20

app: Final = typer.Typer()


@app.command()
def scan(
    *,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files and directories; - is standard input."),
    ],
    prefix: Annotated[
        list[str] | None,
        # Not from KEYLATCH_PREFIX: that would hide tokens without a word.
        typer.Option(metavar="PREFIX", help="Only tokens that begin with this; may be repeated."),
    ] = None,
    look_alikes: Annotated[
        bool, typer.Option("--look-alikes", help="Also what has a wrong checksum.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not look into git repositories.")
    ] = False,
    database: Annotated[
        str,
        typer.Option(
            envvar="KEYLATCH_DATABASE",
            metavar="URL",
            show_default=False,
            help="Where the keys are, to tell which tokens still open one.",
        ),
    ] = "",
    as_json: AsJSON = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="Write SARIF 2.1.0 instead.")] = False,
) -> int:
    """Find tokens in files and in git history.

    Every file is looked at, and its name: hidden, ignored and binary ones, too, as UTF-8 and as
    UTF-16, and with %5F for _ as in URLs. Archives are not unpacked, and symbolic links not
    followed. The history is every object of a repository, whether or not a branch still has it;
    that needs git. Objects that it borrows from another repository are looked at if that is named,
    too. Tokens are shown masked.

    If KEYLATCH_SECRET is set, this tells which tokens it sealed; with a database, whose key each
    one is and whether it still opens. No use is counted. Exits with 1 if there are any, and
    with 7 if something could not be read, which standard error names.
    """
    if as_json and as_sarif:
        raise ValueError("give --json or --sarif, not both")
    if paths.count(STANDARD_INPUT) and on_terminal():
        raise ValueError("standard input is a terminal: pipe into - what is to be looked at")
    ring = SecretRing.from_env() if os.environ.get("KEYLATCH_SECRET") else None
    keys = None if not database else unlimited(database, ring)
    if keys is not None:
        run(keys, _nothing)  # before anything is read: it may be wrong, or away
    search = Search(prefix or [], look_alikes=look_alikes)
    with cleaning_up():
        search.standard_input(paths)
        search.files([path for path in paths if path != STANDARD_INPUT])
        if not no_history:
            search.histories()
    search.found.sort(key=in_order)
    verdicts = _verdicts(search.found, ring, keys)
    results = [(finding, verdicts[finding.fingerprint]) for finding in search.found]
    if as_sarif:
        told = [(finding, verdict, _told(finding, verdict)) for finding, verdict in results]
        output.document(sarif.log(told, search.unread))
    elif as_json:
        output.document(_document(results, search))
    else:
        _write(results, search)
    if search.unread:
        return _UNREAD
    return _FOUND if results else _NOTHING


@app.command("scan-rules")
def rules(
    *,
    prefix: Annotated[
        list[str],
        typer.Option(metavar="PREFIX", help="What the tokens begin with; may be repeated."),
    ],
    kind: Annotated[
        scan_rules.Format, typer.Option("--format", help="For which tool.")
    ] = "gitleaks",
) -> None:
    """Write rules with which other tools find tokens.

    A configuration file for gitleaks or trufflehog, or the fields of GitHub's custom patterns.
    Their regular expressions know the shape of a token, and not its checksum.
    """
    output.write(scan_rules.rules(kind, prefix))


async def _nothing() -> None:
    """Opening the database is enough."""


def _verdicts(
    found: Iterable[Finding], ring: SecretRing | None, keys: APIKeys | None
) -> dict[str, Verdict]:
    """What is known of each token, once for all the places where it stands."""
    tokens = {finding.fingerprint: finding for finding in found}
    identified: dict[str, Identified] = {}
    if keys is not None:

        async def identify() -> None:
            with output.progress("asking for keys") as reached:
                for fingerprint, finding in tokens.items():
                    if finding.token is not None:
                        identified[fingerprint] = await keys.identify(finding.token)
                        reached(len(identified))

        run(keys, identify)
    return {
        fingerprint: _verdict(finding, ring, identified.get(fingerprint))
        for fingerprint, finding in tokens.items()
    }


def _verdict(finding: Finding, ring: SecretRing | None, known: Identified | None) -> Verdict:
    if finding.token is None:
        return Verdict()
    sealed_by = None if ring is None else finding.token.sealed_by(ring)
    proven = None
    if ring is not None:
        proven = sealed_by is not None if known is None or known.key is None else known.proven
    return Verdict(
        seal_checked=ring is not None,
        sealed_by=sealed_by,
        key_checked=known is not None,
        key=None if known is None else known.key,
        proven=proven,
        proof=prove(ring, finding.key_id, finding.fingerprint) if ring and proven else None,
    )


def _told(finding: Finding, verdict: Verdict) -> str:
    """What is known of a token, for people."""
    if finding.checksum == "wrong":
        return "no token, its checksum is wrong"
    texts = []
    if verdict.key_checked:
        key = verdict.key
        texts.append("no such key" if key is None else f"key {key.status(datetime.now(UTC))}")
        if key is not None and verdict.proven is False:
            texts.append("but another token's")
        elif key is not None and key.owner is not None:
            texts.append(f"of {output.printable(key.owner)}")
    if verdict.sealed_by is not None:
        texts.append(f"sealed by {verdict.sealed_by}")
    elif verdict.seal_checked:
        texts.append("not sealed by KEYLATCH_SECRET")
    return ", ".join(texts) or "a token"


def _document(results: Iterable[tuple[Finding, Verdict]], search: Search) -> dict[str, Any]:
    now = datetime.now(UTC)
    rows = [
        {
            "path": finding.path,
            "line": finding.line,
            "column": finding.column,
            "offset": finding.offset,
            "encoding": finding.encoding,
            "repository": finding.repository,
            "commit": finding.commit,
            "object": finding.object,
            "masked": finding.masked,
            "prefix": finding.prefix,
            "key_id": finding.key_id,
            "fingerprint": finding.fingerprint,
            "checksum": finding.checksum,
            "seal_checked": verdict.seal_checked,
            "sealed_by": verdict.sealed_by,
            "key_checked": verdict.key_checked,
            "key": None if verdict.key is None else output.key_document(verdict.key, now),
            "proven": verdict.proven,
            "proof": verdict.proof,
        }
        for finding, verdict in results
    ]
    return {
        "findings": rows,
        "unread": [{"path": path, "reason": reason} for path, reason in search.unread],
        "files": search.files_read,
        "objects": search.objects_read,
        "bytes": search.bytes_read,
    }


def _write(results: Sequence[tuple[Finding, Verdict]], search: Search) -> None:
    lines = [
        (finding.masked, finding.place, _told(finding, verdict)) for finding, verdict in results
    ]
    if lines:
        output.listed(("token", "where", "what"), {"token"}, lines)
    for path, reason in search.unread[:_MOST_SAID]:
        output.say(f"not read: {path}: {reason}")
    if len(search.unread) > _MOST_SAID:
        output.say(f"not read: {len(search.unread) - _MOST_SAID} more, which --json names")
    tokens = len({finding.fingerprint for finding, _ in results})
    output.say(
        f"files: {search.files_read:,}, objects of repositories: {search.objects_read:,}, "
        f"MB: {search.bytes_read / 1e6:,.0f}; tokens: {tokens:,}, places: {len(results):,}"
    )
