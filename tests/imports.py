"""What the tests of imported tokens share: a token, its id, and collections that accept it."""

import hashlib
import hmac
from base64 import urlsafe_b64decode
from typing import Any

from subject import SILENT

from keylatch import APIKeys, SecretRing
from keylatch.errors import KeylatchError
from keylatch.memory import MemoryStore
from keylatch.store import Store

K1, K2 = (SecretRing.generate(kid) for kid in ("k1", "k2"))
OLD = f"MV_SECRET_{hashlib.sha256(b'u1salt').hexdigest()}"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def digest(secret: str, token: str) -> str:
    """The id of an imported key, computed without keylatch."""
    encoded = secret.partition(":")[2]
    root = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    tag = hmac.digest(hmac.digest(root, b"keylatch/v1/import", "sha256"), token.encode(), "sha256")
    number = int.from_bytes(tag[:10], "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(15, -1, -1))


def collection(store: Store | None = None, secret: str = K1, **options: Any) -> APIKeys:
    """A collection that takes imported tokens, in memory if nothing else is said."""
    options = {"prefix": "acme_live", "imported_tokens": True} | SILENT | options
    return APIKeys(MemoryStore() if store is None else store, secret=secret, **options)


async def refusal(keys: APIKeys, token: str) -> type[KeylatchError] | None:
    """The kind of error that a token is answered with."""
    try:
        await keys.verify(token)
    except KeylatchError as error:
        return type(error)
    return None
