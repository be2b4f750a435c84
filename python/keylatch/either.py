"""Makes a FastAPI dependency that takes a key or what another scheme gives.

Knows FastAPI's dependencies and what a key is; nothing of how one is verified.
"""

import copy
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Annotated, Any, Final, get_args, get_origin

from fastapi import Depends, Security, params
from fastapi.dependencies.utils import get_typed_signature
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from keylatch.callables import yields
from keylatch.calling import entered, give, overriding, without_parameters
from keylatch.records import APIKey

# Where the scope of a request has whether its key decides, by what asked for it.
_ENTRY: Final = "keylatch.either"
_OVERRIDDEN: Final = (
    "beside a key, a dependency is overridden by a function without parameters that returns: take "
    "another one for what auth.either() has made instead"
)
_KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY


class Undecided:
    """That a request carries no key of ours.

    Args:
        refuse: Raises the refusal of a request whose key is missing or unknown.
    """

    def __init__(self, refuse: Callable[[], Awaitable[APIKey]]) -> None:
        self.refuse = refuse


def decide(scope: MutableMapping[str, Any], mark: object, *, by_key: bool) -> None:
    """Notes whether a request is decided by its key, and so not shown to another scheme."""
    # Anew: a request that an application sends through itself may share what stands there.
    scope[_ENTRY] = {**scope.get(_ENTRY, {}), mark: by_key}


class Either:
    """A dependency that gives the key of a request, or else what another dependency gives.

    Args:
        carried: The dependency that takes the key, or gives ``Undecided``; its ``mark`` is what
            it decides by.
        other: Is asked about requests without a key of ours; gives None where it cannot tell.
    """

    def __init__(self, carried: Any, other: Callable[..., Any]) -> None:
        self.carried = carried
        self.other: Final = _beside(other, carried.mark)
        # What FastAPI reads the dependencies from. The key is taken first.
        self.__signature__: Final = inspect.Signature(
            [
                _parameter("keylatch_key", Security(carried)),
                _parameter("keylatch_other", Security(self.other)),
            ]
        )

    def __eq__(self, other: object) -> bool:
        """Whether it asks the same: FastAPI asks once for both then."""
        return isinstance(other, Either) and (self.carried, self.other) == (
            other.carried,
            other.other,
        )

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((Either, self.carried, self.other))

    def __repr__(self) -> str:
        return f"Either({self.carried!r}, {self.other!r})"

    async def __call__(self, *, keylatch_key: Any, keylatch_other: Any) -> Any:
        """Gives the one or the other.

        Raises:
            RefusedError: There is neither; FastAPI answers with that.
        """
        if not isinstance(keylatch_key, Undecided):
            return keylatch_key
        return await keylatch_key.refuse() if keylatch_other is None else keylatch_other


class _Choice:
    """A dependency that gives what is to be called: None where a key decides."""

    def __init__(self, call: Callable[..., Any], mark: object) -> None:
        self._call = call
        self._mark = mark

    async def __call__(self, connection: HTTPConnection) -> Callable[..., Any] | None:
        """Chooses it.

        Raises:
            ConfigurationError: What it was overridden with cannot be called here.
        """
        if connection.scope.get(_ENTRY, {}).get(self._mark, False):
            return None
        # FastAPI does not find what stands beside a key under the name that a test overrides.
        call: Callable[..., Any] = overriding(connection, self._call)
        return call if call is self._call else without_parameters(call, otherwise=_OVERRIDDEN)


class _Beside:
    """A dependency of another scheme, that is not called where a key decides.

    It does not equal the one that it stands for: FastAPI would take the None that it gives for
    the answer of that one, where a route asks for that as well, and insists on it. What is equal
    must not stand in an ``Annotated``, of which Python keeps one for all that are.
    """

    def __init__(self, call: Callable[..., Any], mark: object) -> None:
        self.call = call
        self._mark = mark
        parameters = get_typed_signature(call).parameters
        self._own = "keylatch_choice"
        while self._own in parameters:  # as it stands for one of these
            self._own += "_"
        # Anew each time: FastAPI would keep what came before the key.
        own = _parameter(self._own, Depends(_Choice(call, mark), use_cache=False))
        others = [_guarded(each, mark).replace(kind=_KEYWORD) for each in parameters.values()]
        self.__signature__: Final = inspect.Signature([own, *others])

    def __eq__(self, other: object) -> bool:
        """Whether it is called for the same: FastAPI asks once for both then."""
        return isinstance(other, _Beside) and (self._mark, self.call) == (other._mark, other.call)

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((_Beside, self.call))

    def __repr__(self) -> str:
        return f"_Beside({self.call!r})"

    async def __call__(self, /, **values: Any) -> Any:
        """Gives what the dependency gives, or None where a key decides."""
        try:
            call = values.pop(self._own)
            if call is None:
                return None
            return await (give(call, **values) if call is self.call else give(call))
        finally:
            del values  # a traceback with locals must not show what credentials stand there


class _BesideGenerator(_Beside):
    """The same for one that has something to do after the request."""

    async def __call__(self, /, **values: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        """Gives what the dependency gives, or None where a key decides."""
        try:
            call = values.pop(self._own)
            if call is not self.call:
                yield None if call is None else await give(call)
                return
            found_within = entered(call, **values)
            values.clear()
            async with found_within as found:
                yield found
        finally:
            del values


class _BesideScheme(_Beside, SecurityBase):
    """The same for a scheme, which the OpenAPI document shows."""

    def __init__(self, call: Any, mark: object) -> None:
        super().__init__(call, mark)
        self.model, self.scheme_name = call.model, call.scheme_name


class _BesideYieldingScheme(_BesideScheme, _BesideGenerator):
    """The same for a scheme that has something to do after the request."""


def stands_for(dependency: Any) -> Any:
    """The dependency itself, where another stands for it beside a key."""
    while isinstance(dependency, _Beside):
        dependency = dependency.call
    return dependency


def _beside(call: Any, mark: object) -> _Beside:
    if isinstance(call, SecurityBase):
        return (_BesideYieldingScheme if yields(call) else _BesideScheme)(call, mark)
    return (_BesideGenerator if yields(call) else _Beside)(call, mark)


def _guarded(parameter: inspect.Parameter, mark: object) -> inspect.Parameter:
    """The same parameter; if it leads to a scheme, with what is not called where a key decides."""
    depends, kind = _depends(parameter)
    call = depends and (depends.dependency or kind)
    if not _sees_credentials(call):
        return parameter
    guarded = copy.copy(depends)
    object.__setattr__(guarded, "dependency", _beside(call, mark))  # it may be frozen
    return parameter.replace(annotation=kind, default=guarded)


def _sees_credentials(call: Any) -> bool:
    """Whether a dependency is a scheme, or one of its own is."""
    if call is None or isinstance(call, SecurityBase):
        return call is not None
    found = [_depends(each) for each in get_typed_signature(call).parameters.values()]
    return any(_sees_credentials(each.dependency or kind) for each, kind in found if each)


def _depends(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """What a parameter depends on, if it does, and its type."""
    kind, marks = parameter.annotation, [parameter.default]
    if get_origin(kind) is Annotated:
        kind, *others = get_args(kind)
        marks += others
    return next((each for each in marks if isinstance(each, params.Depends)), None), kind


def _parameter(name: str, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, annotation=Any, default=default)
