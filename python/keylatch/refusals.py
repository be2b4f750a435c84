"""Refusals as FastAPI raises them, and what answers them. Knows FastAPI and the errors."""

from typing import Any

from fastapi import HTTPException, Request, Response, WebSocket, WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.websockets import WebSocketState

from keylatch import challenges
from keylatch.errors import AuthenticationError, UnavailableError


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


class ClosedError(WebSocketException):
    """The end of a WebSocket that cannot be answered any more, as FastAPI raises it.

    It is accepted already, or the server cannot answer it but by closing it. FastAPI closes it with
    ``code``.

    Attributes:
        error: Why: an AuthenticationError or an UnavailableError.
        detail: The same in words, for the client.
        code: 1008, or 1013 if the client should come back later.
    """

    def __init__(self, error: AuthenticationError | UnavailableError) -> None:
        super().__init__(challenges.close_code(error))
        self.error = error
        self.detail: str = challenges.detail(error)


def can_be_answered(connection: HTTPConnection) -> bool:
    """Whether HTTP's answer can be given, or a WebSocket has to be closed."""
    if connection.scope["type"] != "websocket":
        return True
    accepted = (
        isinstance(connection, WebSocket)
        and connection.application_state is not WebSocketState.CONNECTING
    )
    return not accepted and "websocket.http.response" in (connection.scope.get("extensions") or {})


async def unavailable_error_handler(request: Request, error: Exception) -> Response:
    """Answers as ``APIKeyAuth`` does where a route of the application's own meets a fault.

    A route that creates or changes keys raises ``UnavailableError`` when the database fails, and
    FastAPI makes 500 of that. With this it is 503 with ``Retry-After``, and a WebSocket that was
    accepted is closed with 1013::

        app.add_exception_handler(UnavailableError, unavailable_error_handler)
    """
    if not isinstance(error, UnavailableError):
        raise error
    refused = RefusedError(error, challenges.retry_after(error))
    return _answer(request, refused, challenges.JSON)


async def problem_handler(request: Request, error: Exception) -> Response:
    """Answers a refusal as ``application/problem+json`` (RFC 9457), with a ``code`` for programs.

    For the whole application, and for routes of its own that meet a fault, too::

        app.add_exception_handler(RefusedError, problem_handler)
        app.add_exception_handler(UnavailableError, problem_handler)
    """
    if isinstance(error, UnavailableError):
        error = RefusedError(error, challenges.retry_after(error))
    if not isinstance(error, RefusedError):
        raise error
    return _answer(request, error, challenges.PROBLEM_JSON)


class _Close(Response):
    """Closes a WebSocket that cannot be answered."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": self._code, "reason": ""})


def _answer(connection: HTTPConnection, refused: RefusedError, media_type: str) -> Response:
    if not can_be_answered(connection):
        return _Close(challenges.close_code(refused.error))
    body = challenges.body(refused.error, media_type)
    return Response(body, refused.status_code, refused.headers, media_type=media_type)
