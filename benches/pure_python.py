"""Tokens and stored hashes in pure Python: what the native core is measured against.

The same checks and the same results as the native core (tests/test_benches.py holds them
together), and each step in the fastest way that was measured. Knows nothing of keylatch.
"""

import hmac
import re
import secrets
import zlib
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
TAIL_LEN = 73
MAX_TOKEN_LEN = 97
MAX_CREDENTIAL_LEN = 4096

# Two digits at a time take half of the divisions.
PAIRS_62 = [first + second for first in BASE62 for second in BASE62]
PAIRS_32 = [first + second for first in BASE32 for second in BASE32]
# A byte of 248 or more would favour the first digits; `translate` deletes it.
DIGIT_OF_BYTE = bytes(ord(BASE62[byte % 62]) for byte in range(256))
BIASED = bytes(range(248, 256))

# Possessive quantifiers, and parts in place of the whole token, so that nothing backtracks.
is_prefix = re.compile(r"[A-Za-z][A-Za-z0-9]*+(?:_[A-Za-z0-9]++)*+").fullmatch
is_tail = re.compile(rf"_[{BASE32}]{{16}}_[{BASE62}]{{55}}").fullmatch
# The last character of each field is one whose spare bits are zero.
stored_fields = re.compile(
    r"\$hmac-sha256\$v=1\$kid=([a-z0-9]{1,8})"
    r"\$([A-Za-z0-9+/]{21}[AQgw])\$([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048])"
).fullmatch


class Token(NamedTuple):
    """A token, read."""

    text: str
    prefix: str
    key_id: str

    def __repr__(self) -> str:
        return f"<Token {self.prefix}_{self.key_id}_***>"


class SecretRing:
    """The server secrets, kept as HMACs that have absorbed their subkeys: copying is cheap."""

    def __init__(self, text: str) -> None:
        self.seals: dict[str, hmac.HMAC] = {}
        self.hashes: dict[str, hmac.HMAC] = {}
        for entry in text.split(","):
            kid, encoded = entry.split(":")
            secret = a2b_base64(encoded.translate({45: 43, 95: 47}) + "==")
            for macs, label in ((self.seals, b"seal"), (self.hashes, b"hash")):
                subkey = hmac.digest(secret, b"keylatch/v1/" + label, "sha256")
                macs[kid] = hmac.new(subkey, digestmod="sha256")
        self.active = next(iter(self.hashes))


def mint(prefix: str, ring: SecretRing) -> str:
    """Makes a new token."""
    if len(prefix) > MAX_TOKEN_LEN - TAIL_LEN or not is_prefix(prefix):
        raise ValueError("a prefix is 1 to 24 letters and digits")
    bits = int.from_bytes(secrets.token_bytes(10))
    key_id = "".join([PAIRS_32[bits >> shift & 1023] for shift in range(70, -1, -10)])
    secret = b""
    while len(secret) < 43:
        secret += secrets.token_bytes(64).translate(DIGIT_OF_BYTE, BIASED)
    sealed = f"{prefix}_{key_id}_{secret[:43].decode()}"
    mac = ring.seals[ring.active].copy()
    mac.update(sealed.encode())
    text = sealed + base62(int.from_bytes(mac.digest()[:8]) % 62**6)
    return text + base62(zlib.crc32(text.encode()))


def parse(text: str) -> Token:
    """Reads a token from the right, by fixed lengths."""
    end = len(text) - TAIL_LEN
    if not (
        1 <= end <= MAX_TOKEN_LEN - TAIL_LEN and is_prefix(text, 0, end) and is_tail(text, end)
    ):
        raise ValueError("not a token")
    if base62(zlib.crc32(text[:-6].encode())) != text[-6:]:
        raise ValueError("the token's checksum is wrong")
    return Token(text, text[:end], text[end + 1 : end + 17])


def hash_token(token: str, ring: SecretRing) -> str:
    """Makes the stored hash of a token."""
    message = token.encode()
    if not 1 <= len(message) <= MAX_CREDENTIAL_LEN:
        raise ValueError("a token to hash is 1 to 4096 bytes")
    salt = secrets.token_bytes(16)
    mac = ring.hashes[ring.active].copy()
    mac.update(salt + message)
    salt_text = b2a_base64(salt)[:22].decode()
    return (
        f"$hmac-sha256$v=1$kid={ring.active}${salt_text}${b2a_base64(mac.digest())[:43].decode()}"
    )


def verify(token: str, stored: str, ring: SecretRing) -> bool:
    """Tells whether a stored hash is the hash of this token."""
    fields = stored_fields(stored)
    if fields is None:
        raise ValueError("the stored hash is malformed")
    kid, salt, tag = fields.groups()
    known = ring.hashes.get(kid)
    if known is None:
        raise ValueError("the stored hash needs a server secret that is not in the ring")
    try:
        message = token.encode()
    except UnicodeEncodeError:
        return False
    if not 1 <= len(message) <= MAX_CREDENTIAL_LEN:
        return False
    mac = known.copy()
    mac.update(a2b_base64(salt + "==") + message)
    return hmac.compare_digest(mac.digest(), a2b_base64(tag + "="))


def base62(number: int) -> str:
    """Six base-62 digits."""
    return PAIRS_62[number // 3844**2] + PAIRS_62[number // 3844 % 3844] + PAIRS_62[number % 3844]
