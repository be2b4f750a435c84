"""Which token a request carries, read plainly and slowly out of RFC 9110; and some to try it on.

Knows nothing of how the native code reads them, but for what a token itself looks like.
"""

import re

from hypothesis import strategies as st

from keylatch import parse
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    InvalidKeyError,
    InvalidTokenError,
    MissingKeyError,
)

LONGEST = 4096  # bytes of a header that is read at all
Headers = list[tuple[bytes, bytes]]

# Sections 5.6.2 (token) and 11.4 (credentials).
AUTHORIZATION = re.compile(rb"([\w!#$%&'*+.^`|~-]*)( *)(.*)", re.DOTALL)

NAMES = [b"authorization", b"Authorization", b"x-api-key", b"X-API-Key", b"x_api_key", b"cookie"]
PIECES = [b"Bearer", b"bEARER", b"Basic", b" ", b"\t", b",", b"=", b"\0", b"\xe9", b'"', b"a"]


def header_lists(*tokens: str) -> st.SearchStrategy[Headers]:
    """Headers that nearly carry one of these tokens, or do, or two."""
    whole = [token.encode() for token in tokens]
    pieces = st.sampled_from([*PIECES, b"Bearer ", whole[0], *whole])
    values = st.lists(pieces, max_size=5).map(b"".join)
    return st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=3)


def expected(headers: Headers) -> str | type[AuthenticationError]:
    """What the design asks for, written plainly and slowly."""
    credentials: set[bytes] = set()
    for source in (b"authorization", b"x-api-key"):
        values = [value for name, value in headers if name.lower() == source]
        if len(values) > 1:
            return AmbiguousCredentialsError
        credential = b"".join(values).strip(b" \t")
        if not credential:
            continue
        if source == b"authorization":
            scheme, blanks, rest = AUTHORIZATION.fullmatch(credential).groups()
            if scheme.lower() != b"bearer":
                continue
            credential = rest if blanks else b""
        credentials.add(credential if len(values[0]) <= LONGEST else b"")
    if len(credentials) > 1:
        return AmbiguousCredentialsError
    for credential in credentials:
        try:
            return parse(credential.decode("latin-1")).reveal()
        except InvalidTokenError:
            return InvalidKeyError
    return MissingKeyError
