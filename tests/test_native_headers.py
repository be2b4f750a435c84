"""Extraction of the token from raw ASGI headers."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from plain import expected, header_lists

from keylatch import SecretRing, mint
from keylatch._native import TokenHeaders
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ConfigurationError,
    MissingKeyError,
)

HOSTILE = json.loads((Path(__file__).parent / "hostile" / "headers.json").read_text())
RING = SecretRing(SecretRing.generate())
TOKEN = mint("acme", RING)
OTHER = mint("acme", RING)
PLAUSIBLE = header_lists(TOKEN, OTHER)


def outcome(headers, sources):
    """The token, or the kind of error."""
    try:
        return sources.extract(headers).reveal()
    except AuthenticationError as error:
        return type(error)


@pytest.mark.parametrize("case", HOSTILE["cases"], ids=lambda case: case["name"])
def test_hostile_headers_are_answered_as_listed(case):
    """Each case of the list gives the token, or an error of the status and code it names."""
    headers = [
        tuple(
            half.replace("{token}", TOKEN).replace("{other}", OTHER).encode("latin-1")
            for half in header
        )
        for header in case["headers"]
    ]
    found = outcome(headers, TokenHeaders())
    if case["status"] == 200:
        assert found == TOKEN
    else:
        assert (found.status, found.code) == (case["status"], case["code"])


@settings(max_examples=1000)
@given(headers=PLAUSIBLE)
@example(headers=[(b"authorization", b"Bearer"), (b"x-api-key", TOKEN.encode())])
@example(headers=[(b"authorization", b""), (b"authorization", b"Bearer " + TOKEN.encode())])
def test_headers_are_read_as_the_rfc_and_the_design_say(headers):
    """The native code agrees with a plain reading of RFC 9110 on any headers."""
    assert outcome(headers, TokenHeaders()) == expected(headers)


@pytest.mark.parametrize("kind", [tuple, list])
def test_headers_may_be_lists_or_tuples(kind):
    """Servers differ in the sequences that they pass."""
    headers = kind([kind([b"x-api-key", TOKEN.encode()])])
    assert outcome(headers, TokenHeaders()) == TOKEN
    assert outcome(iter(headers), TokenHeaders()) == TOKEN


def test_names_may_be_chosen():
    """Only the headers that were asked for count."""
    sources = TokenHeaders(bearer=False, names=["X-Acme-Key", "x-old-key"])
    token = TOKEN.encode()
    assert outcome([(b"x-acme-KEY", token)], sources) == TOKEN
    assert outcome([(b"x-old-key", token), (b"x-acme-key", token)], sources) == TOKEN
    assert outcome([(b"x-old-key", token), (b"x-acme-key", b"x")], sources) is (
        AmbiguousCredentialsError
    )
    assert outcome([(b"authorization", b"Bearer " + token)], sources) is MissingKeyError
    assert outcome([(b"x-api-key", token)], sources) is MissingKeyError
    assert outcome([(b"authorization", b"Bearer " + token)], TokenHeaders(names=[])) == TOKEN


@pytest.mark.parametrize(
    "options",
    [
        {"bearer": False, "names": []},
        {"names": [""]},
        {"names": ["x key"]},
        {"names": ["x-key:"]},
        {"names": ["x-kéy"]},
        {"names": ["x-\ud800"]},
        {"names": ["Authorization"]},
        {"names": ["x-key", "X-Key"]},
        {"names": [f"x-{number}" for number in range(9)]},
        {"names": [f"x-{number}" for number in range(200_000)]},
    ],
    ids=lambda options: ascii(options)[:40],
)
def test_names_that_are_none_are_refused(options):
    """A set of headers that cannot work is a ConfigurationError at once."""
    with pytest.raises(ConfigurationError, match=r"header|name"):
        TokenHeaders(**options)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        1,
        b"x-api-key",
        "x-api-key",
        {b"x-api-key": b"x"},
        [None],
        [(b"x-api-key",)],
        [(b"x-api-key", b"x", b"x")],
        [("x-api-key", b"x")],
        [(b"x-api-key", "x")],
        [(b"x-api-key", None)],
        [(b"x-api-key", bytearray(b"x"))],
        [{b"x-api-key": b"x", b"b": b"x"}],
    ],
    ids=repr,
)
def test_headers_that_are_no_pairs_of_bytes_are_refused(headers):
    """What no ASGI server sends is a TypeError, not a guess."""
    with pytest.raises(TypeError):
        TokenHeaders().extract(headers)
