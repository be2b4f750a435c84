"""Refusals as FastAPI raises them, and what answers them. Knows FastAPI and the errors."""

from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler

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


async def unavailable_error_handler(request: Request, error: Exception) -> Response:
    """Answers as ``APIKeyAuth`` does where a route of the application's own meets a fault.

    A route that creates or changes keys raises ``UnavailableError`` when the database fails, and
    FastAPI makes 500 of that. With this it is 503 with ``Retry-After``::

        app.add_exception_handler(UnavailableError, unavailable_error_handler)
    """
    if not isinstance(error, UnavailableError):
        raise error
    return await http_exception_handler(request, RefusedError(error, challenges.retry_after(error)))


async def problem_handler(_request: Request, error: Exception) -> Response:
    """Answers a refusal as ``application/problem+json`` (RFC 9457), with a ``code`` for programs.

    For the whole application, and for routes of its own that meet a fault, too::

        app.add_exception_handler(RefusedError, problem_handler)
        app.add_exception_handler(UnavailableError, problem_handler)
    """
    if isinstance(error, UnavailableError):
        error = RefusedError(error, challenges.retry_after(error))
    if not isinstance(error, RefusedError):
        raise error
    body = challenges.body(error.error, challenges.PROBLEM_JSON)
    media_type = challenges.PROBLEM_JSON
    return Response(body, error.status_code, error.headers, media_type=media_type)
