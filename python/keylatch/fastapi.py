"""FastAPI's side: a dependency that lets a request pass or answers why not.

Knows FastAPI and the collection of keys. (No postponed annotations here: FastAPI reads them.)
"""

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, Concatenate, Final, TypeVar, overload
from weakref import WeakSet

from fastapi import APIRouter, FastAPI, Security
from fastapi.openapi.models import APIKey as APIKeyScheme
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from keylatch import bounds, challenges, owners, router
from keylatch import openapi as openapi_document
from keylatch.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidKeyError,
    MissingKeyError,
    UnavailableError,
)
from keylatch.gate import ENTRY, Gate
from keylatch.keys import APIKeys
from keylatch.records import APIKey
from keylatch.refusals import RefusedError, problem_handler, unavailable_error_handler

__all__ = [
    "APIKeyAuth",
    "OptionalAPIKey",
    "RefusedError",
    "keys_router",
    "problem_handler",
    "unavailable_error_handler",
]

T = TypeVar("T")

# What the name of a component of an OpenAPI document may not hold (OpenAPI 3.1, section 4.8.7).
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")


class APIKeyAuth(SecurityBase):
    """A dependency: ``Annotated[APIKey, Security(auth, scopes=["items:read"])]``.

    Takes the token from the request's headers only, never from its query string. Answers 401,
    403, 400 or 503 as RFC 6750 and RFC 9110 have it. Routes that manage keys answer 503 as well
    with :func:`unavailable_error_handler`.

    Answers to a key in its grace period say so, with ``Deprecation`` and ``Sunset``: those that
    FastAPI makes of what a route returns. The middleware adds them to all others as well, such as
    a ``Response`` that a route makes itself.

    The OpenAPI document shows one scheme for a dependency, which is all that FastAPI has a place
    for; an application with ``lifespan=keys.lifespan`` shows one for each header as well.

    Args:
        keys: The collection that the keys belong to.
        bearer: Whether ``Authorization: Bearer`` may carry the token.
        headers: Other headers that may; their whole value is the token.
        realm: What the keys are for, told to clients in ``WWW-Authenticate``.
        scheme_name: What the scheme is called in the OpenAPI document.

    Raises:
        ConfigurationError: No header may carry the token, or a name is not one.
    """

    def __init__(
        self,
        keys: APIKeys,
        *,
        bearer: bool = True,
        headers: Sequence[str] = ("X-API-Key",),
        realm: str = "api",
        scheme_name: str = "APIKey",
    ) -> None:
        self._gate = Gate(keys, bearer=bearer, headers=headers, realm=realm)
        self._bearer, self._realm = bearer, realm
        headers = self._gate.headers
        self.scheme_name = scheme_name
        schemes = [_header_scheme(name) for name in headers]
        self.model = BearerScheme(description=_description(headers)) if bearer else schemes.pop(0)
        self._other_schemes = {
            f"{scheme_name}-{_NOT_IN_NAMES.sub('_', scheme.name)}": scheme.model_dump(
                mode="json", by_alias=True, exclude_none=True
            )
            for scheme in schemes
        }
        self._documented: WeakSet[FastAPI] = WeakSet()
        keys.on_startup(self._document)

    def __repr__(self) -> str:
        return f"APIKeyAuth({self.keys!r})"

    def over(self, keys: APIKeys) -> "APIKeyAuth":
        """The same dependency over another collection: what a test puts in its place."""
        return APIKeyAuth(
            keys,
            bearer=self._bearer,
            headers=self._gate.headers,
            realm=self._realm,
            scheme_name=self.scheme_name,
        )

    def headers_of(self, token: str) -> dict[str, str]:
        """The header that carries a token to the routes that ask for it."""
        if self._bearer:
            return {"Authorization": f"Bearer {token}"}
        return {self._gate.headers[0]: token}

    @property
    def keys(self) -> APIKeys:
        """The collection that the keys belong to."""
        return self._gate.keys

    async def __call__(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response = None,  # type: ignore[assignment] # FastAPI has no other way to say it
    ) -> APIKey:
        """Verifies the request's key, if no ``keylatch.asgi.APIKeyMiddleware`` has done so before.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
        """
        required = _required(tuple(scopes.scopes))
        gate = self._gate
        try:
            key = None
            if ENTRY in connection.scope:
                key = gate.passed(connection.scope, required)
            if key is None:
                key = await gate.keys.authenticate(
                    connection.scope["headers"], sources=gate.sources, scopes=required
                )
        except (AuthenticationError, UnavailableError) as error:
            raise self.refusal(error) from error
        if key.successor is not None and response is not None:
            response.headers.update(await gate.keys.grace_headers(key))
        return key

    @property
    def optional(self) -> "OptionalAPIKey":
        """A dependency that gives None where a request carries no key.

        ``Annotated[APIKey | None, Security(auth.optional)]``. A key that may not pass is refused
        all the same. A request without one counts as ``missing_key`` in ``keys.health()``.
        """
        return OptionalAPIKey(self)

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], Awaitable[T | None]]
    ) -> Callable[..., Awaitable[T]]: ...

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], T | None]
    ) -> Callable[..., Awaitable[T]]: ...

    def owner(self, load: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A dependency that gives whom a request's key belongs to, as the application has them.

        With ``async def user(owner: str, session: Annotated[Session, Depends(session)])`` that
        finds a user, ``Annotated[User, Security(auth.owner(user), scopes=["items:read"])]``
        verifies the key, and then finds its user. Further parameters are dependencies, as ever.

        Args:
            load: Finds an owner by ``key.owner``; None if there is none. One that is not
                ``async`` runs in a thread.

        Returns:
            The dependency. A key without an owner, or whose owner is not found, is answered like
            an invalid one.

        Raises:
            TypeError: ``load`` takes no owner.
        """
        nobody = functools.partial(self.refusal, InvalidKeyError())
        return owners.dependency(load, Annotated[APIKey, Security(self)], refuse=nobody)

    def _document(self, app: object) -> None:
        """Has an application's OpenAPI document show all headers and answers of ours."""
        if not isinstance(app, FastAPI) or app in self._documented:
            return
        self._documented.add(app)
        document = app.openapi

        def openapi() -> dict[str, Any]:
            written = document()
            handler = app.exception_handlers.get(RefusedError)
            openapi_document.complete(
                written,
                scheme_name=self.scheme_name,
                others=self._other_schemes,
                media_type=(
                    challenges.PROBLEM_JSON if handler is problem_handler else challenges.JSON
                ),
            )
            return written

        # FastAPI's own way of extending the document.
        app.openapi = openapi  # type: ignore[method-assign]

    def refusal(self, error: AuthenticationError | UnavailableError) -> RefusedError:
        """The answer to a request that may not pass, with the headers that belong to it."""
        return RefusedError(error, self._gate.challenge.headers(error))


class OptionalAPIKey(SecurityBase):
    """A dependency that asks for a key if there is one: ``auth.optional``.

    Args:
        auth: What asks for it.
    """

    def __init__(self, auth: APIKeyAuth) -> None:
        self.model = auth.model
        self.scheme_name = auth.scheme_name + openapi_document.OPTIONAL
        self._auth = auth

    def __eq__(self, other: object) -> bool:
        """Whether it asks the same: FastAPI asks once for both then."""
        return isinstance(other, OptionalAPIKey) and self._auth is other._auth

    def __hash__(self) -> int:
        """As equality has it."""
        return hash((OptionalAPIKey, id(self._auth)))

    def __repr__(self) -> str:
        return f"{self._auth!r}.optional"

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
            return await self._auth(connection, scopes, response)
        except RefusedError as refused:
            if not isinstance(refused.error, MissingKeyError):
                raise
        return None


def keys_router(auth: APIKeyAuth) -> APIRouter:
    """Routes that manage keys: ``app.include_router(keys_router(auth), prefix="/api-keys")``.

    Create, list, show, update, rotate, revoke, and the audit trail. Each route asks for a key by
    itself, with the scope ``keys:read`` or ``keys:write``; no option leaves that out. What the key
    of a request may do by these:

    - It sees and changes keys of its own owner and of the collection's prefixes. With
      ``keys:admin`` besides, of every owner, and makes keys for any. Other keys answer 404, like
      ids that do not exist. A key without an owner needs ``keys:admin``.
    - It gives no key a scope that it lacks, and neither changes nor rotates one that has such a
      scope, whatever else it may. It can always revoke what it sees, itself included.
    - What it makes, or has live longer, ends no later than itself. For a key that gives others a
      longer life, or renews itself, take one without an end, or one with ``keys:admin``.
    - It may write any ``metadata``: where that decides what a key may do, hand out no
      ``keys:write``.

    A token is shown once, when a key is created or rotated. No answer may be cached, and none
    repeats what was sent. How large a body may be is for the server in front to say.

    Args:
        auth: What protects the routes, and has the collection of keys.

    Raises:
        ConfigurationError: This is no APIKeyAuth: the routes would stand open.
    """
    if not isinstance(auth, APIKeyAuth):
        raise ConfigurationError(
            "routes that manage keys are never mounted without protection: pass "
            "keys_router(APIKeyAuth(keys))"
        )
    return router.routes(auth, auth.keys, refuse=auth.refusal)


@functools.lru_cache(maxsize=1024)
def _required(scopes: tuple[str, ...]) -> frozenset[str]:
    """Checks the scopes that a route asks for, once: a malformed one is the route's mistake."""
    return bounds.scopes(scopes)


def _header_scheme(name: str) -> APIKeyScheme:
    return APIKeyScheme.model_validate({"in": "header", "name": name})


def _description(headers: Iterable[str]) -> str:
    others = " or ".join(f"`{name}`" for name in headers)
    also = f", or as the value of {others}" if others else ""
    return f"An API key, as `Authorization: Bearer`{also}."
