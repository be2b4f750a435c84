"""What holds for every token and every stored hash."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keylatch import Hasher, SecretRing, Token, mint, parse
from keylatch.errors import InvalidHashError, InvalidTokenError

RING = SecretRing(",".join(SecretRing.generate(kid) for kid in ("k2", "k1")))
HASHER = Hasher(RING)
ARGON2 = Hasher(RING, scheme="argon2id", memory_kib=7168, iterations=1)
TOKEN = mint("acme_live", RING)
STORED = HASHER.hash(TOKEN)

PREFIXES = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,7}(_[A-Za-z0-9]{1,7}){0,2}", fullmatch=True)
TOKENS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1024)


@pytest.mark.parametrize("make", [mint, lambda *parts: Token.mint(*parts).reveal()])
@given(prefix=PREFIXES)
def test_mint_then_parse_is_the_identity(make, prefix):
    """A new token parses to the prefix it was made with, and is sealed by the active secret."""
    token = make(prefix, RING)
    parsed = parse(token)
    assert parsed.reveal() == token
    assert parsed.prefix == prefix
    assert token == f"{prefix}_{parsed.key_id}_{token[-55:]}"
    assert parsed.sealed_by(RING) == "k2"
    assert len(token) <= 97


@given(at=st.integers(0, len(TOKEN) - 1), other=st.characters())
def test_any_changed_character_is_refused(at, other):
    """A token with one character replaced, added or left out is no token."""
    changed = [
        TOKEN[:at] + other + TOKEN[at:],
        TOKEN[:at] + TOKEN[at + 1 :],
        TOKEN[:at] + other + TOKEN[at + 1 :],
    ]
    for text in changed:
        if text != TOKEN:
            with pytest.raises(InvalidTokenError):
                parse(text)


@given(token=TOKENS, other=TOKENS)
def test_a_hash_verifies_its_own_token_only(token, other):
    """Whatever a token is made of, its hash opens for it alone, and never looks the same twice."""
    assume(token != other)
    stored = HASHER.hash(token)
    assert HASHER.verify(token, stored) is True
    assert HASHER.verify(other, stored) is False
    assert HASHER.verify(token + "\0", stored) is False
    assert HASHER.needs_rehash(stored) is False
    assert HASHER.hash(token) != stored
    assert len(stored) <= 256


@given(token=TOKENS, other=TOKENS)
def test_an_argon2id_hash_verifies_its_own_token_only(token, other):
    """The same for argon2id, which either hasher verifies."""
    assume(token != other)
    stored = ARGON2.hash(token)
    assert HASHER.verify(token, stored) is True
    assert ARGON2.verify(other, stored) is False
    assert ARGON2.needs_rehash(stored) is False
    assert HASHER.needs_rehash(stored) is True
    assert len(stored) <= 256


@given(at=st.integers(0, len(STORED) - 1), other=st.characters())
def test_a_changed_hash_never_verifies(at, other):
    """A stored hash with one character replaced is an error or the hash of something else."""
    assume(STORED[at] != other)
    try:
        verified = HASHER.verify(TOKEN, STORED[:at] + other + STORED[at + 1 :])
    except InvalidHashError:
        verified = False
    assert verified is False


def test_rotation_of_the_secret_keeps_what_it_made():
    """A retired secret still tells seals and verifies, is due for a rehash, and may leave."""
    old, new = SecretRing.generate("old"), SecretRing.generate("new")
    token = mint("acme", SecretRing(old))
    stored = Hasher(SecretRing(old)).hash(token)
    rotated, left = SecretRing(f"{new},{old}"), SecretRing(new)
    assert parse(token).sealed_by(rotated) == "old"
    assert Hasher(rotated).verify(token, stored) is True
    assert Hasher(rotated).needs_rehash(stored) is True
    assert parse(token).sealed_by(left) is None
    assert Hasher(left).needs_rehash(stored) is True
    with pytest.raises(InvalidHashError, match="old"):
        Hasher(left).verify(token, stored)


def test_the_same_kid_with_another_secret_verifies_nothing():
    """A kid is a name only: what counts is the secret behind it."""
    other = SecretRing(",".join(SecretRing.generate(kid) for kid in ("k2", "k1")))
    assert parse(TOKEN).sealed_by(other) is None
    assert Hasher(other).verify(TOKEN, STORED) is False
    assert Hasher(other).verify(TOKEN, ARGON2.hash(TOKEN)) is False
