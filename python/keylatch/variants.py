"""FastAPI dependencies beside APIKeyAuth: a key that may be missing, and one that may not be ours.

Know a door and FastAPI. (No postponed annotations here: FastAPI reads them.)
"""

import functools
from typing import TYPE_CHECKING, Final

from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from keylatch import either, openapi
from keylatch.door import Door
from keylatch.errors import InvalidKeyError, MissingKeyError
from keylatch.records import APIKey
from keylatch.refusals import ClosedError, RefusedError

if TYPE_CHECKING:
    from fastapi.openapi.models import SecurityBase as Scheme


class OptionalAPIKey(SecurityBase):
    """A dependency that asks for a key if there is one: ``auth.optional``.

    Args:
        auth: What asks for it.
        door: The door of ``auth``.
    """

    def __init__(self, auth: SecurityBase, door: Door) -> None:
        self.model: Scheme = auth.model
        self.scheme_name: str = auth.scheme_name + openapi.OPTIONAL
        self.auth: Final[SecurityBase] = auth
        self._door = door

    def __eq__(self, other: object) -> bool:
        """Whether it asks the same: FastAPI asks once for both then."""
        return isinstance(other, OptionalAPIKey) and self.auth is other.auth

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((OptionalAPIKey, id(self.auth)))

    def __repr__(self) -> str:
        return f"{self.auth!r}.optional"

    async def __call__(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response = None,  # type: ignore[assignment] # as above
    ) -> APIKey | None:
        """Verifies the request's key, if it carries one.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
        """
        try:
            return await self._door.ask(connection, scopes, response, MissingKeyError)
        except (RefusedError, ClosedError) as refused:
            if not isinstance(refused.error, MissingKeyError):
                raise
        return None


class CarriedAPIKey(SecurityBase):
    """A dependency that takes a request's key, if it carries one of ours: ``auth.carried``.

    Args:
        auth: What asks for it.
        door: The door of ``auth``.
    """

    def __init__(self, auth: SecurityBase, door: Door) -> None:
        self.model: Scheme = auth.model
        self.scheme_name: str = auth.scheme_name
        self.auth: Final[SecurityBase] = auth
        self._door = door

    def __eq__(self, other: object) -> bool:
        """Whether it asks the same: FastAPI asks once for both then."""
        return isinstance(other, CarriedAPIKey) and self.auth is other.auth

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((CarriedAPIKey, id(self.auth)))

    def __repr__(self) -> str:
        return f"{self.auth!r}.carried"

    @property
    def mark(self) -> object:
        """What stands for it in the scope of a request, whatever a test has put in its place."""
        return self._door.stands_for

    async def __call__(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response = None,  # type: ignore[assignment] # as above
    ) -> APIKey | either.Undecided:
        """Verifies the request's key, if it carries one of ours.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
        """
        door, gate = self._door, self._door.gate
        claimed = gate.keys.claims(
            connection.scope["headers"],
            sources=gate.sources,
            query=None if gate.query is None else connection.scope.get("query_string"),
        )
        key: APIKey | None = None
        if claimed is not False:
            try:
                untold = None if claimed else InvalidKeyError
                key = await door.ask(connection, scopes, response, untold)
            except (RefusedError, ClosedError) as refused:
                # No imported one either.
                if claimed or not isinstance(refused.error, InvalidKeyError):
                    raise
        either.decide(connection.scope, self.mark, by_key=key is not None)
        if key is None:
            return either.Undecided(functools.partial(door.ask, connection, scopes, response))
        return key
