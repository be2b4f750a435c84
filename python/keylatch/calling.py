"""Calls dependencies as FastAPI does: blocking ones in a thread, generators around the request.

Also finds what stands in their places in tests, which FastAPI does only for those that it calls.

Knows FastAPI; nothing of keys.
"""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncContextDecorator,
    ContextDecorator,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final

from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.dependencies.utils import get_typed_signature
from starlette.requests import HTTPConnection

from keylatch.callables import is_async, yields, yields_async
from keylatch.errors import ConfigurationError

# What a function may return that does not say that it yields. It says nothing about a request.
_UNFINISHED: Final = (AsyncGenerator, Generator, AsyncContextDecorator, ContextDecorator)


async def give(call: Callable[..., Any], /, *values: Any, **named: Any) -> Any:
    """What a callable that does not yield gives.

    Raises:
        TypeError: It has given a generator.
    """
    try:
        if is_async(call):
            return await _finished(await call(*values, **named))
        return await _finished(await run_in_threadpool(call, *values, **named))
    finally:
        del values, named  # a traceback with locals must not show what credentials stand there


@asynccontextmanager
async def entered(call: Callable[..., Any], /, *values: Any, **named: Any) -> AsyncIterator[Any]:
    """What a callable that yields gives; it goes on at the end of ``async with``.

    Raises:
        TypeError: It has given a generator.
    """
    try:
        within: AbstractAsyncContextManager[Any]
        if yields_async(call):
            within = asynccontextmanager(call)(*values, **named)
        else:
            within = contextmanager_in_threadpool(contextmanager(call)(*values, **named))
    finally:
        del values, named
    async with within as found:
        yield await _finished(found)


async def _finished(found: Any) -> Any:
    """What was given in the end: somebody may have forgotten to await it, and it may be None."""
    while inspect.isawaitable(found):
        found = await found
    if isinstance(found, _UNFINISHED):
        raise TypeError(
            f"a dependency has given a {type(found).__name__}, which tells nothing: let it yield, "
            "or return what it finds"
        )
    return found


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
