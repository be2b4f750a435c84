"""What FastAPI leaves out of the OpenAPI document of an application with protected routes.

Knows documents; no framework, and no collection of keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

# Behind the name of a scheme, where a request may as well come without a key.
OPTIONAL: Final = "-optional"
_SCHEMA: Final = "APIKeyRefusal"
_REFUSAL: Final = {
    "title": _SCHEMA,
    "type": "object",
    "properties": {"detail": {"title": "Detail", "type": "string"}},
    "required": ["detail"],
}
_CHALLENGE: Final = ("WWW-Authenticate", "string", "What to send (RFC 9110, section 11.6.1).")
_LATER: Final = ("Retry-After", "integer", "Seconds until another attempt makes sense.")
_ANSWERS: Final = {
    "400": ("More than one API key", _CHALLENGE),
    "401": ("No API key, or none that opens anything", _CHALLENGE),
    "403": ("The API key lacks a scope", _CHALLENGE),
    "503": ("API keys cannot be checked right now", _LATER),
}


def complete(
    document: dict[str, Any], *, scheme_name: str, others: Mapping[str, Mapping[str, Any]]
) -> None:
    """Adds the schemes of further headers, and the answers to requests that may not pass.

    What the application says of an answer itself stays.

    Args:
        document: The document as FastAPI writes it.
        scheme_name: Of the scheme that FastAPI knows.
        others: Further schemes of the same routes, any of which will do, by name.
    """
    schemes = document.get("components", {}).get("securitySchemes", {})
    optional = scheme_name + OPTIONAL
    if scheme_name not in schemes and optional not in schemes:
        return
    schemes.setdefault(scheme_name, schemes.pop(optional, None))
    schemes |= others
    for operation in _operations(document):
        if _protect(operation, scheme_name, list(others)):
            document["components"].setdefault("schemas", {}).setdefault(_SCHEMA, _REFUSAL)


def _protect(operation: dict[str, Any], scheme_name: str, others: list[str]) -> bool:
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
    for status, (description, header) in _ANSWERS.items():
        if status != "403" or any(required + optional):
            answers.setdefault(status, _answer(description, *header))
    return True


def _answer(description: str, header: str, kind: str, meaning: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {header: {"description": meaning, "schema": {"type": kind}}},
        "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{_SCHEMA}"}},
        },
    }


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        yield from (operation for operation in path.values() if isinstance(operation, dict))
