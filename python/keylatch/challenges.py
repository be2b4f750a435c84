"""What a request that may not pass is answered, as RFC 6750 and RFC 9110 have it.

Knows the errors; no framework, and no collection of keys.
"""

import json
import re
from http import HTTPStatus
from typing import Any, Final

from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ConfigurationError,
    ExpiredKeyError,
    InsufficientScopeError,
    MissingKeyError,
    RateLimitedError,
    RevokedKeyError,
    UnavailableError,
)

# What the body of an answer is.
JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
# How a WebSocket ends that cannot be answered: RFC 6455, section 7.4.1, and IANA's registry of
# close codes.
_POLICY_VIOLATION: Final = 1008
_TRY_AGAIN_LATER: Final = 1013
# The characters of a quoted-string (RFC 9110, section 5.6.4) that need no escape.
_REALM: Final = re.compile(r"[\x20!\x23-\x5b\x5d-\x7e]{1,64}")


class Challenge:
    """Tells a client in ``WWW-Authenticate`` what to send.

    Args:
        bearer: Whether ``Authorization: Bearer`` may carry the token.
        realm: What the keys are for.

    Raises:
        ConfigurationError: The realm would need escapes, or is too long or empty.
    """

    def __init__(self, *, bearer: bool, realm: str) -> None:
        if not _REALM.fullmatch(realm):
            raise ConfigurationError(
                "a realm is 1 to 64 printable ASCII characters without quotes or backslashes"
            )
        self._start = f'{"Bearer" if bearer else "APIKey"} realm="{realm}"'

    def headers(self, error: AuthenticationError | UnavailableError) -> dict[str, str]:
        """The headers of the answer, beside those that its body needs."""
        match error:
            case UnavailableError() | RateLimitedError():
                return retry_after(error)
            case MissingKeyError():
                challenge = self._start
            case AmbiguousCredentialsError():
                challenge = f'{self._start}, error="invalid_request"'
            case InsufficientScopeError():
                scope = " ".join(sorted(error.required))
                challenge = f'{self._start}, error="insufficient_scope", scope="{scope}"'
            case ExpiredKeyError() | RevokedKeyError():
                challenge = f'{self._start}, error="invalid_token", error_description="{error}"'
            case _:
                challenge = f'{self._start}, error="invalid_token"'
        return {"WWW-Authenticate": challenge}


def retry_after(error: UnavailableError | RateLimitedError) -> dict[str, str]:
    """The header that says when to come back. No other credential would help."""
    return {"Retry-After": str(error.retry_after)}


def close_code(error: AuthenticationError | UnavailableError) -> int:
    """What a WebSocket is closed with that cannot be answered, or not any more."""
    later = isinstance(error, UnavailableError | RateLimitedError)
    return _TRY_AGAIN_LATER if later else _POLICY_VIOLATION


def detail(error: AuthenticationError | UnavailableError) -> str:
    """What the client is told in words. What failed on our side is not its business."""
    return error.public_text if isinstance(error, UnavailableError) else str(error)


def body(error: AuthenticationError | UnavailableError, media_type: str = JSON) -> bytes:
    """The body of the answer, to the byte as FastAPI writes it.

    Args:
        error: Why it is refused.
        media_type: Either of those above.
    """
    document = {"detail": detail(error)} if media_type == JSON else problem(error)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def problem(error: AuthenticationError | UnavailableError) -> dict[str, Any]:
    """The same as RFC 9457 has it, with the error's code."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,  # what about:blank asks for, section 4.2.1
        "status": error.status,
        "detail": detail(error),
        "code": error.code,
    }
