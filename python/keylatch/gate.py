"""What asks for a key, and the note in a request's ASGI scope that it has: none asks twice.

Knows the collection of keys and ASGI's scopes; no framework.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final

from keylatch._native import TokenHeaders
from keylatch.challenges import Challenge
from keylatch.errors import ConfigurationError
from keylatch.keys import APIKeys
from keylatch.limits import Limiter, RateLimitRule
from keylatch.records import APIKey

Headers = Iterable[tuple[bytes, bytes]]

# Where a scope has what has passed; and by which gate, with what, scopes were asked for on the way.
ENTRY: Final = "keylatch"
ASKED: Final = "keylatch.asked"
# And what the request has been counted by, for which key.
_COUNTED: Final = "keylatch.counted"


class Gate:
    """Which collection is asked for the key that a request carries, and where it may stand.

    Args:
        keys: The collection.
        bearer: Whether ``Authorization: Bearer`` may carry the token.
        headers: Other headers that may; their whole value is the token.
        cookie: The name of a cookie that may.
        query: The name of a query parameter that may.
        realm: What the keys are for, told to clients in ``WWW-Authenticate``.
        rate_limit: How many requests each key may send, or what tells that of a key.

    Raises:
        ConfigurationError: Nothing may carry the token, or a name is not one, or the realm
            is outside its format, or the limit is none.

    Attributes:
        keys: The collection.
        headers: The other headers.
        cookie: The cookie.
        query: The query parameter.
        sources: All of them, as the native core takes them.
        names: Of the headers that are looked at, in lower case.
        challenge: Tells a client what to send.
        limiter: Counts requests, if there is a limit.
    """

    def __init__(
        self,
        keys: APIKeys,
        *,
        bearer: bool,
        headers: Sequence[str],
        cookie: str | None,
        query: str | None,
        realm: str,
        rate_limit: RateLimitRule | None,
    ) -> None:
        self.challenge: Final = Challenge(bearer=bearer, realm=realm)
        if isinstance(headers, str):
            raise ConfigurationError('headers is a list of names, such as ["X-API-Key"], not one')
        self.limiter: Final = None if rate_limit is None else Limiter(rate_limit)
        self.keys = keys
        self.headers: Final = list(headers)
        self.cookie: Final = cookie
        self.query: Final = query
        self.sources: Final = TokenHeaders(
            bearer=bearer, names=self.headers, cookie=cookie, query=query
        )
        names = [*self.headers, "authorization"] if bearer else [*self.headers]
        names += [] if cookie is None else ["cookie"]
        self.names: Final = frozenset(name.lower().encode() for name in names)

    def __repr__(self) -> str:
        return f"Gate({self.keys!r})"

    def passed(self, scope: Mapping[str, Any], required: frozenset[str]) -> APIKey | None:
        """The key that the same collection has verified out of the same sources, if it has.

        Its use is counted, so that only the scopes are looked at.

        Args:
            scope: The request's, of type ``http`` or ``websocket``.
            required: The scopes that are needed, all of them, as ``bounds`` has checked them.

        Raises:
            InsufficientScopeError: The key lacks a scope.
        """
        try:
            if ENTRY not in scope:
                return None
            passed = _find(scope, self.keys, self)
            if passed is None:
                return None
            self.keys.permit(passed.key, required)
            return passed.key
        finally:
            del scope  # a traceback with locals must not show the token

    def remember(self, scope: MutableMapping[str, Any], key: APIKey) -> None:
        """Has every gate behind this one know the key that a request was verified with."""
        # Into the scope itself, as Starlette's own middleware does: with a copy, whatever stands
        # outside would not see the route that is found within.
        try:
            scope[ENTRY] = Passed(self, key, scope)
        finally:
            del scope

    def has_used(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request has been asked for this key before: it is one use, however often.

        Args:
            scope: The request's, of type ``http`` or ``websocket``.
        """
        try:
            # A copy of a scope that an application sends through itself may carry another key.
            return any(
                headers == scope["headers"]
                and query == scope.get("query_string")
                and self.like(gate)
                for gate, _, headers, query in _asked(scope)
            )
        finally:
            del scope  # a traceback with locals must not show the token

    def count(self, scope: MutableMapping[str, Any], key: APIKey) -> None:
        """Counts a request that may pass against the limit of its key, once however often it asks.

        A request that an application sends through itself with a copy of the scope is the same
        request, unless it carries another key.

        Args:
            scope: The request's, of type ``http`` or ``websocket``.
            key: Its key, which has verified just now and has its scopes.

        Raises:
            RateLimitedError: There was none left. This one is not counted.
        """
        try:
            if self.limiter is None:
                return
            counted = scope.get(_COUNTED, ())
            if (self.limiter, key.id) not in counted:
                self.keys.limit(key, self.limiter)
                scope[_COUNTED] = (*counted, (self.limiter, key.id))
        finally:
            del scope  # a traceback with locals must not show the token

    def note(self, scope: MutableMapping[str, Any], required: frozenset[str]) -> None:
        """Notes that a request has passed, and has ``again`` ask for the same scopes."""
        asked = (self, required, scope["headers"], scope.get("query_string"))
        scope[ASKED] = (asked, scope.get(ASKED))

    async def again(
        self, scope: Mapping[str, Any], required: frozenset[str] = frozenset()
    ) -> APIKey:
        """Verifies the key of a request that has passed and lasts, as things are now.

        What was verified before counts for nothing. It counts as no further use.

        Args:
            scope: The request's, of type ``http`` or ``websocket``.
            required: The scopes that are needed beside those that were asked for before.

        Raises:
            AuthenticationError: As ``APIKeys.authenticate``.
            UnavailableError: As ``APIKeys.authenticate``.
        """
        try:
            required = required.union(
                *(scopes for gate, scopes, *_ in _asked(scope) if self.like(gate))
            )
            verified = self.keys.authenticate(
                scope["headers"],
                sources=self.sources,
                scopes=required,
                query=None if self.query is None else scope.get("query_string"),
                counted=False,
            )
        finally:
            del scope  # a traceback with locals must not show the token
        return await verified

    def like(self, other: "Gate") -> bool:
        """Whether another one asks the same collection for a key in the same places."""
        if self is other:
            return True
        return (self.keys, self.names, self.cookie, self.query) == (
            other.keys,
            other.names,
            other.cookie,
            other.query,
        )


