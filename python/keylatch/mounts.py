"""Finds the FastAPI applications within an application. Knows their routes, and calls none."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Host, Mount, Router

try:
    from fastapi.routing import iter_route_contexts
except ImportError:  # older ones keep every route in one list
    iter_route_contexts = iter  # type: ignore[assignment]


def routes_of(app: Starlette | Router) -> Iterator[Any]:
    """All routes of an application, those of the routers that it includes among them."""
    return iter(iter_route_contexts(app.routes))


def applications(app: Any) -> Iterator[FastAPI]:
    """The application itself, and all that are mounted in it, also behind middleware."""
    yield from _within(app, set())


def _within(app: Any, seen: set[int]) -> Iterator[FastAPI]:
    while id(app) not in seen and not isinstance(app, Starlette | Router) and hasattr(app, "app"):
        seen.add(id(app))
        app = app.app
    if id(app) in seen or not isinstance(app, Starlette | Router):
        return
    seen.add(id(app))
    if isinstance(app, FastAPI):
        yield app
    for route in routes_of(app):
        if isinstance(getattr(route, "original_route", route), Mount | Host):
            yield from _within(route.app, seen)
