"""FastAPI's side: a dependency that lets a request pass or answers why not.

Knows FastAPI and the collection of keys. (No postponed annotations here: FastAPI reads them.)
"""

import copy
import functools
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Concatenate, Final, Self, TypeVar, overload
from weakref import WeakSet

from fastapi import APIRouter, FastAPI
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from keylatch import bounds, challenges, either, mounts, owners, router, schemes, variants
from keylatch import openapi as openapi_document
from keylatch.calling import give
from keylatch.door import Door
from keylatch.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidKeyError,
    UnavailableError,
)
from keylatch.gate import Gate
from keylatch.keys import APIKeys
from keylatch.lasting import while_passes
from keylatch.limits import RateLimitRule
from keylatch.records import APIKey
from keylatch.refusals import (
    ClosedError,
    RefusedError,
    problem_handler,
    unavailable_error_handler,
)
from keylatch.variants import Beside, CarriedAPIKey, OptionalAPIKey

if TYPE_CHECKING:
    from fastapi.openapi.models import SecurityBase as Scheme

__all__ = [
    "APIKeyAuth",
    "CarriedAPIKey",
    "ClosedError",
    "OptionalAPIKey",
    "RefusedError",
    "keys_router",
    "problem_handler",
    "unavailable_error_handler",
]

T = TypeVar("T")

# Seconds between two looks at a key.
_OFTEN: Final = 0.01
_SELDOM: Final = 60.0


class APIKeyAuth(SecurityBase):
    """A dependency: ``Annotated[APIKey, Security(auth, scopes=["items:read"])]``.

    Takes the token from the places that are named here, and from no other. Answers 401, 403, 400,
    429 or 503 as RFC 6750, RFC 6585 and RFC 9110 have it. Routes that manage keys answer 503 as
    well with :func:`unavailable_error_handler`. A WebSocket is refused before it is accepted: with
    the same answer if the server can send it, else it is closed with code 1008, or 1013 if it
    should come back later.

    The key is verified when a request comes. What goes on for long, such as a WebSocket or a stream
    of events, looks again with :meth:`again` or :meth:`while_valid`.

    Answers to a key in its grace period say so, with ``Deprecation`` and ``Sunset``: those that
    FastAPI makes of what a route returns. The middleware adds them to all others as well, such as
    a ``Response`` that a route makes itself.

    The OpenAPI document shows one scheme for a dependency, which is all that FastAPI has a place
    for; an application with ``lifespan=keys.lifespan`` shows one for each source and every answer
    as well, and so do those that are mounted in it. It does not start if two different dependencies
    of one document have one ``scheme_name``.

    Args:
        keys: The collection that the keys belong to.
        bearer: Whether ``Authorization: Bearer`` may carry the token.
        headers: Other headers that may; their whole value is the token.
        cookie: The name of a cookie that may. WARNING: a browser sends it with requests that other
            sites make, too (CSRF), and when they open a WebSocket. Set it with ``HttpOnly``,
            ``Secure`` and ``SameSite=Lax`` or ``Strict``, best under a name that begins with
            ``__Host-``; let no GET change anything; and where a route that changes something, or a
            WebSocket, can be reached from a sibling domain, check ``Origin`` or a CSRF token.
        query: The name of a query parameter that may. WARNING: query strings stand in the access
            logs of servers and proxies, in browser histories, in ``Referer`` headers and in what
            people copy. Only for clients that can send nothing else, such as ``EventSource`` and
            ``WebSocket`` in browsers, and best with keys that live for minutes.
        realm: What the keys are for, told to clients in ``WWW-Authenticate``.
        scheme_name: What the scheme is called in the OpenAPI document.
        rate_limit: How many requests each key may send, in each process: a ``keylatch.RateLimit``,
            or a function that takes the APIKey and returns one, or None for none, such as that of
            its plan. It is called for each request, in the event loop; what it raises is raised.
            Further requests are answered 429. A request counts once, however many dependencies ask
            for its key, and only if its key may pass the first of them; a WebSocket counts when it
            comes. Each APIKeyAuth has a limit of its own and counts for itself. If the collection
            has a clock of its own, the limit goes by that.

    Raises:
        ConfigurationError: Nothing may carry the token, or a name is not one, or the limit is none.

    Attributes:
        door: Where requests are let in; what stands beside the dependency asks there, too.
    """

    def __init__(
        self,
        keys: APIKeys,
        *,
        bearer: bool = True,
        headers: Sequence[str] = ("X-API-Key",),
        cookie: str | None = None,
        query: str | None = None,
        realm: str = "api",
        scheme_name: str = "APIKey",
        rate_limit: RateLimitRule | None = None,
    ) -> None:
        gate = Gate(
            keys,
            bearer=bearer,
            headers=headers,
            cookie=cookie,
            query=query,
            realm=realm,
            rate_limit=rate_limit,
        )
        self._bearer, self._realm = bearer, realm
        self.scheme_name: str = scheme_name
        self.model: Scheme
        self.model, *others = schemes.of_sources(
            bearer=bearer, headers=gate.headers, cookie=cookie, query=query
        )
        self._other_schemes = schemes.named(scheme_name, others)
        self.door: Door = Door(gate)
        self._documented: WeakSet[FastAPI] = WeakSet()
        keys.on_startup(self._document)

    def __repr__(self) -> str:
        return f"APIKeyAuth({self.keys!r})"

    def over(self, keys: APIKeys) -> Self:
        """The same dependency over another collection: what a test puts in its place.

        It is a copy, of the same class and with the same limit, and has counted nothing.
        """
        gate = self.door.gate
        other = copy.copy(self)
        other.door = Door(
            Gate(
                keys,
                bearer=self._bearer,
                headers=gate.headers,
                cookie=gate.cookie,
                query=gate.query,
                realm=self._realm,
                rate_limit=None if gate.limiter is None else gate.limiter.rule,
            ),
            self.door.stands_for,
        )
        other._documented = WeakSet()  # noqa: SLF001 - its own class
        keys.on_startup(other._document)  # noqa: SLF001
        return other

    def headers_of(self, token: str) -> dict[str, str]:
        """The header that carries a token to the routes that ask for it.

        Empty if none can: see :meth:`query_of`.
        """
        gate = self.door.gate
        if self._bearer:
            return {"Authorization": f"Bearer {token}"}
        if gate.headers:
            return {gate.headers[0]: token}
        return {} if gate.cookie is None else {"Cookie": f"{gate.cookie}={token}"}

    def query_of(self, token: str) -> dict[str, str]:
        """The query parameter that carries a token, without escapes, if no header can."""
        query = self.door.gate.query
        return {} if query is None or self.headers_of(token) else {query: token}

    @property
    def keys(self) -> APIKeys:
        """The collection that the keys belong to."""
        return self.door.gate.keys

    async def __call__(
        self,
        connection: HTTPConnection,
        scopes: SecurityScopes,
        response: Response = None,  # type: ignore[assignment] # FastAPI has no other way to say it
    ) -> APIKey:
        """Verifies the request's key, if no ``keylatch.asgi.APIKeyMiddleware`` has done so before.

        Raises:
            RefusedError: It may not pass; FastAPI answers with that.
            ClosedError: The same for a WebSocket that cannot be answered; FastAPI closes it.
        """
        return await self.door.ask(connection, scopes, response)

    async def again(self, connection: HTTPConnection, *, scopes: Iterable[str] = ()) -> APIKey:
        """Verifies the key of a request that goes on, as things are now.

        ``await auth.again(websocket)``, every second or before each message. A key that was
        revoked, has expired or has lost a scope meanwhile passes no more. All scopes count that
        this dependency was asked for on the way, those of routers among them. It costs what a
        request costs, and counts as no further use, but for once in five minutes, when the cache
        asks the database anew. A request without a key is refused: with
        ``auth.optional``, look again only where there is one.

        Where a test has put another APIKeyAuth in this one's place, that one is asked; a function
        there gives the key.

        Args:
            connection: The request, or the WebSocket.
            scopes: Further scopes, for what is to be done now.

        Raises:
            RefusedError: It may not pass any more; FastAPI answers that, if no answer has begun.
            ClosedError: The same for an accepted WebSocket; FastAPI closes it.
            ValueError: A scope is malformed.
        """
        required = bounds.scopes(scopes)
        auth = variants.asked(self, connection)
        if not variants.asks(auth):
            return await give(auth)  # type: ignore[no-any-return] # whatever a test gives
        return await auth.door.again(connection, required)

    def while_valid(
        self,
        connection: HTTPConnection,
        events: AsyncIterable[T],
        *,
        scopes: Iterable[str] = (),
        every: float = 1.0,
    ) -> AsyncIterator[T]:
        """The events of a stream, for as long as the key may pass.

        ``async for event in auth.while_valid(websocket, feed())``, or with the ``request`` in a
        stream of server-sent events. Before each event, and every second while none comes, the key
        is verified by :meth:`again`; where it is in doubt, the stream ends as well. A source that
        waits is cancelled.

        Args:
            connection: The request, or the WebSocket.
            events: Where they come from; ``websocket.iter_text()``, for one, is such a source.
            scopes: Further scopes that the events need.
            every: Seconds from one look to the next, 0.01 to 60.

        Returns:
            The events. Those of a request end; a WebSocket is closed:

        Raises:
            ClosedError: The WebSocket's key may not pass any more; FastAPI closes it with 1008,
                or with 1013 if there is no telling.
            ConfigurationError: ``every`` is outside its bounds.
            ValueError: A scope is malformed.
        """
        if not _OFTEN <= every <= _SELDOM:
            raise ConfigurationError(f"every, in seconds, must be {_OFTEN} to {_SELDOM}")
        return while_passes(
            functools.partial(self.again, connection, scopes=bounds.scopes(scopes)),
            events,
            every=every,
            # The answer has begun, so that nothing else can be said.
            ending=() if connection.scope["type"] == "websocket" else (RefusedError,),
        )

    @property
    def optional(self) -> OptionalAPIKey:
        """A dependency that gives None where a request carries no key.

        ``Annotated[APIKey | None, Security(auth.optional)]``. A key that may not pass is refused
        all the same. A request without one counts as ``missing_key`` in ``keys.health()``.
        """
        return OptionalAPIKey(self)

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], AsyncIterator[T | None]]
    ) -> Callable[..., Awaitable[T]]: ...

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], Iterator[T | None]]
    ) -> Callable[..., Awaitable[T]]: ...

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], Awaitable[T | None]]
    ) -> Callable[..., Awaitable[T]]: ...

    @overload
    def owner(
        self, load: Callable[Concatenate[str, ...], T | None]
    ) -> Callable[..., Awaitable[T]]: ...

    def owner(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """A dependency that gives whom a request's key belongs to, as the application has them.

        With ``async def user(owner: str, session: Annotated[Session, Depends(session)])`` that
        finds a user, ``Annotated[User, Security(auth.owner(user), scopes=["items:read"])]``
        verifies the key, and then finds its user. Further parameters are dependencies, as ever.

        Args:
            load: Finds an owner by ``key.owner``; None if there is none. One that is not
                ``async`` runs in a thread. It returns the owner, or yields it, and goes on after
                the request then.

        Returns:
            The dependency. A key without an owner, or whose owner is not found, is answered like
            an invalid one.

        Raises:
            TypeError: ``load`` takes no owner.
        """

        def nobody(connection: HTTPConnection) -> Exception:
            return self.door.refused(connection, InvalidKeyError())

        return owners.dependency(load, self, refuse=nobody)

    @property
    def carried(self) -> CarriedAPIKey:
        """What :meth:`either` asks for the key, for a test that puts another in its place."""
        return CarriedAPIKey(self)

    @overload
    def either(
        self, other: Callable[..., AsyncIterator[T | None]]
    ) -> Callable[..., Awaitable[APIKey | T]]: ...

    @overload
    def either(
        self, other: Callable[..., Iterator[T | None]]
    ) -> Callable[..., Awaitable[APIKey | T]]: ...

    @overload
    def either(
        self, other: Callable[..., Awaitable[T | None]]
    ) -> Callable[..., Awaitable[APIKey | T]]: ...

    @overload
    def either(self, other: Callable[..., T | None]) -> Callable[..., Awaitable[APIKey | T]]: ...

    def either(self, other: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A dependency that takes a key, or what another scheme gives, such as the user of a JWT.

        ``Annotated[APIKey | User, Security(auth.either(user), scopes=["items:read"])]``, where
        ``user`` is a dependency of the application's own that gives None where it cannot tell,
        by ``OAuth2PasswordBearer(..., auto_error=False)`` for one.

        A request that carries a key of ours is decided by the key alone: a wrong, expired or
        revoked one is refused, whatever else is there, and so is a doubt (503). It is one of ours
        if it stands in a place that only ours have, or begins with a prefix of the collection; or
        if the collection takes imported tokens and knows it. Every other request goes to ``other``,
        and is refused like one without a key if that gives None. What ``other`` raises is its own
        answer.

        - ``other``, and those of its dependencies that see a credential, are not called with a key:
          no other scheme ever gets to see one. The rest of its dependencies are resolved as ever.
        - The scopes are asked of the key. What they mean for the other scheme is for ``other`` to
          say, which may take ``SecurityScopes``.
        - With ``imported_tokens=True`` each token of the other scheme costs one lookup of those
          that unsealed tokens share, unless it has more than 512 characters: raise
          ``unsealed_lookups``, or leave ``bearer`` to the other scheme with ``bearer=False``.

        Args:
            other: The dependency: a function, a class, a callable object or a generator.
        """
        return either.Either(self.carried, other)

    def _document(self, app: object) -> None:
        """Has an application's OpenAPI documents show all sources and answers of ours.

        Raises:
            ConfigurationError: One would show another one for this one.
        """
        for each in mounts.applications(app):
            self._document_one(each)

    def _document_one(self, app: FastAPI) -> None:
        if app in self._documented:
            return
        if app.openapi_url is not None:
            self._refuse_namesakes(app)
        self._documented.add(app)
        document = app.openapi

        def openapi() -> dict[str, Any]:
            written = document()
            handler = app.exception_handlers.get(RefusedError)
            openapi_document.complete(
                written,
                scheme_name=self.scheme_name,
                others=self._other_schemes,
                limited=set() if self.door.gate.limiter is None else self._operations(app),
                media_type=(
                    challenges.PROBLEM_JSON if handler is problem_handler else challenges.JSON
                ),
            )
            return written

        # FastAPI's own way of extending the document.
        app.openapi = openapi  # type: ignore[method-assign]

    def _operations(self, app: FastAPI) -> set[tuple[str, str]]:
        """Path and method of each route that asks this one."""
        found = schemes.operations(app)
        return {operation for operation, each in found if _auth_of(each) is self}

    def _refuse_namesakes(self, app: FastAPI) -> None:
        asking = (_auth_of(each) for each in schemes.dependencies(app))
        found = {auth for auth in asking if auth is not None}
        if self not in found:
            return
        for each in found:
            if each.scheme_name == self.scheme_name and not each.door.gate.like(self.door.gate):
                raise ConfigurationError(
                    f"two APIKeyAuth of different keys or sources are both {self.scheme_name!r} in "
                    "one OpenAPI document: give one of them a scheme_name of its own, such as "
                    'scheme_name="Partner"'
                )

    def refusal(self, error: AuthenticationError | UnavailableError) -> RefusedError:
        """The answer to a request that may not pass, with the headers that belong to it."""
        return self.door.refusal(error)


def _auth_of(dependency: object) -> APIKeyAuth | None:
    """Which dependency of ours another one belongs to."""
    dependency = either.stands_for(dependency)
    if isinstance(dependency, Beside):
        dependency = dependency.auth
    return dependency if isinstance(dependency, APIKeyAuth) else None


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
