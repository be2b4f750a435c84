"""Writes findings as SARIF 2.1.0, for GitHub code scanning and others. Knows findings alone."""

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from keylatch.findings import Finding, Verdict

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_RULE: Final = "keylatch/token"
_LOOK_ALIKE: Final = "keylatch/look-alike"


def log(
    found: Iterable[tuple[Finding, Verdict, str]], unread: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Makes the log of one search.

    Args:
        found: What was found, what is known of it, and the same for people.
        unread: What could not be read, and why.
    """
    notifications = [
        {"level": "error", "message": {"text": f"not read: {path}: {reason}"}}
        for path, reason in unread
    ]
    run = {
        "tool": {
            "driver": {
                "name": "keylatch",
                "version": version("keylatch"),
                "rules": [
                    _rule(_RULE, "A token stands where it can be read", "error"),
                    _rule(_LOOK_ALIKE, "This looks like a token", "note"),
                ],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not notifications,
                "toolExecutionNotifications": notifications,
            }
        ],
        "results": [_result(*each) for each in found],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(name: str, text: str, level: str) -> dict[str, Any]:
    return {
        "id": name,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": level},
    }


def _result(finding: Finding, verdict: Verdict, told: str) -> dict[str, Any]:
    genuine = finding.checksum == "right"
    location: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding)}}
    if finding.line is not None:
        location["region"] = {
            "startLine": finding.line,
            "startColumn": finding.column,
            "byteOffset": finding.offset,
        }
    properties = {
        "keyId": finding.key_id,
        "prefix": finding.prefix,
        "encoding": finding.encoding,
        "repository": finding.repository,
        "commit": finding.commit,
        "object": finding.object,
        "sealedBy": verdict.sealed_by,
        "proven": verdict.proven,
    }
    commit = "" if finding.commit is None else f" in commit {finding.commit[:12]}"
    return {
        "ruleId": _RULE if genuine else _LOOK_ALIKE,
        "ruleIndex": 0 if genuine else 1,
        "level": "error" if genuine else "note",
        "message": {"text": f"{finding.masked}{commit}: {told}"},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"keylatchToken/v1": finding.fingerprint},
        "properties": without_nothing(properties),
    }


def without_nothing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are there."""
    return {name: value for name, value in values.items() if value is not None}


def _uri(finding: Finding) -> str:
    """Where it is, relative to where the search was started, unless that was told otherwise."""
    path = finding.path or finding.repository or "-"
    if finding.repository is not None and finding.path is not None:
        path = os.path.join(_work_tree(finding.repository), finding.path)  # noqa: PTH118 - no Path
    quoted = quote(os.fsencode(os.path.normpath(path)), safe="/")
    return f"file://{quoted}" if PurePath(path).is_absolute() else quoted


def _work_tree(repository: str) -> str:
    path = PurePath(repository)
    return str(path.parent if path.name == ".git" else path)
