"""FastAPI dependencies beside APIKeyAuth: a key that may be missing, and one that may not be ours.

Know a door and FastAPI. (No postponed annotations here: FastAPI reads them.)
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard

from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from keylatch import either, openapi
from keylatch.calling import give, overriding, without_parameters
from keylatch.door import Door
from keylatch.errors import InvalidKeyError, MissingKeyError
from keylatch.records import APIKey
from keylatch.refusals import ClosedError, RefusedError

if TYPE_CHECKING:
    from fastapi.openapi.models import SecurityBase as Scheme

_OVERRIDDEN: Final = (
    "beside what FastAPI calls by itself, an APIKeyAuth is overridden by another one, or by a "
    "function without parameters that returns: override auth.optional, or what auth.either() or "
    "auth.owner() has made, by any other"
)


class Asks(Protocol):
    """An APIKeyAuth, or what an application has made of it.

    Attributes:
        door: Where requests are let in.
        model: The scheme that it is.
        scheme_name: What that is called.
    """

    door: Door
    model: "Scheme"
    scheme_name: str

    async def __call__(
        self, connection: HTTPConnection, scopes: SecurityScopes, response: Response = ...
    ) -> APIKey:
        """Verifies the request's key."""


def asked(auth: Asks, connection: HTTPConnection) -> Asks | Callable[[], Any]:
    """What is asked about a request: the same, or what a test has put in its place.

    That is another one, or gives the key; None, where nobody has to have one.

    Raises:
        ConfigurationError: It cannot be called here.
    """
    found = overriding(connection, auth)
    if found is auth or asks(found):
        return found
    return without_parameters(found, otherwise=_OVERRIDDEN)


def asks(found: Any) -> TypeGuard[Asks]:
    """Whether it lets requests in by a door of ours."""
    return isinstance(getattr(found, "door", None), Door)


class Beside(SecurityBase):
    """A dependency that asks another one for the key.

    Args:
        auth: The other one.

    Attributes:
        auth: The other one.
        model: The scheme that it is.
        scheme_name: What that is called.
    """

    def __init__(self, auth: Asks) -> None:
        self.auth: Final[Asks] = auth
        self.model: Scheme = auth.model
        self.scheme_name: str = auth.scheme_name

    def __eq__(self, other: object) -> bool:
        """Whether it asks the same: FastAPI asks once for both then."""
        return type(self) is type(other) and self.auth is getattr(other, "auth", None)

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((type(self), id(self.auth)))


class OptionalAPIKey(Beside):
    """A dependency that asks for a key if there is one: ``auth.optional``."""

    def __init__(self, auth: Asks) -> None:
        super().__init__(auth)
        self.scheme_name: str = auth.scheme_name + openapi.OPTIONAL

    def __repr__(self) -> str:
        return f"{self.auth!r}.optional"

    async def __call__(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response = None,  # type: ignore[assignment] # FastAPI has no other way to say it
    ) -> APIKey | None:
        """Verifies the request's key, if it carries one.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
        """
        auth = asked(self.auth, connection)
        if not asks(auth):
            return await give(auth)  # type: ignore[no-any-return] # whatever a test gives
        try:
            with auth.door.telling_nobody_of(MissingKeyError, connection):
                return await auth(connection, scopes, response)
        except (RefusedError, ClosedError) as refused:
            if not isinstance(refused.error, MissingKeyError):
                raise
        return None


class CarriedAPIKey(Beside):
    """A dependency that takes a request's key, if it carries one of ours: ``auth.carried``."""

    def __repr__(self) -> str:
        return f"{self.auth!r}.carried"

    @property
    def mark(self) -> object:
        """What stands for it in the scope of a request, whatever a test has put in its place."""
        return self.auth.door.stands_for

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
        auth = asked(self.auth, connection)
        if not asks(auth):
            either.decide(connection.scope, self.mark, by_key=True)
            return await give(auth)  # type: ignore[no-any-return] # as above
        claimed = auth.door.claims(connection)
        key: APIKey | None = None
        if claimed:
            key = await auth(connection, scopes, response)
        elif claimed is None:  # it may be an imported one
            try:
                with auth.door.telling_nobody_of(InvalidKeyError, connection):
                    key = await auth(connection, scopes, response)
            except (RefusedError, ClosedError) as refused:
                if not isinstance(refused.error, InvalidKeyError):
                    raise
        either.decide(connection.scope, self.mark, by_key=key is not None)
        if key is None:
            return either.Undecided(functools.partial(auth, connection, scopes, response))
        return key
