"""What can go wrong, as exceptions. Knows nothing else of keylatch, but what a key is called.

No text here ever holds a token, a server secret or a stored hash.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, Literal

if TYPE_CHECKING:
    from keylatch.records import APIKey


class KeylatchError(Exception):
    """Anything that keylatch raises on purpose."""


class AuthenticationError(KeylatchError):
    """A request may not pass. The text is safe to show to the client.

    Attributes:
        status: The HTTP status that says so.
        code: A stable name for programs.
        key: Whose it was, for the operator, where the secret that came along is right: the key
            was revoked, has expired or lacks a scope. Otherwise None, since anyone can write a
            key id into a token.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    key: "APIKey | None" = None


class MissingKeyError(AuthenticationError):
    """The request carries no API key."""

    status = 401
    code = "missing_key"

    def __init__(self) -> None:
        super().__init__("API key missing: send one with the request")


class InvalidKeyError(AuthenticationError):
    """The key is malformed, or no such key exists, or its secret is wrong: which, is not told."""

    status = 401
    code = "invalid_key"

    def __init__(self) -> None:
        super().__init__("API key invalid: check that it was copied whole")


class ExpiredKeyError(AuthenticationError):
    """The right key, past its expiry."""

    status = 401
    code = "expired_key"

    def __init__(self) -> None:
        super().__init__("API key expired: use a new one")


class RevokedKeyError(AuthenticationError):
    """The right key, revoked."""

    status = 401
    code = "revoked_key"

    def __init__(self) -> None:
        super().__init__("API key revoked: use a new one")


class AmbiguousCredentialsError(AuthenticationError):
    """The request carries two keys, or the same header twice: which one counts is unclear."""

    status = 400
    code = "ambiguous_credentials"

    def __init__(self) -> None:
        super().__init__("More than one API key: send exactly one, once")


class InsufficientScopeError(AuthenticationError):
    """The right key, without a scope that is needed.

    Args:
        required: The scopes that are needed.
        granted: The scopes that the key has.
    """

    status = 403
    code = "insufficient_scope"

    def __init__(self, required: Iterable[str], granted: Iterable[str]) -> None:
        self.required: Final = frozenset(required)
        self.granted: Final = frozenset(granted)
        lacking = " ".join(sorted(self.required - self.granted))
        super().__init__(f"API key lacks a scope: use a key with {lacking}")


class RateLimitedError(AuthenticationError):
    """The right key, used too often: more than its limit allows. It is nothing against the key.

    Args:
        retry_after: Seconds until another attempt makes sense.
    """

    status = 429
    code = "rate_limited"

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"Too many requests with this API key: try again in {retry_after} s")


class UnavailableError(KeylatchError):
    """There is no telling now: the database, or what else is needed, did not answer.

    Args:
        reason: What failed and what to do, for the operator. Clients are shown
            ``public_text`` instead.
        retry_after: Seconds until another attempt makes sense.
    """

    status: ClassVar[int] = 503
    code: ClassVar[str] = "unavailable"
    public_text: ClassVar[str] = "API keys cannot be checked right now: try again"

    def __init__(self, reason: str, *, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class UnknownKeyError(KeylatchError):
    """No key has the id that a management call named."""

    def __init__(self) -> None:
        super().__init__(
            "no key has this id: pass the 16 characters of key.id, which also stand in the token "
            "behind its prefix"
        )


class KeyRequestError(KeylatchError, ValueError):
    """One of many keys cannot be made as requested, and so none was.

    Args:
        index: Which request, counted from 0.
        reason: What is wrong with it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        self.reason = reason
        super().__init__(f"request {index}, counted from 0: {reason}")


class DuplicateTokenError(KeylatchError, ValueError):
    """A token is one that a key has already, dead or alive, and so was not imported.

    Args:
        key_id: The key.
    """

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(f"the token was imported before, as key {key_id}: look at that one")


class KeyStateError(KeylatchError):
    """A key cannot be changed like this any more.

    Args:
        state: Why not: it is ``revoked``, ``expired`` or ``rotated``.
    """

    def __init__(self, state: Literal["revoked", "expired", "rotated"]) -> None:
        self.state: Final = state
        super().__init__(
            {
                "revoked": "the key is revoked, which is final: create a new one",
                "expired": "the key has expired, and stays so: create a new one",
                "rotated": "the key was rotated and lives no longer than its grace: change its "
                "successor instead (key.successor)",
            }[state]
        )


class ConfigurationError(KeylatchError, ValueError):
    """The application is set up wrongly; the text says what to change."""


class SchemaError(ConfigurationError):
    """The tables in the database are not those of this version; the text says what to run."""


class InvalidTokenError(KeylatchError, ValueError):
    """A text is no token: it is not in the format, or its checksum is wrong."""


class InvalidHashError(KeylatchError, ValueError):
    """A stored hash is malformed, outside the policy, or needs a server secret that is gone."""
