"""What a callable is: a function, or an object that is called. Knows nothing of keys."""

import inspect
from collections.abc import Callable
from typing import Any


def is_async(call: Any) -> bool:
    """Whether what it returns is to be awaited."""
    return _is(inspect.iscoroutinefunction, call)


def yields(call: Any) -> bool:
    """Whether it is a generator, for ``for`` or for ``async for``."""
    return _is(inspect.isgeneratorfunction, call) or yields_async(call)


def yields_async(call: Any) -> bool:
    """Whether it is a generator for ``async for``."""
    return _is(inspect.isasyncgenfunction, call)


def _is(kind: Callable[[Any], bool], call: Any) -> bool:
    # What is called of a class is not the ``__call__`` of its objects.
    return kind(call) or (not inspect.isclass(call) and kind(getattr(call, "__call__", None)))  # noqa: B004
