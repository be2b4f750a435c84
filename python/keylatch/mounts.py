"""Finds the FastAPI applications within an application. Knows their routes, and calls none."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router

try:
    from fastapi.routing import iter_route_contexts
except ImportError:  # older ones keep every route in one list
    iter_route_contexts = iter  # type: ignore[assignment]


def routes_of(app: Starlette | Router) -> Iterator[Any]:
    """All routes of an application, those of the routers that it includes among them."""
    return iter(iter_route_contexts(app.routes))


def layers(app: Any) -> Iterator[Any]:
    """An application, and what it wraps by the name of ``app``, as middleware has it, one by one.

    A hundred at the most: there are those that wrap themselves, or another one each time.
    """
    for _ in range(100):
        yield app
        if is_known(app) or not hasattr(app, "app"):
            return
        app = app.app


def is_known(app: Any) -> bool:
    """Whether it serves what its routes say. Others may have something of that name as well."""
    return isinstance(app, Starlette | Router | BaseRoute)


def applications(app: Any) -> Iterator[FastAPI]:
    """The application itself, and all that are mounted in it, also behind middleware."""
    yield from _within(app, set())


def _within(app: Any, seen: set[int]) -> Iterator[FastAPI]:
    *_, app = layers(app)
    if id(app) in seen:
        return
    seen.add(id(app))
    if isinstance(app, Mount | Host):
        yield from _within(app.app, seen)
    if not isinstance(app, Starlette | Router):
        return
    if isinstance(app, FastAPI):
        yield app
    for route in routes_of(app):
        if isinstance(getattr(route, "original_route", route), Mount | Host):
            yield from _within(route.app, seen)
