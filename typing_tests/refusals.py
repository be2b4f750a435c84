"""What a type checker makes of the errors. It is checked, and never run."""

from typing import Literal, assert_type

from fastapi import Request, Response

from keylatch import APIKey
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ConfigurationError,
    DuplicateTokenError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidHashError,
    InvalidKeyError,
    InvalidTokenError,
    KeylatchError,
    KeyRequestError,
    KeyStateError,
    MissingKeyError,
    RateLimitedError,
    RevokedKeyError,
    SchemaError,
    UnavailableError,
    UnknownKeyError,
)
from keylatch.fastapi import (
    APIKeyAuth,
    RefusedError,
    problem_handler,
    unavailable_error_handler,
)


def refusals(error: AuthenticationError) -> None:
    """A request may not pass."""
    anyone: list[AuthenticationError] = [
        MissingKeyError(),
        InvalidKeyError(),
        ExpiredKeyError(),
        RevokedKeyError(),
        AmbiguousCredentialsError(),
        InsufficientScopeError(["items:read"], granted=[]),
        RateLimitedError(retry_after=1),
        error,
    ]
    assert_type(anyone, list[AuthenticationError])
    assert_type((error.status, error.code), tuple[int, str])
    assert_type(error.key, APIKey | None)
    lacking = InsufficientScopeError(["items:read"], granted=[])
    assert_type((lacking.required, lacking.granted), tuple[frozenset[str], frozenset[str]])
    assert_type(RateLimitedError(1).retry_after, int)


def faults(error: UnavailableError, state: KeyStateError) -> None:
    """A call failed, or was wrong."""
    assert_type((error.status, error.code), tuple[int, str])
    assert_type((UnavailableError("why").public_text, error.retry_after), tuple[str, int])
    assert_type(state.state, Literal["revoked", "expired", "rotated"])
    assert_type(KeyRequestError(0, "why").index, int)
    assert_type(KeyRequestError(0, "why").reason, str)
    assert_type(DuplicateTokenError("a key id").key_id, str)
    whatever: list[KeylatchError] = [error, state, UnknownKeyError()]
    wrong: list[ValueError] = [
        ConfigurationError(),
        SchemaError(),
        InvalidTokenError(),
        InvalidHashError(),
        KeyRequestError(0, "why"),
        DuplicateTokenError("a key id"),
    ]
    assert_type((whatever, wrong), tuple[list[KeylatchError], list[ValueError]])


async def answers(refused: RefusedError, request: Request, auth: APIKeyAuth) -> None:
    """What clients are answered."""
    assert_type(refused.error, AuthenticationError | UnavailableError)
    assert_type(auth.refusal(MissingKeyError()), RefusedError)
    assert_type(await problem_handler(request, refused), Response)
    assert_type(await unavailable_error_handler(request, UnavailableError("why")), Response)
