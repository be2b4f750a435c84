"""The native core against the vectors, and against Python's own hmac and zlib."""

import base64
import hmac
import json
import string
import zlib
from pathlib import Path

import pytest

from keylatch import Hasher, SecretRing, mint, parse
from keylatch.errors import InvalidTokenError

# An independent implementation wrote these.
VECTORS = json.loads((Path(__file__).parent / "vectors" / "keylatch-v1.json").read_text())
RING = SecretRing(VECTORS["secret_ring"])
KIDS = list(VECTORS["secrets_hex"])
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def ring_led_by(kid: str) -> SecretRing:
    """The ring of the vectors with the secret of that kid in front."""
    entries = VECTORS["secret_ring"].split(",")
    return SecretRing(",".join(sorted(entries, key=lambda entry: not entry.startswith(kid))))


def subkey(kid: str, label: str) -> bytes:
    """A key that is derived from a server secret, the plain way."""
    secret = bytes.fromhex(VECTORS["secrets_hex"][kid])
    return hmac.digest(secret, b"keylatch/v1/" + label.encode(), "sha256")


def base62(number: int) -> str:
    """Six digits."""
    return "".join(DIGITS[number // 62**place % 62] for place in reversed(range(6)))


def seal(kid: str, sealed: str) -> str:
    """The seal of everything before it, the plain way."""
    tag = hmac.digest(subkey(kid, "seal"), sealed.encode(), "sha256")
    return base62(int.from_bytes(tag[:8], "big") % 62**6)


def checksum(summed: str) -> str:
    """The checksum of everything before it, the plain way."""
    return base62(zlib.crc32(summed.encode()))


def b64(field: str) -> bytes:
    """Bytes out of base64 without padding."""
    return base64.b64decode(field + "=" * (-len(field) % 4), validate=True)


@pytest.mark.parametrize("kid", KIDS)
@pytest.mark.parametrize("label", ["seal", "hash", "argon2"])
def test_the_plain_subkeys_are_those_of_the_vectors(kid, label):
    """What the tests below compute with hmac is what the vectors hold."""
    assert subkey(kid, label).hex() == VECTORS["derived_hex"][kid][label]


@pytest.mark.parametrize("case", VECTORS["tokens"], ids=lambda case: case["key_id"])
def test_tokens_parse_to_their_parts(case):
    """A token falls into the parts that the vectors name, and its seal is told."""
    token = parse(case["token"])
    assert (token.prefix, token.key_id) == (case["prefix"], case["key_id"])
    assert token.sealed_by(RING) == case["sealed_by"]
    assert token.reveal() == case["token"]


@pytest.mark.parametrize("case", VECTORS["tokens"], ids=lambda case: case["key_id"])
def test_seals_and_checksums_are_what_hmac_and_zlib_compute(case):
    """The last twelve characters can be computed with nothing but the standard library."""
    token = case["token"]
    assert token[-12:-6] == seal(case["sealed_by"], token[:-12]) == case["seal"]
    assert token[-6:] == checksum(token[:-6]) == case["checksum"]


@pytest.mark.parametrize("kid", KIDS)
def test_new_tokens_are_sealed_as_hmac_and_zlib_say(kid):
    """A minted token carries the seal of the active secret, and the checksum of zlib."""
    ring = ring_led_by(kid)
    for _ in range(100):
        token = mint("acme_live", ring)
        assert token[-12:] == seal(kid, token[:-12]) + checksum(token[:-6])
        assert parse(token).sealed_by(RING) == kid


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=lambda case: case["why"])
def test_malformed_tokens_are_refused(case):
    """What is not in the format is no token."""
    with pytest.raises(InvalidTokenError):
        parse(case["token"])


@pytest.mark.parametrize("case", VECTORS["forged"], ids=lambda case: case["token"][:20])
def test_forged_tokens_are_sealed_by_none(case):
    """A right checksum makes a token, and only a server secret makes its seal."""
    token = parse(case["token"])
    assert token.prefix == case["prefix"]
    assert token.sealed_by(RING) is None


@pytest.mark.parametrize("case", VECTORS["hashes"], ids=lambda case: case["token"][:20])
def test_stored_hashes_verify_their_own_token_only(case):
    """A stored hash of the vectors opens for its token and for no other of them."""
    hasher = Hasher(RING)
    assert hasher.verify(case["token"], case["stored"]) is True
    assert hasher.verify(parse(case["token"]), case["stored"]) is True
    others = [other["token"] for other in VECTORS["tokens"] if other["token"] != case["token"]]
    assert not any(hasher.verify(other, case["stored"]) for other in others)


@pytest.mark.parametrize("kid", KIDS)
def test_hmac_tags_are_what_hmac_computes(kid):
    """The tag is HMAC-SHA256 of salt and token, in the vectors and in new hashes."""
    known = [(case["token"], case["stored"]) for case in VECTORS["hashes"] if case["kid"] == kid]
    hasher = Hasher(ring_led_by(kid))
    tokens = ["x", "ein Schlüssel", "\0", "a" * 4096, known[0][0]]
    for token, stored in known + [(token, hasher.hash(token)) for token in tokens]:
        _, scheme, version, parameters, salt, tag = stored.split("$")
        assert (scheme, version, parameters) == ("hmac-sha256", "v=1", f"kid={kid}")
        message = b64(salt) + token.encode()
        assert b64(tag) == hmac.digest(subkey(kid, "hash"), message, "sha256")


@pytest.mark.parametrize("case", VECTORS["argon2id"], ids=lambda case: str(case["kid"]))
def test_argon2id_strings_verify_their_own_token_only(case):
    """An argon2id string opens for its token, under its secret or under none."""
    hasher = Hasher(RING)
    assert hasher.verify(case["token"], case["stored"]) is True
    assert hasher.verify(case["token"] + " ", case["stored"]) is False
