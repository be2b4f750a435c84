"""No input to any public function of the native core raises anything but what it documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylatch import Hasher, SecretRing, Token, mint, parse
from keylatch._native import TokenHeaders
from keylatch.errors import (
    AmbiguousCredentialsError,
    ConfigurationError,
    InvalidHashError,
    InvalidKeyError,
    InvalidTokenError,
    KeylatchError,
    MissingKeyError,
)

SERVER_SECRET = SecretRing.generate()
RING = SecretRing(SERVER_SECRET)
HASHER = Hasher(RING)
TOKEN = mint("acme_live", RING)
STORED = HASHER.hash(TOKEN)
ARGON2 = Hasher(RING, scheme="argon2id", memory_kib=7168, iterations=1).hash(TOKEN)
HEADERS = TokenHeaders()
REFUSALS = (MissingKeyError, InvalidKeyError, AmbiguousCredentialsError)

NASTY = ["", "\0", "\ud800", "\udcff", "a\ud800", "\U0010ffff", "\u2028", "A" * 2**20, "é" * 2**20]
# All Unicode, lone surrogates among it.
TEXTS = st.text(st.characters()) | st.sampled_from(NASTY)
# One past each end of the integers that C, Rust and the policy know, and far beyond.
EDGES = [0, 1, 4, 5, 10, 11, 7167, 7168, 131072, 131073, 2**31, 2**32, 2**32 + 7168, 2**64, 10**400]
NUMBERS = st.integers() | st.sampled_from(EDGES + [-edge for edge in EDGES])
ANYTHING = (
    TEXTS
    | NUMBERS
    | st.none()
    | st.booleans()
    | st.floats()
    | st.binary()
    | st.lists(TEXTS | st.binary(), max_size=3)
    | st.dictionaries(TEXTS, NUMBERS, max_size=2)
    | st.sampled_from([RING, HASHER, HEADERS, parse(TOKEN), object(), str, mint, bytearray(b"k1")])
)


def raw(text):
    """Bytes of a text, whatever it holds."""
    return text.encode("utf-8", "surrogatepass")


# Each takes a text of any content, and may raise exactly these.
OF_TEXT = {
    "mint": (lambda text: mint(text, RING), [ValueError]),
    "Token.mint": (lambda text: Token.mint(text, RING), [ValueError]),
    "parse": (parse, [InvalidTokenError]),
    "SecretRing": (SecretRing, [ConfigurationError]),
    "SecretRing of one kid": (lambda text: SecretRing(f"k1:{text}"), [ConfigurationError]),
    "SecretRing.generate": (SecretRing.generate, [ConfigurationError]),
    "SecretRing.from_env": (SecretRing.from_env, [ConfigurationError]),
    "Hasher": (lambda text: Hasher(RING, scheme=text), [ConfigurationError]),
    "Hasher.hash": (HASHER.hash, [InvalidTokenError]),
    "Hasher.verify, token": (lambda text: HASHER.verify(text, STORED), []),
    "Hasher.verify, argon2id": (lambda text: HASHER.verify(text, ARGON2), []),
    "Hasher.verify, stored": (lambda text: HASHER.verify(TOKEN, text), [InvalidHashError]),
    "Hasher.needs_rehash": (HASHER.needs_rehash, [InvalidHashError]),
    "TokenHeaders": (lambda text: TokenHeaders(names=[text]), [ConfigurationError]),
    "extract, name": (lambda text: HEADERS.extract([(raw(text), b"x")]), REFUSALS),
    "extract, bearer": (
        lambda text: HEADERS.extract([(b"authorization", b"Bearer " + raw(text))]),
        REFUSALS,
    ),
    "extract, own": (lambda text: HEADERS.extract([(b"x-api-key", raw(text))]), REFUSALS),
}
# What each of these is, with a few characters replaced by others.
DAMAGED = {
    "parse": TOKEN,
    "SecretRing": SERVER_SECRET,
    "SecretRing of one kid": SERVER_SECRET.partition(":")[2],
    "Hasher.hash": TOKEN,
    "Hasher.verify, token": TOKEN,
    "Hasher.verify, stored": STORED,
    "Hasher.needs_rehash": ARGON2,
    "extract, bearer": TOKEN,
    "extract, own": TOKEN,
}
# Each takes any object at all.
OF_ANYTHING = {
    "mint": lambda value: mint(value, RING),
    "mint, ring": lambda value: mint("acme", value),
    "Token.mint": lambda value: Token.mint(value, RING),
    "Token.mint, ring": lambda value: Token.mint("acme", value),
    "parse": parse,
    "sealed_by": parse(TOKEN).sealed_by,
    "SecretRing": SecretRing,
    "SecretRing.generate": SecretRing.generate,
    "SecretRing.from_env": SecretRing.from_env,
    "Hasher": Hasher,
    "Hasher, scheme": lambda value: Hasher(RING, scheme=value),
    "Hasher, memory_kib": lambda value: Hasher(RING, memory_kib=value),
    "Hasher, iterations": lambda value: Hasher(RING, iterations=value),
    "Hasher, parallelism": lambda value: Hasher(RING, parallelism=value),
    "Hasher.hash": HASHER.hash,
    "Hasher.verify, token": lambda value: HASHER.verify(value, STORED),
    "Hasher.verify, stored": lambda value: HASHER.verify(TOKEN, value),
    "Hasher.needs_rehash": HASHER.needs_rehash,
    "TokenHeaders, bearer": lambda value: TokenHeaders(bearer=value),
    "TokenHeaders, names": lambda value: TokenHeaders(names=value),
    "TokenHeaders, name": lambda value: TokenHeaders(names=["x-a", value]),
    "extract": HEADERS.extract,
    "extract, pair": lambda value: HEADERS.extract([(b"cookie", b""), value]),
    "extract, name": lambda value: HEADERS.extract([(value, b"x")]),
    "extract, value": lambda value: HEADERS.extract([(b"cookie", value)]),
}
DOCUMENTED = {ValueError, ConfigurationError, InvalidTokenError, InvalidHashError, *REFUSALS}


def error_of(call, *arguments):
    """What a call refuses with, or None. Anything else that it raises passes through."""
    try:
        call(*arguments)
    except (KeylatchError, TypeError, ValueError) as error:
        return error
    return None


def is_brief(error):
    """Whether an error shows little, and carries no other one that may show the input."""
    return len(repr(error)) < 400 and (error is None or error.__context__ is None)


@pytest.mark.parametrize("name", OF_TEXT)
@given(text=TEXTS)
def test_any_text_is_taken_or_refused_as_documented(name, text):
    """A function of a text raises its own errors only, and they do not repeat the text."""
    call, documented = OF_TEXT[name]
    error = error_of(call, text)
    assert error is None or type(error) in documented
    assert is_brief(error)


@pytest.mark.parametrize("name", DAMAGED)
@given(other=TEXTS, places=st.tuples(st.integers(0, 120), st.integers(0, 120)))
def test_damaged_text_is_taken_or_refused_as_documented(name, other, places):
    """The same with a real token, ring or stored hash of which some was replaced."""
    call, documented = OF_TEXT[name]
    whole = DAMAGED[name]
    error = error_of(call, whole[: min(places)] + other + whole[max(places) :])
    assert error is None or type(error) in documented
    assert is_brief(error)


@pytest.mark.parametrize("name", OF_ANYTHING)
@given(value=ANYTHING)
def test_any_object_is_taken_or_refused(name, value):
    """A wrong type is a TypeError, and what is of the right type raises what is documented."""
    error = error_of(OF_ANYTHING[name], value)
    assert error is None or type(error) in DOCUMENTED | {TypeError}
    assert is_brief(error)


@given(memory=NUMBERS, iterations=NUMBERS, parallelism=NUMBERS)
def test_any_cost_is_taken_or_refused(memory, iterations, parallelism):
    """A cost is within the policy, or it is a ConfigurationError however large it is."""
    error = error_of(
        lambda: Hasher(
            RING,
            scheme="argon2id",
            memory_kib=memory,
            iterations=iterations,
            parallelism=parallelism,
        )
    )
    within = 7168 <= memory <= 131072 and 1 <= iterations <= 10 and 1 <= parallelism <= 4
    assert type(error) is (type(None) if within else ConfigurationError)


@given(
    head=st.sampled_from(["$argon2id$v=19", "$argon2i$v=19", "$argon2id$v=16", "$hmac-sha256$v=1"]),
    names=st.permutations(["m", "t", "p", "keyid", "data"]),
    numbers=st.lists(NUMBERS, min_size=5, max_size=5),
    cut=st.integers(0, 5),
)
def test_any_parameters_of_a_stored_hash_are_taken_or_refused(head, names, numbers, cut):
    """Parameters in any order, of any size and number, are an error or a known cost."""
    fields = [f"{name}={number}" for name, number in zip(names, numbers, strict=True)]
    stored = f"{head}${','.join(fields[:cut])}${'A' * 22}${'A' * 43}"
    error = error_of(HASHER.needs_rehash, stored)
    if names[:cut] != ["m", "t", "p"] or head != "$argon2id$v=19":
        assert type(error) is InvalidHashError
    else:
        assert error is None or type(error) is InvalidHashError


def test_four_kibibytes_are_the_longest_token():
    """A longer text is no token: refused to hash, and simply wrong to verify."""
    longest = "é" * 2048
    assert HASHER.verify(longest, HASHER.hash(longest)) is True
    assert type(error_of(HASHER.hash, longest + "a")) is InvalidTokenError
    assert HASHER.verify(longest + "a", STORED) is False


def test_a_token_that_is_too_long_is_not_told_from_a_bad_hash():
    """A stored hash that cannot be verified is an error whatever the token is."""
    for token in ["", "a" * 5000, "\ud800", TOKEN]:
        with pytest.raises(InvalidHashError):
            HASHER.verify(token, "$hmac-sha256$v=1$kid=gone$" + "A" * 22 + "$" + "A" * 43)
        with pytest.raises(InvalidHashError):
            HASHER.verify(token, "nonsense")