class Passed:
    """That a request has passed a gate. Lies in its scope, where no client can put anything.

    It holds for the credential that was verified only: an application may send requests of its
    own through itself, with a copy of the scope and other headers, or another query string.
    """

    __slots__ = ("gate", "headers", "key", "outer", "query")

    def __init__(self, gate: Gate, key: APIKey, scope: Mapping[str, Any]) -> None:
        try:
            self.gate: Final = gate
            self.key: Final = key
            self.headers: tuple[tuple[bytes, bytes], ...] = tuple(scope["headers"])
            self.query: bytes | None = scope.get("query_string")
            outer = scope.get(ENTRY)
            # Not one of another request.
            self.outer: Final = (
                outer if isinstance(outer, Passed) and outer.holds_for(scope) else None
            )
        finally:
            del scope

    def __repr__(self) -> str:
        return f"Passed({self.key.id})"

    def __reduce__(self) -> str:
        raise TypeError("this belongs to one request and cannot be pickled or copied")

    def holds_for(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request carries the credential that was verified."""
        try:
            if self.gate.query is not None and scope.get("query_string") != self.query:
                return False
            given = tuple(scope["headers"])
            if given == self.headers:
                return True
            return self._credentials(given) == self._credentials(self.headers)
        except (AttributeError, TypeError, ValueError):
            return False  # these are no headers, and verifying them says so
        finally:
            del scope

    def _credentials(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        return [(name.lower(), value) for name, value in headers if name.lower() in self.gate.names]


def _asked(scope: Mapping[str, Any]) -> Iterator[Any]:
    """By which gates a request was asked, for which scopes and with what, the last one first."""
    left = scope.get(ASKED)
    while left is not None:
        asked, left = left
        yield asked


def last_gate(scope: Mapping[str, Any], keys: APIKeys) -> Gate | None:
    """The innermost gate by which a collection has verified a request."""
    try:
        passed = _find(scope, keys, None)
        return None if passed is None else passed.gate
    finally:
        del scope


def passed_key(scope: Mapping[str, Any], keys: APIKeys) -> APIKey | None:
    """The key that a collection has verified for a request, by the innermost gate."""
    try:
        passed = _find(scope, keys, None)
        return None if passed is None else passed.key
    finally:
        del scope


def _find(scope: Mapping[str, Any], keys: APIKeys, gate: Gate | None) -> Passed | None:
    """What this very collection has verified. Another one may know another key of that id.

    Out of other places than the gate's does not count: a route that asks for ``X-Admin-Key``
    means it.
    """
    try:
        passed = scope.get(ENTRY)
        while isinstance(passed, Passed):
            same = passed.gate.keys is keys if gate is None else gate.like(passed.gate)
            if same and passed.holds_for(scope):
                return passed
            passed = passed.outer
        return None
    finally:
        del scope
