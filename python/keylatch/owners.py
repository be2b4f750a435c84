"""Makes a FastAPI dependency of what finds the owner of a key. Knows FastAPI and what a key is."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncContextDecorator, ContextDecorator
from typing import Any, Final

from fastapi.requests import HTTPConnection

from keylatch.callables import yields
from keylatch.calling import entered, give
from keylatch.records import APIKey

# What nobody is who owns keys, but what a function may return that does not say that it yields.
_GENERATORS: Final = (AsyncGenerator, Generator, AsyncContextDecorator, ContextDecorator)
_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def dependency(
    load: Callable[..., Any], key: Any, *, refuse: Callable[[HTTPConnection], Exception]
) -> Callable[..., Awaitable[Any] | AsyncIterator[Any]]:
    """A dependency that has a key verified, and then finds its owner.

    Args:
        load: Finds one by ``key.owner``, and returns or yields it; its further parameters are
            dependencies.
        key: The annotation of a parameter that has the key.
        refuse: Makes what is raised where there is no owner, for a request.

    Raises:
        TypeError: ``load`` takes no owner.
    """
    parameters = list(inspect.signature(load, eval_str=True).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise TypeError("what loads an owner takes key.owner as its first argument")
    owner = (_yielded if yields(load) else _returned)(load, refuse)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in (("keylatch_key", key), ("keylatch_connection", HTTPConnection))
    ]
    others = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:]]
    # What FastAPI reads the dependencies from.
    owner.__signature__ = inspect.Signature([*own, *others])  # type: ignore[attr-defined]
    return owner


def _returned(
    load: Callable[..., Any], refuse: Callable[[HTTPConnection], Exception]
) -> Callable[..., Awaitable[Any]]:
    async def owner(
        *, keylatch_key: APIKey, keylatch_connection: HTTPConnection, **others: Any
    ) -> Any:
        found = None
        if keylatch_key.owner is not None:
            found = await give(load, keylatch_key.owner, **others)
        if isinstance(found, _GENERATORS):
            raise TypeError("what loads an owner has returned a generator: load by one that yields")
        if found is None:
            raise refuse(keylatch_connection)
        return found

    return owner


def _yielded(
    load: Callable[..., Any], refuse: Callable[[HTTPConnection], Exception]
) -> Callable[..., AsyncIterator[Any]]:
    async def owner(
        *, keylatch_key: APIKey, keylatch_connection: HTTPConnection, **others: Any
    ) -> AsyncIterator[Any]:
        found = None
        if keylatch_key.owner is not None:
            async with entered(load, keylatch_key.owner, **others) as found:
                if found is None:
                    raise refuse(keylatch_connection)
                yield found
        if found is None:  # also where the refusal was kept from getting out
            raise refuse(keylatch_connection)

    return owner
