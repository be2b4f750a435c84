"""FastAPI's side: a dependency that lets a request pass or answers why not.

Knows FastAPI and the collection of keys. (No postponed annotations here: FastAPI reads them.)
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final
from weakref import WeakSet

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.openapi.models import APIKey as APIKeyScheme
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from keylatch import bounds, challenges, router
from keylatch.errors import AuthenticationError, ConfigurationError, UnavailableError
from keylatch.gate import ENTRY, Gate
from keylatch.keys import APIKeys
from keylatch.records import APIKey

# What the name of a component of an OpenAPI document may not hold (OpenAPI 3.1, section 4.8.7).
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")


class RefusedError(HTTPException):
    """The answer to a request that may not pass, as FastAPI raises it.

    An exception handler of the application for this class takes the answers over.

    Attributes:
        error: Why: an AuthenticationError or an UnavailableError.
    """

    def __init__(
        self, error: AuthenticationError | UnavailableError, headers: dict[str, str]
    ) -> None:
        super().__init__(error.status, challenges.detail(error), headers)
        self.error = error


async def unavailable_error_handler(request: Request, error: Exception) -> Response:
    """Answers as ``APIKeyAuth`` does where a route of the application's own meets a fault.

    A route that creates or changes keys raises ``UnavailableError`` when the database fails, and
    FastAPI makes 500 of that. With this it is 503 with ``Retry-After``::

        app.add_exception_handler(UnavailableError, unavailable_error_handler)
    """
    if not isinstance(error, UnavailableError):
        raise error
    return await http_exception_handler(request, RefusedError(error, challenges.retry_after(error)))


class APIKeyAuth(SecurityBase):
    """A dependency: ``Annotated[APIKey, Security(auth, scopes=["items:read"])]``.

    Takes the token from the request's headers only, never from its query string. Answers 401,
    403, 400 or 503 as RFC 6750 and RFC 9110 have it. Routes that manage keys answer 503 as well
    with :func:`unavailable_error_handler`.

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
        headers = self._gate.headers
        self.scheme_name = scheme_name
        schemes = [_header_scheme(name) for name in headers]
        self.model = BearerScheme(description=_description(headers)) if bearer else schemes.pop(0)
        self._other_schemes = {
            f"{scheme_name}-{_NOT_IN_NAMES.sub('_', scheme.name)}": scheme for scheme in schemes
        }
        self._documented: WeakSet[FastAPI] = WeakSet()
        keys.on_startup(self._document)

    def __repr__(self) -> str:
        return f"APIKeyAuth({self.keys!r})"

    @property
    def keys(self) -> APIKeys:
        """The collection that the keys belong to."""
        return self._gate.keys

    async def __call__(self, connection: HTTPConnection, scopes: SecurityScopes) -> APIKey:
        """Verifies the request's key, if no ``keylatch.asgi.APIKeyMiddleware`` has done so before.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
        """
        required = _required(tuple(scopes.scopes))
        gate = self._gate
        try:
            if ENTRY in connection.scope:
                passed = gate.passed(connection.scope, required)
                if passed is not None:
                    return passed
            return await gate.keys.authenticate(
                connection.scope["headers"], sources=gate.sources, scopes=required
            )
        except (AuthenticationError, UnavailableError) as error:
            raise self.refusal(error) from error

    def _document(self, app: object) -> None:
        """Has an application's OpenAPI document show every header that may carry the token."""
        if not isinstance(app, FastAPI) or app in self._documented:
            return
        self._documented.add(app)
        document = app.openapi

        def openapi() -> dict[str, Any]:
            written = document()
            self._add_other_schemes(written)
            return written

        # FastAPI's own way of extending the document.
        app.openapi = openapi  # type: ignore[method-assign]

    def _add_other_schemes(self, document: dict[str, Any]) -> None:
        schemes = document.get("components", {}).get("securitySchemes", {})
        if self.scheme_name not in schemes:
            return
        for name, scheme in self._other_schemes.items():
            schemes[name] = scheme.model_dump(mode="json", by_alias=True, exclude_none=True)
        operations = [
            operation
            for path in document.get("paths", {}).values()
            for operation in path.values()
            if isinstance(operation, dict)
        ]
        for operation in operations:
            either = operation.get("security", [])
            for need in list(either):
                if self.scheme_name in need:
                    others = [{name: need[self.scheme_name]} for name in self._other_schemes]
                    either += [other for other in others if other not in either]

    def refusal(self, error: AuthenticationError | UnavailableError) -> RefusedError:
        """The answer to a request that may not pass, with the headers that belong to it."""
        return RefusedError(error, self._gate.challenge.headers(error))


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
