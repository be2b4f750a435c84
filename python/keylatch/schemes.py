"""How what may carry a token is shown in an OpenAPI document: a scheme for each of them.

Knows FastAPI's models of schemes and its routes; no collection of keys.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import APIKey as APIKeyScheme
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.openapi.models import SecurityBase as Scheme

from keylatch.mounts import routes_of
from keylatch.openapi import OPTIONAL

# What the name of a component of an OpenAPI document may not hold (OpenAPI 3.1, section 4.8.7).
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")
_PLACES: Final = {"header": "", "cookie": "the cookie ", "query": "the query parameter "}


def of_sources(
    *, bearer: bool, headers: Sequence[str], cookie: str | None, query: str | None
) -> list[Scheme]:
    """A scheme for each source, of which there is one at least; that of ``Bearer`` first."""
    places = [("header", name) for name in headers]
    places += [] if cookie is None else [("cookie", cookie)]
    places += [] if query is None else [("query", query)]
    schemes: list[Scheme] = [
        APIKeyScheme.model_validate({"in": place, "name": name}) for place, name in places
    ]
    if bearer:
        said = [f"{_PLACES[place]}`{name}`" for place, name in places]
        also = f", or as the value of {' or '.join(said)}" if said else ""
        description = f"An API key, as `Authorization: Bearer`{also}."
        schemes.insert(0, BearerScheme(description=description))
    return schemes


def named(scheme_name: str, schemes: Sequence[Scheme]) -> Mapping[str, dict[str, Any]]:
    """Schemes beside the one of that name, as a document has them, by names of their own."""
    taken = {scheme_name, scheme_name + OPTIONAL}
    found: dict[str, dict[str, Any]] = {}
    for scheme in schemes:
        written = scheme.model_dump(mode="json", by_alias=True, exclude_none=True)
        name = f"{scheme_name}-{_NOT_IN_NAMES.sub('_', written['name'])}"
        while name in taken:  # as a header may be called like a cookie
            name += "_"
        taken.add(name)
        found[name] = written
    return found


def dependencies(app: FastAPI) -> Iterator[Any]:
    """Whatever a route of an application depends on, those that it has mounted left out."""
    for route in routes_of(app):
        dependant: Dependant | None = getattr(route, "dependant", None)
        if dependant is not None:
            yield from _within(dependant)


def operations(app: FastAPI) -> Iterator[tuple[tuple[str, str], Any]]:
    """The same with the path and the method of each route, as the document has them."""
    for route in routes_of(app):
        dependant: Dependant | None = getattr(route, "dependant", None)
        if dependant is not None:
            names = [(route.path_format or "", each.lower()) for each in _methods(route)]
            yield from ((name, call) for call in _within(dependant) for name in names)


def _methods(route: Any) -> Iterable[str]:
    """None of a WebSocket."""
    return getattr(route, "methods", None) or ()


def _within(dependant: Dependant) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from _within(each)
