"""Makes a FastAPI dependency of what finds the owner of a key. Knows FastAPI and what a key is."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, TypeVar, cast

from fastapi.concurrency import run_in_threadpool

from keylatch.records import APIKey

T = TypeVar("T")

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def dependency(
    load: Callable[Concatenate[str, ...], T | Awaitable[T | None] | None],
    key: Any,
    *,
    refuse: Callable[[], Exception],
) -> Callable[..., Awaitable[T]]:
    """A dependency that has a key verified, and then finds its owner.

    Args:
        load: Finds one by ``key.owner``; its further parameters are dependencies.
        key: The annotation of a parameter that has the key.
        refuse: Makes what is raised where there is no owner.

    Raises:
        TypeError: ``load`` takes no owner.
    """
    parameters = list(inspect.signature(load, eval_str=True).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise TypeError("what loads an owner takes key.owner as its first argument")
    awaited = inspect.iscoroutinefunction(load) or inspect.iscoroutinefunction(
        getattr(load, "__call__", None)  # noqa: B004 - an object that is called
    )
    call: Callable[..., Any] = load
    if not awaited:
        call = functools.partial(cast("Callable[..., Any]", run_in_threadpool), load)

    async def owner(*, keylatch_key: APIKey, **others: Any) -> T:
        found: T | None = None
        if keylatch_key.owner is not None:
            found = await call(keylatch_key.owner, **others)
        if found is None:
            raise refuse()
        return found

    own = inspect.Parameter("keylatch_key", inspect.Parameter.KEYWORD_ONLY, annotation=key)
    others = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:]]
    # What FastAPI reads the dependencies from.
    owner.__signature__ = inspect.Signature([own, *others])  # type: ignore[attr-defined]
    return owner
