"""Calls dependencies as FastAPI does: blocking ones in a thread, generators around the request.

Knows FastAPI; nothing of keys.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from keylatch.callables import is_async, yields_async


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
