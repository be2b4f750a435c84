"""Makes a FastAPI dependency of what finds the owner of a key. Knows FastAPI and what a key is."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Security
from fastapi.requests import HTTPConnection

from keylatch.callables import yields
from keylatch.calling import entered, give, overriding
from keylatch.records import APIKey

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def dependency(
    load: Callable[..., Any],
    auth: Callable[..., Any],
    *,
    refuse: Callable[[HTTPConnection], Exception],
) -> Callable[..., Awaitable[Any] | AsyncIterator[Any]]:
    """A dependency that has a key verified, and then finds its owner.

    Args:
        load: Finds one by ``key.owner``, and returns or yields it; its further parameters are
            dependencies.
        auth: The dependency that has the key verified.
        refuse: Makes what is raised where there is no owner, for a request.

    Raises:
        TypeError: ``load`` takes no owner.
    """
    parameters = list(inspect.signature(load, eval_str=True).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise TypeError("what loads an owner takes key.owner as its first argument")

    def is_excused(key: APIKey | None, connection: HTTPConnection) -> bool:
        """Whether a test has it that nobody has to have a key."""
        return key is None and overriding(connection, auth) is not auth

    owner = (_yielded if yields(load) else _returned)(load, refuse, is_excused)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in (
            ("keylatch_key", Annotated[APIKey, Security(auth)]),
            ("keylatch_connection", HTTPConnection),
        )
    ]
    others = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:]]
    # What FastAPI reads the dependencies from.
    owner.__signature__ = inspect.Signature([*own, *others])  # type: ignore[union-attr]
    return owner


def _returned(
    load: Callable[..., Any],
    refuse: Callable[[HTTPConnection], Exception],
    is_excused: Callable[[APIKey | None, HTTPConnection], bool],
) -> Callable[..., Awaitable[Any]]:
    async def owner(
        *, keylatch_key: APIKey, keylatch_connection: HTTPConnection, **others: Any
    ) -> Any:
        if is_excused(keylatch_key, keylatch_connection):
            return None
        found = None
        if keylatch_key.owner is not None:
            try:
                found = await give(load, keylatch_key.owner, **others)
            finally:
                del others  # a traceback with locals must not show what credentials stand there
        if found is None:
            raise refuse(keylatch_connection)
        return found

    return owner


def _yielded(
    load: Callable[..., Any],
    refuse: Callable[[HTTPConnection], Exception],
    is_excused: Callable[[APIKey | None, HTTPConnection], bool],
) -> Callable[..., AsyncIterator[Any]]:
    async def owner(
        *, keylatch_key: APIKey, keylatch_connection: HTTPConnection, **others: Any
    ) -> AsyncIterator[Any]:
        if is_excused(keylatch_key, keylatch_connection):
            yield None
            return
        found = None
        if keylatch_key.owner is not None:
            loaded = entered(load, keylatch_key.owner, **others)
            others.clear()  # a traceback with locals must not show what credentials stand there
            async with loaded as found:
                if found is None:
                    raise refuse(keylatch_connection)
                yield found
        if found is None:  # also where the refusal was kept from getting out
            raise refuse(keylatch_connection)

    return owner
