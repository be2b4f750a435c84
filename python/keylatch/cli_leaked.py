"""The command ``keylatch leaked``: from a token that was found to its key, and to the key's end.

Knows the collection of keys and the output. A key ends only for its own token: key ids are public,
and whoever could have a key revoked by writing its id into a made-up token would.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keylatch import cli_output as output
from keylatch._native import SecretRing
from keylatch.cli_asking import confirm, require_somebody
from keylatch.cli_database import require_file
from keylatch.cli_keys import run, sealing
from keylatch.cli_options import Actor, AsJSON, Database, Yes, duration
from keylatch.cli_tokens import Inspection, on_terminal, read_tokens
from keylatch.errors import InvalidTokenError, KeyStateError, UnknownKeyError
from keylatch.findings import claims, is_proof
from keylatch.keys import APIKeys
from keylatch.records import APIKey, NewKey

_REFUSED: Final = 1
_STANDARD_INPUT: Final = "-"
_MOST_NAMED: Final = 5
_AT_ONCE: Final = timedelta(0)

app: Final = typer.Typer()


@app.command()
def leaked(
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="What keylatch scan --json has written, instead of tokens; - is standard input.",
        ),
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the keys, for good.")] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Replace the keys, and write the new tokens.")
    ] = False,
    grace: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="With --rotate, how long the leaked tokens still work; not at all, if left out.",
        ),
    ] = None,
    unproven: Annotated[
        bool,
        typer.Option("--unproven", help="Do so also for keys whose ids alone were found."),
    ] = False,
    database: Database = "",
    prefix: Annotated[
        str | None,
        typer.Option(
            envvar="KEYLATCH_PREFIX",
            metavar="PREFIX",
            show_default=False,
            help="What new tokens begin with, needed for --rotate of imported ones.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For the audit trail.")] = "leaked",
    actor: Actor = None,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> int:
    """Tell whose leaked tokens are, and end their keys.

    Tokens come from standard input, one a line, or one from a hidden prompt if that is a terminal;
    or from what keylatch scan --json has written with KEYLATCH_SECRET set, which proves that they
    were right. A token is a key's only if its secret is right: anyone can write a key id into a
    token of their own, and only --unproven ends a key for that.

    With --rotate standard output has a CSV file of the new tokens; a key that was replaced before
    is revoked. Exits with 1 if a token is no key's, or nothing proves that it is.
    """
    if revoke and rotate:
        raise ValueError("give --revoke or --rotate, not both")
    if revoke or rotate:
        require_somebody(yes=yes)
    keys = sealing(database, *([prefix] if prefix else []), imported_tokens=True)
    require_file(database)
    if source is None:
        tokens = read_tokens()
        suspects = run(keys, lambda: _of_tokens(keys, tokens))
        del tokens
    else:
        document = _read(source)
        suspects = run(keys, lambda: _of_results(keys, document))
    wanted = [each for each in suspects if each.can_end(unproven=unproven)]
    work = _Ending(keys=keys, rotates=rotate, grace=grace or _AT_ONCE, reason=reason, actor=actor)
    if (revoke or rotate) and wanted:
        if rotate and not prefix and not all(each.key and each.key.prefix for each in wanted):
            raise ValueError("a token was imported, so that the new one needs --prefix PREFIX")
        if not yes:
            confirm(_question(wanted, rotate=rotate))
        try:
            run(keys, lambda: work.end(wanted))
        finally:
            _write(suspects, work, as_json=as_json)
    else:
        _write(suspects, work, as_json=as_json)
    left = [each for each in suspects if each.key is None or not (each.proven or unproven)]
    return _REFUSED if left else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suspect:
    """What is known of a token."""

    masked: str | None
    key_id: str | None
    key: APIKey | None
    proven: bool
    sealed_by: str | None = None

    def can_end(self, *, unproven: bool) -> bool:
        key = self.key
        return key is not None and key.revoked_at is None and (self.proven or unproven)


@dataclass(kw_only=True)
class _Ending:
    """Ends keys one after the other, and keeps what has become of each."""

    keys: APIKeys
    rotates: bool
    grace: timedelta
    reason: str
    actor: str | None
    ended: dict[str, APIKey] = field(default_factory=dict)
    made: dict[str, NewKey] = field(default_factory=dict)

    async def end(self, suspects: Iterable[_Suspect]) -> None:
        for suspect in suspects:
            key = suspect.key
            if key is None:
                continue
            if not await self._rotated(key):
                self.ended[key.id] = await self.keys.revoke(
                    key.id, reason=self.reason, actor=self.actor
                )

    async def _rotated(self, key: APIKey) -> bool:
        """Rotates a key, if that is wanted, and it can be."""
        if not self.rotates or key.status(datetime.now(UTC)) != "active" or key.successor:
            return False
        try:
            self.made[key.id] = await self.keys.rotate(
                key.id, grace=self.grace, reason=self.reason, actor=self.actor
            )
        except KeyStateError:
            return False  # somebody else has replaced or ended it meanwhile
        self.ended[key.id] = await self.keys.get(key.id)
        return True

    def action(self, key_id: str | None) -> str | None:
        if key_id in self.made:
            return "rotated"
        return "revoked" if key_id in self.ended else None


async def _of_tokens(keys: APIKeys, tokens: Iterable[str]) -> list[_Suspect]:
    return _once([await _of_token(keys, token) for token in tokens])


async def _of_token(keys: APIKeys, token: str) -> _Suspect:
    seen = Inspection.of(token, None)
    try:
        found = await keys.identify(token)
    except InvalidTokenError:
        key = None if seen.key_id is None else await _get(keys, seen.key_id)
        return _Suspect(masked=seen.masked, key_id=seen.key_id, key=key, proven=False)
    finally:
        del token
    return _Suspect(
        masked=seen.masked,
        key_id=found.key_id if seen.masked or found.key else None,
        key=found.key,
        proven=found.proven,
        sealed_by=found.sealed_by,
    )


async def _of_results(keys: APIKeys, document: object) -> list[_Suspect]:
    ring = SecretRing.from_env()
    found = []
    for claim in claims(document):
        proof = claim.proof or ""
        found.append(
            _Suspect(
                masked=f"{claim.prefix}_{claim.key_id}_***",
                key_id=claim.key_id,
                key=await _get(keys, claim.key_id),
                proven=is_proof(ring, proof, claim.key_id, claim.fingerprint),
            )
        )
    return _once(found)


async def _get(keys: APIKeys, key_id: str) -> APIKey | None:
    try:
        return await keys.get(key_id)
    except UnknownKeyError:
        return None


def _once(found: Sequence[_Suspect]) -> list[_Suspect]:
    """Each key once; proven, if one of its tokens proves it."""
    once: dict[str, _Suspect] = {}
    others = [each for each in found if each.key_id is None]
    for each in found:
        if each.key_id is not None:
            known = once.setdefault(each.key_id, each)
            if each.proven and not known.proven:
                once[each.key_id] = each
    return [*once.values(), *others]


def _read(source: str) -> object:
    if source == _STANDARD_INPUT and on_terminal():
        raise ValueError("standard input is a terminal: pipe into --from - what scan has written")
    try:
        if source == _STANDARD_INPUT:
            return json.loads(sys.stdin.buffer.read() if sys.stdin is not None else b"")
        return json.loads(Path(source).read_bytes())
    except OSError as error:
        raise ValueError(f"the file of --from cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        return None  # which `claims` refuses


def _question(wanted: Sequence[_Suspect], *, rotate: bool) -> str:
    named = [f"{each.key.id} ({output.printable(each.key.name)})" for each in wanted if each.key]
    more = len(named) - _MOST_NAMED
    text = ", ".join(named[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    keys = "1 key" if len(named) == 1 else f"{len(named)} keys"
    return f"{'Rotate' if rotate else 'Revoke'} {keys}, for good: {text}?"


def _write(suspects: Sequence[_Suspect], work: _Ending, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    told = [replace(each, key=work.ended.get(each.key_id or "", each.key)) for each in suspects]
    try:
        if as_json:
            output.document({"items": [_document(each, work, now) for each in told]})
            return
        if work.made:
            output.write(_csv(work.made))
    except output.OutputError:
        if not work.made:
            raise
        lost = ", ".join(new.key.id for new in work.made.values())
        raise output.OutputError(
            f"the new tokens could not be written and are lost: revoke {lost} and make others"
        ) from None
    for each in told:
        write = output.note_rows if work.rotates else output.rows
        write([*_rows(each, work), *([] if each.key is None else output.key_rows(each.key, now))])
        if each.key is None:
            output.say("there is no such key")
        elif not each.proven:
            output.say(
                f"nothing proves that this is the token of {each.key_id}: anyone can write a key "
                "id into a token (--unproven takes it for proven)"
            )


def _rows(each: _Suspect, work: _Ending) -> list[tuple[str, str]]:
    action = work.action(each.key_id)
    return [
        ("token", each.masked or "of another format, or none"),
        ("proven", "yes" if each.proven else "no"),
        *([] if action is None else [("done", action)]),
    ]


def _document(each: _Suspect, work: _Ending, now: datetime) -> dict[str, Any]:
    new = work.made.get(each.key_id or "")
    return {
        "masked": each.masked,
        "key_id": each.key_id,
        "proven": each.proven,
        "sealed_by": each.sealed_by,
        "key": None if each.key is None else output.key_document(each.key, now),
        "action": work.action(each.key_id),
        "token": None if new is None else new.token,
    }


def _csv(made: dict[str, NewKey]) -> str:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "name", "owner", "token", "replaces"))
    for old, new in made.items():
        rows.writerow((new.key.id, new.key.name, new.key.owner, new.token, old))
    return text.getvalue()
