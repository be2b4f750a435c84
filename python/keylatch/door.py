"""The door of a route: lets a request in, with its key, or answers why not.

Knows the gate and FastAPI's requests and answers.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.responses import Response

from keylatch import bounds
from keylatch.errors import AuthenticationError, UnavailableError
from keylatch.gate import ASKED, ENTRY, Gate
from keylatch.records import APIKey
from keylatch.refusals import ClosedError, RefusedError, can_be_answered

# Where a scope has the refusal that no callback is told of.
_UNTOLD: Final = "keylatch.untold"


class Door:
    """Asks a gate about requests, and answers those that may not pass.

    Args:
        gate: Verifies the keys.
        stands_for: The door that a test has put this one in the place of.

    Attributes:
        gate: The gate.
        stands_for: The door whose requests these are.
    """

    def __init__(self, gate: Gate, stands_for: "Door | None" = None) -> None:
        self.gate: Final = gate
        self.stands_for: Final = stands_for or self

    async def ask(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response | None,
    ) -> APIKey:
        """Verifies the request's key, if nothing in front has done so before.

        Args:
            connection: The request, or the WebSocket.
            scopes: What its route asks for.
            response: Is told of the key's end, if the key is in its grace period.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
            ClosedError: The same for a WebSocket that cannot be answered; FastAPI closes it.
        """
        required = _required(tuple(scopes.scopes))
        gate = self.gate
        try:
            key = None
            if ENTRY in connection.scope:
                key = gate.passed(connection.scope, required)
            if key is None:
                key = await gate.keys.authenticate(
                    connection.scope["headers"],
                    sources=gate.sources,
                    scopes=required,
                    query=None if gate.query is None else connection.scope.get("query_string"),
                    counted=ASKED not in connection.scope or not gate.has_used(connection.scope),
                    untold=connection.scope.get(_UNTOLD),
                )
            if gate.limiter is not None:
                gate.count(connection.scope, key)
        except (AuthenticationError, UnavailableError) as error:
            raise self.refused(connection, error) from error
        gate.note(connection.scope, required)
        if key.successor is not None and response is not None:
            response.headers.update(await gate.keys.grace_headers(key))
        return key

    @contextmanager
    def telling_nobody_of(
        self, refusal: type[AuthenticationError], connection: HTTPConnection
    ) -> Iterator[None]:
        """Has ``ask`` tell no callback of a refusal, with which the request may pass all the same.

        It stands in the scope, so that whatever an application has made of the dependency is asked.
        """
        connection.scope[_UNTOLD] = refusal
        try:
            yield
        finally:
            del connection.scope[_UNTOLD]

    def claims(self, connection: HTTPConnection) -> bool | None:
        """Whether a request carries a key of ours; None if only the database can tell."""
        gate = self.gate
        return gate.keys.claims(
            connection.scope["headers"],
            sources=gate.sources,
            query=None if gate.query is None else connection.scope.get("query_string"),
        )

    async def again(self, connection: HTTPConnection, required: frozenset[str]) -> APIKey:
        """Verifies the key of a request that goes on, as things are now.

        Raises:
            RefusedError: As ``ask``.
            ClosedError: As ``ask``.
        """
        try:
            return await self.gate.again(connection.scope, required)
        except (AuthenticationError, UnavailableError) as error:
            raise self.refused(connection, error) from error

    def refusal(self, error: AuthenticationError | UnavailableError) -> RefusedError:
        """The answer to a request that may not pass, with the headers that belong to it."""
        return RefusedError(error, self.gate.challenge.headers(error))

    def refused(
        self, connection: HTTPConnection, error: AuthenticationError | UnavailableError
    ) -> RefusedError | ClosedError:
        """The same, or what closes a WebSocket that no answer can be sent to."""
        return self.refusal(error) if can_be_answered(connection) else ClosedError(error)


@functools.lru_cache(maxsize=1024)
def _required(scopes: tuple[str, ...]) -> frozenset[str]:
    """Checks the scopes that a route asks for, once: a malformed one is the route's mistake."""
    return bounds.scopes(scopes)
