"""The engine as Python sees it: what it takes, what it gives back, and threads that share it."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest

from keylatch import Hasher, SecretRing, Token
from keylatch._native import Engine, TokenHeaders
from keylatch.errors import (
    AmbiguousCredentialsError,
    AuthenticationError,
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidHashError,
    InvalidKeyError,
    MissingKeyError,
    RevokedKeyError,
)

RING = SecretRing(SecretRing.generate())
HASHER = Hasher(RING)
SOURCES = TokenHeaders()
NOW = 1_800_000_000_000_000


def engine(**options) -> Engine:
    """One whose cached rows count from now on."""
    settings = {"capacity": 1000, "max_staleness": 3_600_000_000, "unsealed_lookups": 50}
    made = Engine(RING, prefixes=["acme"], **(settings | options))
    made.heard(made.ticks())
    return made


def token() -> Token:
    """A new token."""
    return Token.mint("acme", RING)


def cache(made: Engine, its: Token, **edits):
    """Puts a key into the cache and returns what stands for it."""
    key = SimpleNamespace(id=its.key_id)
    said = {
        "key": key,
        "stored": HASHER.hash(its),
        "scopes": frozenset(),
        "expires_at": None,
        "revoked": False,
    }
    made.row(its.key_id, made.epoch(its.key_id), **(said | edits), keep=True)
    return key


def bearer(its: Token) -> list[tuple[bytes, bytes]]:
    """The headers of a request with that token."""
    return [(b"host", b"x"), (b"authorization", b"Bearer " + its.reveal().encode())]


def test_a_cached_key_comes_out_as_it_went_in():
    """The object itself, by raw headers and by the token."""
    made, its = engine(), token()
    key = cache(made, its)
    assert made.check(SOURCES, bearer(its)) is key
    assert made.check_token(its) is key
    made.close_usage()
    assert [count for _, count, _ in made.take_usage(10)] == [2]


def test_what_is_not_cached_comes_back_as_the_token():
    """For whoever asks the database."""
    made, its = engine(), token()
    found = made.check(SOURCES, bearer(its))
    assert type(found) is Token
    assert found.reveal() == its.reveal()
    assert made.admits(found)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], MissingKeyError),
        ([(b"authorization", b"Basic abc")], MissingKeyError),
        ([(b"authorization", b"Bearer x")], InvalidKeyError),
        ([(b"x-api-key", b"a"), (b"x-api-key", b"a")], AmbiguousCredentialsError),
        ([(b"authorization", b"Bearer a"), (b"x-api-key", b"b")], AmbiguousCredentialsError),
        ([(b"x-api-key", b"\xff" * 10)], InvalidKeyError),
        ([(b"x-api-key", b"a" * 5000)], InvalidKeyError),
    ],
)
def test_headers_without_a_token_are_refused(headers, error):
    """As lists of tuples, as lists of lists, and as whatever else yields pairs."""
    made = engine()
    for form in (headers, [list(pair) for pair in headers], tuple(headers), iter(headers)):
        with pytest.raises(error):
            made.check(SOURCES, form)
    assert sum(made.counts()[code] for code in (error.code,)) == 4


@pytest.mark.parametrize(
    "headers",
    [
        None,
        5,
        "abc",
        b"abc",
        [1],
        [(b"a",)],
        [(b"a", b"b", b"c")],
        [("a", "b")],
        [(b"a", None)],
        [(None, b"a")],
        [b"ab"],
        {b"a": b"b"},
    ],
)
def test_headers_that_are_none_are_a_type_error(headers):
    """Never a panic."""
    with pytest.raises(TypeError):
        engine().check(SOURCES, headers)


def test_scopes_are_compared_whole():
    """All that are needed must be there."""
    made, its = engine(), token()
    key = cache(made, its, scopes=frozenset({"items:read", "b"}))
    assert made.check_token(its, frozenset({"items:read"})) is key
    assert made.check_token(its, frozenset()) is key
    for required in ({"items"}, {"items:read:all"}, {"items:read", "c"}):
        with pytest.raises(InsufficientScopeError) as refused:
            made.check_token(its, frozenset(required))
        assert refused.value.required == required
        assert refused.value.granted == {"items:read", "b"}


@pytest.mark.parametrize("now", [-(2**63), -1, 0, 2**63 - 1])
def test_the_end_of_time_is_no_trouble(now):
    """Whatever the clock says, a key that has ended does not open."""
    made, its = engine(), token()
    cache(made, its, expires_at=-(2**63))
    with pytest.raises(ExpiredKeyError):
        made.check_token(its, None, now)
    with pytest.raises(OverflowError):
        made.check_token(its, None, 2**63)


def test_a_stored_hash_outside_the_policy_is_an_error():
    """It is found when the row is made, and the hash is not shown."""
    made, its = engine(), token()
    for stored in ("", "x", "$argon2id$v=19$m=1,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43, "\ud800"):
        with pytest.raises(InvalidHashError):
            cache(made, its, stored=stored)
    with pytest.raises(ValueError, match="16 characters") as refused:
        made.evict(its.reveal())
    assert its.reveal() not in str(refused.value)


def test_nothing_of_it_can_be_shown_or_pickled():
    """Neither the engine nor a row."""
    made, its = engine(), token()
    cache(made, its)
    row = made.cached(its)
    for each in (made, row):
        assert its.reveal()[-40:] not in repr(each)
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="holds a secret"):
                leak(each)


def test_a_thread_that_evicts_is_obeyed_by_all():
    """What was evicted before a check began, no thread lets pass, whoever loads it meanwhile."""
    made, its = engine(), token()
    stored = HASHER.hash(its)
    version, failures, stop = [0], [], threading.Event()
    lock = threading.Lock()

    def load() -> None:
        while not stop.is_set():
            epoch = made.epoch(its.key_id)
            key = SimpleNamespace(version=version[0])
            made.row(
                its.key_id,
                epoch,
                key=key,
                stored=stored,
                scopes=frozenset(),
                expires_at=None,
                revoked=False,
                keep=True,
            )

    def change() -> None:
        for _ in range(2000):
            with lock:
                version[0] += 1
                made.evict(its.key_id)
        stop.set()

    def check() -> None:
        while not stop.is_set():
            with lock:
                least = version[0]
            found = made.check_token(its)
            if type(found) is not Token and found.version < least:
                failures.append((found.version, least))

    threads = [threading.Thread(target=each) for each in (load, load, change, check, check, check)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []


def test_threads_count_every_use():
    """Whoever takes the counts, and puts some of them back."""
    made, tokens = engine(), [token() for _ in range(8)]
    for each in tokens:
        cache(made, each)
    taken: list[tuple[str, int, int]] = []

    def use() -> None:
        for number in range(4000):
            made.check_token(tokens[number % 8])

    def take() -> None:
        for number in range(500):
            made.close_usage()
            portion = made.take_usage(3)
            if number % 2:
                made.put_usage_back(portion)
            else:
                taken.extend(portion)

    threads = [threading.Thread(target=each) for each in (use, use, use, take, take)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    made.close_usage()
    taken += made.take_usage(1000)
    assert sum(count for _, count, _ in taken) == 12_000


def test_a_revoked_key_is_refused_as_such():
    """Only with the right secret, and by a name that programs know."""
    made, its = engine(), token()
    cache(made, its, revoked=True)
    with pytest.raises(RevokedKeyError):
        made.check_token(its)
    assert made.counts()["revoked_key"] == 1
    assert issubclass(RevokedKeyError, AuthenticationError)
