"""Calls dependencies as FastAPI does: blocking ones in a thread, generators around the request.

Also finds what stands in their places in tests, which FastAPI does only for those that it calls.

Knows FastAPI; nothing of keys.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.dependencies.utils import get_typed_signature
from starlette.requests import HTTPConnection

from keylatch.callables import is_async, yields, yields_async
from keylatch.errors import ConfigurationError


async def give(call: Callable[..., Any], /, *values: Any, **named: Any) -> Any:
    """What a callable that does not yield gives."""
    try:
        if is_async(call):
            return await call(*values, **named)
        found = await run_in_threadpool(call, *values, **named)
        # Of a function that does not say that it is awaited.
        return await found if inspect.isawaitable(found) else found
    finally:
        del values, named  # a traceback with locals must not show what credentials stand there


def entered(
    call: Callable[..., Any], /, *values: Any, **named: Any
) -> AbstractAsyncContextManager[Any]:
    """What a callable that yields gives; it goes on at the end of ``async with``."""
    try:
        if yields_async(call):
            return asynccontextmanager(call)(*values, **named)
        return contextmanager_in_threadpool(contextmanager(call)(*values, **named))
    finally:
        del values, named


def overriding(connection: HTTPConnection, dependency: Any) -> Any:
    """What ``app.dependency_overrides`` has in the place of a dependency, or the dependency."""
    overrides = getattr(connection.scope.get("app"), "dependency_overrides", None)
    return overrides.get(dependency, dependency) if overrides else dependency


def without_parameters(call: Callable[..., Any], *, otherwise: str) -> Callable[[], Any]:
    """The same callable, as one that ``give`` can call with nothing.

    Args:
        call: What stands in the place of a dependency.
        otherwise: What to say where that is not so.

    Raises:
        ConfigurationError: It has parameters, which would be dependencies, or yields.
    """
    if get_typed_signature(call).parameters or yields(call):
        raise ConfigurationError(otherwise)
    return call
