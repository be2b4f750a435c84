"""Refusals as FastAPI raises them, and what answers them. Knows FastAPI and the errors."""

from typing import overload

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
        code: 1008, or 1013 if the client should come back later.
    """

    def __init__(self, error: AuthenticationError | UnavailableError) -> None:
        super().__init__(challenges.close_code(error))
        self.error = error


def can_be_answered(connection: HTTPConnection) -> bool:
    """Whether HTTP's answer can be given, or a WebSocket has to be closed."""
    if connection.scope["type"] != "websocket":
        return True
    accepted = (
        isinstance(connection, WebSocket)
        and connection.application_state is not WebSocketState.CONNECTING
    )
    return not accepted and "websocket.http.response" in (connection.scope.get("extensions") or {})


@overload
async def unavailable_error_handler(request: Request, error: Exception) -> Response: ...


@overload
async def unavailable_error_handler(request: WebSocket, error: Exception) -> Response | None: ...


async def unavailable_error_handler(
    request: Request | WebSocket, error: Exception
) -> Response | None:
    """Answers as ``APIKeyAuth`` does where a route of the application's own meets a fault.

    A route that creates or changes keys raises ``UnavailableError`` when the database fails, and
    FastAPI makes 500 of that. With this it is 503 with ``Retry-After``, and a WebSocket that was
    accepted is closed with 1013::

        app.add_exception_handler(UnavailableError, unavailable_error_handler)
    """
    if not isinstance(error, UnavailableError):
        raise error
    refused = RefusedError(error, challenges.retry_after(error))
    return await _answer(request, refused, challenges.JSON)


@overload
async def problem_handler(request: Request, error: Exception) -> Response: ...


@overload
async def problem_handler(request: WebSocket, error: Exception) -> Response | None: ...


async def problem_handler(request: Request | WebSocket, error: Exception) -> Response | None:
    """Answers a refusal as ``application/problem+json`` (RFC 9457), with a ``code`` for programs.

    For the whole application, and for routes of its own that meet a fault, too::

        app.add_exception_handler(RefusedError, problem_handler)
        app.add_exception_handler(UnavailableError, problem_handler)
    """
    if isinstance(error, UnavailableError):
        error = RefusedError(error, challenges.retry_after(error))
    if not isinstance(error, RefusedError):
        raise error
    return await _answer(request, error, challenges.PROBLEM_JSON)


async def _answer(
    connection: HTTPConnection, refused: RefusedError, media_type: str
) -> Response | None:
    if can_be_answered(connection):
        body = challenges.body(refused.error, media_type)
        return Response(body, refused.status_code, refused.headers, media_type=media_type)
    if isinstance(connection, WebSocket):
        await connection.close(challenges.close_code(refused.error))
    return None
