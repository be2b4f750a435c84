"""Threads that share the native objects, with the GIL or without it: every answer is right."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from keylatch import Hasher, SecretRing, Token, mint, parse
from keylatch._native import TokenHeaders
from keylatch.errors import InvalidHashError, InvalidTokenError, MissingKeyError

THREADS = 8
RING = SecretRing(f"{SecretRing.generate('k2')},{SecretRing.generate('k1')}")
STRANGER = SecretRing(SecretRing.generate("k3"))
TOKEN = Token.mint("acme", RING)
# The cheapest that the policy allows.
CHEAP = {"scheme": "argon2id", "memory_kib": 7168, "iterations": 1, "parallelism": 1}
schemes = pytest.mark.parametrize("options", [{}, CHEAP], ids=["hmac-sha256", "argon2id"])

# What a process does once, at its first use: classes, the errors' types, names of attributes.
FIRST_USE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor

start = threading.Barrier(8)

def work(number):
    start.wait()
    from keylatch import Hasher, SecretRing, mint, parse
    from keylatch.errors import ConfigurationError, InvalidTokenError
    try:
        SecretRing.from_env("UNSET")
    except ConfigurationError:
        pass
    try:
        parse("no token")
    except InvalidTokenError:
        pass
    ring = SecretRing(SecretRing.generate())
    token = parse(mint("acme", ring))
    return Hasher(ring).verify(token, Hasher(ring).hash(token)) and token.sealed_by(ring) == "k1"

sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(work, range(8))) == [True] * 8
"""


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """What each thread returns for its number, after all of them were let go together."""
    start = threading.Barrier(THREADS)

    def wait_and_work(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_work, range(THREADS)))


@pytest.fixture
def _restless():
    """With the GIL, threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


restless = pytest.mark.usefixtures("_restless")


@restless
def test_no_token_is_minted_twice():
    """Tokens of many threads, minted under one ring, are all different and all sealed by it."""

    def work(number: int) -> list[str]:
        return [
            mint("acme", RING) if turn % 2 else Token.mint("acme", RING).reveal()
            for turn in range(2000)
        ]

    minted = list(chain.from_iterable(at_once(work)))
    assert len(set(minted)) == len({parse(token).key_id for token in minted}) == THREADS * 2000
    assert {parse(token).sealed_by(RING) for token in minted} == {"k2"}


@restless
def test_threads_share_a_ring_and_the_headers():
    """Each thread gets back the very tokens that it minted, whatever the others do."""
    headers = TokenHeaders()

    def work(number: int) -> None:
        prefix = f"acme{number}"
        for _ in range(1000):
            token = mint(prefix, RING)
            parsed = parse(token)
            assert (parsed.reveal(), parsed.prefix) == (token, prefix)
            assert (parsed.sealed_by(RING), parsed.sealed_by(STRANGER)) == ("k2", None)
            sent = [(b"x-api-key", token.encode()), (b"authorization", f"Bearer {token}".encode())]
            assert {headers.extract([header]).reveal() for header in sent} == {token}
            with pytest.raises(InvalidTokenError):
                parse(token[:-1])
            with pytest.raises(MissingKeyError):
                headers.extract([])

    at_once(work)


@restless
def test_threads_share_a_token():
    """All threads read from one token what a single one reads."""

    def read(token: Token) -> tuple[Any, ...]:
        sealed = token.sealed_by(RING), token.sealed_by(STRANGER)
        return token.reveal(), token.prefix, token.key_id, repr(token), repr(RING), sealed

    expected = {read(TOKEN)}
    for seen in at_once(lambda _: {read(TOKEN) for _ in range(2000)}):
        assert seen == expected


@restless
@schemes
def test_threads_share_a_hasher(options):
    """Threads that hash and verify at once with one hasher get only right answers."""
    hasher = Hasher(RING, **options)
    kept = hasher.hash(TOKEN)
    turns = 10 if options else 1000

    def work(number: int) -> list[str]:
        made = []
        for turn in range(turns):
            text = f"Schlüssel {number} {turn}"
            stored = hasher.hash(text)
            assert hasher.verify(text, stored) is True
            assert hasher.verify(TOKEN, stored) is False
            assert hasher.verify(TOKEN, kept) is True
            assert hasher.needs_rehash(stored) is False
            with pytest.raises(InvalidHashError):
                hasher.verify(text, stored[:-1])
            made.append(stored)
        return made

    made = list(chain.from_iterable(at_once(work)))
    assert len(set(made)) == THREADS * turns, "no two salts are the same"


@restless
@schemes
def test_what_others_let_go_of_lives_until_its_last_call_returns(options):
    """Threads that hold the only references use the object, drop it, and leave none behind."""
    ring = SecretRing(SecretRing.generate())
    before = sys.getrefcount(ring)
    held: list[tuple[Hasher, Token, str]] = []

    def work(number: int) -> bool:
        hasher, token, stored = held.pop()
        return hasher.verify(token, stored) and token.sealed_by(ring) == "k1"

    for _ in range(5 if options else 50):
        hasher, token = Hasher(ring, **options), Token.mint("acme", ring)
        held += [(hasher, token, hasher.hash(token))] * THREADS
        del hasher, token
        assert at_once(work) == [True] * THREADS
    assert sys.getrefcount(ring) == before, "every hasher gave its ring back, once"


@restless
def test_threads_drop_what_other_threads_made():
    """Objects that pass from thread to thread are freed wherever they end up."""
    ring = SecretRing(SecretRing.generate())
    before = sys.getrefcount(ring)
    passed: list[tuple[Hasher, SecretRing, Token]] = []

    def work(number: int) -> None:
        for _ in range(1000):
            passed.append((Hasher(ring), SecretRing(SecretRing.generate()), parse(TOKEN.reveal())))
            hasher, other, token = passed.pop(0)
            assert hasher.verify(token, hasher.hash(TOKEN)) is True
            assert token.sealed_by(other) is None

    at_once(work)
    assert passed == []
    assert sys.getrefcount(ring) == before


@restless
def test_headers_that_change_while_they_are_read():
    """A list of headers that another thread empties and fills gives the token or none."""
    sources = TokenHeaders()
    full = [(b"accept", b"*/*"), (b"x-api-key", TOKEN.reveal().encode())]
    headers = list(full)

    def work(number: int) -> set[str]:
        seen = set()
        for turn in range(2000):
            if number == 0:
                headers[:] = full if turn % 2 else []
                continue
            try:
                seen.add(sources.extract(headers).reveal())
            except MissingKeyError:
                seen.add("")
        return seen

    assert set().union(*at_once(work)) <= {TOKEN.reveal(), ""}


def test_threads_may_be_the_first_to_use_keylatch():
    """A process whose threads all import it, and fail, at once gets its classes only once."""
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True, timeout=60)


@pytest.mark.parametrize("verb", ["hash", "verify"])
def test_argon2id_lets_other_threads_run(verb):
    """While one thread is in argon2id, another one takes the interpreter."""
    hasher = Hasher(RING, **CHEAP)
    stored = hasher.hash(TOKEN)
    ready, go, ran = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        ready.set()
        go.wait()
        ran.set()

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    # No thread is made to give way now: the other one runs only if this one lets go by itself.
    sys.setswitchinterval(1000)
    try:
        go.set()
        for _ in range(200):
            hasher.hash(TOKEN) if verb == "hash" else hasher.verify(TOKEN, stored)
            if ran.is_set():
                break
        seen = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen
