"""Protects whole ASGI applications, of any framework. Knows ASGI and the collection of keys."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from keylatch import bounds, challenges
from keylatch.errors import (
    AuthenticationError,
    ConfigurationError,
    MissingKeyError,
    UnavailableError,
)
from keylatch.gate import Gate, last_gate, passed_key
from keylatch.keys import APIKeys
from keylatch.limits import RateLimitRule
from keylatch.paths import OpenPaths
from keylatch.records import APIKey

# Scope, receive and send. Each framework has types of its own for them, and none takes another's.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_PROTECTED: Final = ("http", "websocket")


class APIKeyMiddleware:
    """Asks for an API key before an application sees a request or a WebSocket.

    ``app.add_middleware(APIKeyMiddleware, keys=keys)`` in FastAPI and Starlette;
    ``app = APIKeyMiddleware(app, keys)`` around any other ASGI application. The collection is
    started as ever, by ``lifespan=keys.lifespan``; lifespan events pass through.

    Refusals are those of ``keylatch.fastapi.APIKeyAuth``, to the byte. A WebSocket is refused
    before it is accepted: with the same answer if the server can send it, else it is closed with
    code 1008, or 1013 if it should come back later. An ``APIKeyAuth`` or a further middleware
    within, of the same collection and the same sources, only looks at scopes; one of other
    sources or of another collection verifies for itself.

    Answers to a key in its grace period say so, with ``Deprecation`` and ``Sunset``, unless the
    application sends such headers of its own.

    OpenAPI documents show neither a scheme nor an answer of a middleware, which FastAPI does not
    know of. Where they are to, use the dependency instead of it or behind it:
    ``FastAPI(dependencies=[Security(auth)])`` asks for a key on every route.

    A CORS preflight carries no key and is refused like anything else. Put ``CORSMiddleware``
    outside, which answers preflights and lets browsers read refusals: in FastAPI and Starlette,
    add it after this one.

    Args:
        app: The application.
        keys: The collection that the keys belong to.
        scopes: The scopes that are needed everywhere, all of them.
        bearer: Whether ``Authorization: Bearer`` may carry the token.
        headers: Other headers that may; their whole value is the token.
        cookie: The name of a cookie that may; see ``APIKeyAuth`` for what else is to be done then.
        query: The name of a query parameter that may; see ``APIKeyAuth`` for why it seldom should.
        realm: What the keys are for, told to clients in ``WWW-Authenticate``.
        exclude: Paths that stay open, for every method and for WebSockets: whole ones such as
            ``/health``, or all that lies below one, such as ``/public/*``; as the application's
            routes have them, without the root path that it is mounted at. A request whose path
            has escapes, dots or empty segments needs a key all the same.
        problem_json: Whether refusals are ``application/problem+json`` (RFC 9457), with a
            ``code``, instead of FastAPI's ``{"detail": ...}``.
        rate_limit: How many requests each key may send, in each process; see ``APIKeyAuth``. Each
            middleware, and each ``APIKeyAuth``, has a limit of its own and counts for itself.

    Raises:
        ConfigurationError: Nothing may carry the token, or a name, the realm or a path to
            exclude is outside its format, or the limit is none.
        ValueError: A scope is malformed.
        TypeError: The scopes are not a list of names.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: APIKeys,
        *,
        scopes: Iterable[str] = (),
        bearer: bool = True,
        headers: Sequence[str] = ("X-API-Key",),
        cookie: str | None = None,
        query: str | None = None,
        realm: str = "api",
        exclude: Iterable[str] = (),
        problem_json: bool = False,
        rate_limit: RateLimitRule | None = None,
    ) -> None:
        self.app = app
        self._media_type = challenges.PROBLEM_JSON if problem_json else challenges.JSON
        self._gate = Gate(
            keys,
            bearer=bearer,
            headers=headers,
            cookie=cookie,
            query=query,
            realm=realm,
            rate_limit=rate_limit,
        )
        self._required = bounds.scopes(scopes)
        self._open = OpenPaths(exclude) or None

    def __repr__(self) -> str:
        return f"APIKeyMiddleware({self._gate.keys!r})"

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that are needed everywhere."""
        return self._required

    def leaves_open(self, template: str) -> bool:
        """Whether a route's path, such as ``/items/{id}``, may be one that is excluded."""
        return self._open is not None and self._open.may_have(template)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Lets the application answer, or refuses.

        Raises:
            ConfigurationError: The scope is of a type that nobody knows how to protect.
        """
        gate = self._gate
        try:
            try:
                if self._needs_key(scope):
                    key = gate.passed(scope, self._required)
                    verified = key is None
                    if key is None:
                        key = await gate.keys.authenticate(
                            scope["headers"],
                            sources=gate.sources,
                            scopes=self._required,
                            query=None if gate.query is None else scope.get("query_string"),
                        )
                    if gate.limiter is not None:
                        gate.count(scope, key)
                    if verified:
                        gate.remember(scope, key)
                        if key.successor is not None:
                            send = _adding(await gate.keys.grace_headers(key), send)
                    gate.note(scope, self._required)
            except (AuthenticationError, UnavailableError) as error:
                answer: Awaitable[None] = self._refuse(_way_out(scope), send, error)
            else:
                answer = self.app(scope, receive, send)
        finally:
            del scope  # a traceback with locals must not show the token
        await answer

    def _needs_key(self, scope: Mapping[str, Any]) -> bool:
        try:
            kind = scope["type"]
            if kind in _PROTECTED:
                return self._open is None or not self._open.has(scope)
        finally:
            del scope
        if kind == "lifespan":
            return False
        raise ConfigurationError(
            f"APIKeyMiddleware protects http and websocket, and cannot tell what {kind!r} is: "
            "put it around an application that is not asked for that"
        )

    async def _refuse(
        self, way_out: str | None, send: Any, error: AuthenticationError | UnavailableError
    ) -> None:
        if way_out is None:
            code = challenges.close_code(error)
            await send({"type": "websocket.close", "code": code, "reason": ""})
            return
        body = challenges.body(error, self._media_type)
        headers = self._gate.challenge.headers(error)
        headers |= {"content-length": str(len(body)), "content-type": self._media_type}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": f"{way_out}.start", "status": error.status, "headers": raw})
        await send({"type": f"{way_out}.body", "body": body, "more_body": False})


def verified_key(scope: Mapping[str, Any], keys: APIKeys) -> APIKey | None:
    """The key that the middleware has verified: ``verified_key(request.scope, keys)``.

    None on an excluded path, or if no middleware of this collection stands before.
    """
    try:
        return passed_key(scope, keys)
    finally:
        del scope


async def verify_again(scope: Mapping[str, Any], keys: APIKeys) -> APIKey:
    """Verifies the key anew that the middleware has verified, as things are now.

    For what goes on for long behind the middleware, such as a WebSocket or a stream of events:
    look again every second, or before each message, and end it on an error. All scopes that were
    asked for are looked at again. It costs what a request costs, and counts as no further use.

    Args:
        scope: The request's: ``await verify_again(websocket.scope, keys)``.
        keys: The collection.

    Raises:
        AuthenticationError: The key may not pass any more; or no middleware of this collection
            has verified one.
        UnavailableError: There is no telling.
    """
    try:
        gate = last_gate(scope, keys)
        if gate is None:
            raise MissingKeyError
        again = gate.again(scope)
    finally:
        del scope
    return await again


def _adding(headers: Mapping[str, str], send: Any) -> Any:
    """Adds headers to an answer, but none that the application sends itself."""

    async def adding(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            raw = list(message.get("headers", ()))
            sent = {bytes(name).lower() for name, _ in raw}
            more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            message["headers"] = raw + [each for each in more if each[0] not in sent]
        await send(message)

    return adding


def _way_out(scope: Mapping[str, Any]) -> str | None:
    """What the messages are called that make an answer; None if there can be none."""
    try:
        if scope["type"] == "http":
            return "http.response"
        can_answer = "websocket.http.response" in (scope.get("extensions") or {})
        return "websocket.http.response" if can_answer else None
    finally:
        del scope
