"""Makes a FastAPI dependency of what finds the owner of a key. Knows FastAPI and what a key is."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from fastapi.concurrency import run_in_threadpool
from fastapi.requests import HTTPConnection

from keylatch.callables import is_async
from keylatch.records import APIKey

_in_a_thread: Final = cast("Callable[..., Any]", run_in_threadpool)
_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def dependency(
    load: Callable[..., Any], key: Any, *, refuse: Callable[[HTTPConnection], Exception]
) -> Callable[..., Awaitable[Any]]:
    """A dependency that has a key verified, and then finds its owner.

    Args:
        load: Finds one by ``key.owner``; its further parameters are dependencies.
        key: The annotation of a parameter that has the key.
        refuse: Makes what is raised where there is no owner, for a request.

    Raises:
        TypeError: ``load`` takes no owner.
    """
    parameters = list(inspect.signature(load, eval_str=True).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise TypeError("what loads an owner takes key.owner as its first argument")
    call = load if is_async(load) else functools.partial(_in_a_thread, load)

    async def owner(
        *, keylatch_key: APIKey, keylatch_connection: HTTPConnection, **others: Any
    ) -> Any:
        found = None
        if keylatch_key.owner is not None:
            found = await call(keylatch_key.owner, **others)
        if inspect.isawaitable(found):  # of a function that does not say that it is awaited
            found = await found
        if found is None:
            raise refuse(keylatch_connection)
        return found

    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in (("keylatch_key", key), ("keylatch_connection", HTTPConnection))
    ]
    others = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:]]
    # What FastAPI reads the dependencies from.
    owner.__signature__ = inspect.Signature([*own, *others])  # type: ignore[attr-defined]
    return owner
