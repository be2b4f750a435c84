"""What FastAPI leaves out of the OpenAPI document of an application with protected routes.

Knows documents; no framework, and no collection of keys.
"""

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from keylatch.challenges import JSON

# Behind the name of a scheme, where a request may as well come without a key.
OPTIONAL: Final = "-optional"
_SCHEMA: Final = "APIKeyRefusal"
_DETAIL: Final = {"detail": {"title": "Detail", "type": "string"}}
# RFC 9457, section 3.1, and what programs go by.
_PROBLEM: Final = {
    "type": {"title": "Type", "type": "string", "format": "uri-reference"},
    "title": {"title": "Title", "type": "string"},
    "status": {"title": "Status", "type": "integer"},
    **_DETAIL,
    "code": {"title": "Code", "type": "string"},
}
_CHALLENGE: Final = ("WWW-Authenticate", "string", "What to send (RFC 9110, section 11.6.1).")
_LATER: Final = ("Retry-After", "integer", "Seconds until another attempt makes sense.")
_ANSWERS: Final = {
    "400": ("More than one API key", _CHALLENGE),
    "401": ("No API key, or none that opens anything", _CHALLENGE),
    "403": ("The API key lacks a scope", _CHALLENGE),
    "429": ("Too many requests with this API key", _LATER),
    "503": ("API keys cannot be checked right now", _LATER),
}
_UNLIMITED: Final = {status: answer for status, answer in _ANSWERS.items() if status != "429"}


def complete(
    document: dict[str, Any],
    *,
    scheme_name: str,
    others: Mapping[str, Mapping[str, Any]],
    limited: Container[tuple[str, str]] = (),
    media_type: str = JSON,
) -> None:
    """Adds the schemes of further headers, and the answers to requests that may not pass.

    What the application says of an answer itself stays.

    Args:
        document: The document as FastAPI writes it.
        scheme_name: Of the scheme that FastAPI knows.
        others: Further schemes of the same routes, any of which will do, by name.
        limited: The operations that limit keys: their paths, and their methods in lower case.
        media_type: What the bodies of refusals are.
    """
    schemes = document.get("components", {}).get("securitySchemes", {})
    optional = scheme_name + OPTIONAL
    if scheme_name not in schemes and optional not in schemes:
        return
    schemes.setdefault(scheme_name, schemes.pop(optional, None))
    schemes |= others
    fields = _DETAIL if media_type == JSON else _PROBLEM
    refusal = {
        "title": _SCHEMA,
        "type": "object",
        "properties": fields,
        "required": list(fields),
    }
    for name, operation in _operations(document):
        answers = _ANSWERS if name in limited else _UNLIMITED
        if _protect(operation, scheme_name, list(others), answers, media_type):
            document["components"].setdefault("schemas", {}).setdefault(_SCHEMA, refusal)


def _protect(
    operation: dict[str, Any],
    scheme_name: str,
    others: list[str],
    possible: Mapping[str, tuple[str, tuple[str, str, str]]],
    media_type: str,
) -> bool:
    """Whether the operation asks for a key. Then it says so, in every way that there is."""
    either: list[dict[str, list[str]]] = operation.get("security", [])
    required = [need[scheme_name] for need in either if scheme_name in need]
    optional = [need[scheme_name + OPTIONAL] for need in either if scheme_name + OPTIONAL in need]
    if not required and not optional:
        return False
    rest = [need for need in either if not need.keys() & {scheme_name, scheme_name + OPTIONAL}]
    ours = [{name: scopes} for name in (scheme_name, *others) for scopes in required or optional]
    either[:] = [need for index, need in enumerate(ours) if need not in ours[:index]]
    either += [need for need in rest if need not in either]
    if not required:
        either.append({})
    answers = operation.setdefault("responses", {})
    for status, (description, header) in possible.items():
        if status != "403" or any(required + optional):
            answers.setdefault(status, _answer(description, media_type, *header))
    return True


def _answer(
    description: str, media_type: str, header: str, kind: str, meaning: str
) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {header: {"description": meaning, "schema": {"type": kind}}},
        "content": {
            media_type: {"schema": {"$ref": f"#/components/schemas/{_SCHEMA}"}},
        },
    }


def _operations(
    document: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            if isinstance(operation, dict):
                yield (path, method), operation
