"""What a callable is: a function, or an object that is called. Knows nothing of keys."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any


def is_async(call: Any) -> bool:
    """Whether it is a coroutine function itself. What is decorated may have been awaited within."""
    return any(map(inspect.iscoroutinefunction, _called(call)))


def yields(call: Any) -> bool:
    """Whether it is a generator, for ``for`` or for ``async for``, decorated or not."""
    return _is_within(inspect.isgeneratorfunction, call) or yields_async(call)


def yields_async(call: Any) -> bool:
    """Whether it is a generator for ``async for``, decorated or not."""
    return _is_within(inspect.isasyncgenfunction, call)


def _is_within(kind: Callable[[Any], bool], call: Any) -> bool:
    """Whether something is of a kind, by itself or within decorators, as FastAPI has it."""
    called = (*_called(call), *_called(inspect.unwrap(_impartial(call))))
    return any(kind(each) or kind(inspect.unwrap(each)) for each in called)


def _called(call: Any) -> Iterator[Any]:
    """The function or object, and the ``__call__`` of an object."""
    call = _impartial(call)
    yield call
    if not inspect.isclass(call):  # whose ``__call__`` is that of its objects
        yield _impartial(getattr(call, "__call__", None))  # noqa: B004


def _impartial(call: Any) -> Any:
    while isinstance(call, functools.partial):
        call = call.func
    return call
