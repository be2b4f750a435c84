"""What an imported token is, what it may cost, and what never becomes one."""

import json
import re
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import K1, K2, OLD, collection, digest, refusal
from test_cache import Counted

from keylatch import Hasher, KeyRequest, SecretRing, Token, mint, parse
from keylatch.errors import (
    ConfigurationError,
    DuplicateTokenError,
    InvalidKeyError,
    InvalidTokenError,
    RevokedKeyError,
    UnavailableError,
    UnknownKeyError,
)
from keylatch.importing import TokenToImport
from keylatch.kids import kid_of
from keylatch.memory import MemoryStore
from keylatch.store import DuplicateKeyError

pytestmark = pytest.mark.anyio

VECTORS = Path(__file__).parent / "vectors"


async def test_a_flood_of_forgeries_stops_at_the_bucket():
    """What nothing tells from an imported token costs at most the lookups that were allowed."""
    for secret, names in ((K1, 1), (f"{K2},{K1}", 2)):
        async with collection(secret=secret, unsealed_lookups=20) as keys:
            old, native = await keys.import_token(OLD, name="ci"), await keys.create(name="ci")
            await keys.verify(OLD)
            store = Counted(keys._store)
            refused = [await refusal(keys, f"forged-{number:08}") for number in range(400)]
            assert store.loads in range(18, 26)
            assert refused.count(InvalidKeyError) in range(18 // names, 26 // names)
            assert refused.count(UnavailableError) == 400 - refused.count(InvalidKeyError)
            assert (await keys.verify(OLD)).id == old.id
            assert (await keys.verify(native.token)).id == native.key.id
            assert await refusal(keys, "forged-00000000") is InvalidKeyError  # it is known by now


async def test_without_being_asked_for_no_imported_token_opens():
    """The default: refused without the database, and nothing is imported."""
    store = MemoryStore()
    async with collection(store, K1) as keys:
        await keys.import_token(OLD, name="ci")
    async with collection(store, K1, imported_tokens=False) as keys:
        store = Counted(keys._store)
        for token in (OLD, keys._engine.present(mint("acme_other", SecretRing(K1)))):
            with pytest.raises(InvalidKeyError):
                await keys.verify(token)
        assert store.loads == 0
        with pytest.raises(ConfigurationError, match="imported_tokens=True"):
            await keys.import_token("hunter22", name="ci")


async def test_tokens_of_ours_are_not_imported():
    """One that the collection knows by itself, or that is mistyped; another prefix is another's."""
    store = MemoryStore()
    async with collection(store, K1) as keys:
        own = await keys.create(name="ci")
        mistyped = own.token[:-1] + ("1" if own.token[-1] == "0" else "0")
        with pytest.raises(ValueError, match="needs no import"):
            await keys.import_token(own.token, name="ci")
        with pytest.raises(ValueError, match="checksum is wrong"):
            await keys.import_token(mistyped, name="ci")
        with pytest.raises(InvalidKeyError):
            await keys.verify(mistyped)
        with pytest.raises(TypeError, match="must be a str"):
            await keys.import_token(OLD.encode(), name="ci")
        other = mint("acme_other", SecretRing(K1))
        key = await keys.import_token(other, name="other")
        assert key.id == digest(K1, other) != parse(other).key_id
        for token in (other, parse(other)):
            assert (await keys.verify(token)).id == key.id
    async with collection(store, K1, prefix="acme_other", imported_tokens=False) as others:
        with pytest.raises(InvalidKeyError):  # there it is a token of a key that is not there
            await others.verify(other)


async def test_the_key_id_of_an_imported_key_helps_nobody():
    """A token of ours that names it is compared with its hash, as with any other wrong secret."""
    async with collection() as keys:
        key = await keys.import_token(OLD, name="ci")
        await keys.verify(OLD)
        for text in (key.id, f"acme_live_{key.id}", f"acme_live_{key.id}_{'0' * 55}"):
            with pytest.raises(InvalidKeyError):
                await keys.verify(text)


@pytest.mark.parametrize(
    "bad",
    [{"name": ""}, {"owner": ""}, {"scopes": ["a b"]}, {"metadata": {"a": {1}}}, {"actor": ""}],
    ids=lambda bad: next(iter(bad)),
)
async def test_bounds_are_those_of_create(bad):
    """What a key may not have, an imported one may not either, and nothing is written."""
    async with collection() as keys:
        with pytest.raises(ValueError, match=r"must be|a scope is"):
            await keys.import_token(OLD, **{"name": "ci"} | bad)
        assert (await keys.list()).items == []


async def test_a_weak_token_is_stretched_off_the_event_loop(monkeypatch):
    """Stored as argon2id, hashed in a thread of those that may hash, and verified as ever."""
    store = MemoryStore()
    threads = []
    hash_ = Hasher.hash

    class Watched:
        def __init__(self, *arguments, **options):
            self.hasher = Hasher(*arguments, **options)

        def hash(self, token):
            threads.append(threading.current_thread().name)
            return hash_(self.hasher, token)

    monkeypatch.setattr("keylatch.importing.Hasher", Watched)
    async with collection(store, K1) as keys:
        key = await keys.import_token("hunter22", name="ci", weak=True)
        assert (await store.load(key.id)).hash.startswith("$argon2id$v=19$m=19456,t=2,p=1,keyid=")
        for _ in range(3):
            assert (await keys.verify("hunter22")).id == key.id
        for wrong in ("hunter2!", "hunter222"):
            with pytest.raises(InvalidKeyError):
                await keys.verify(wrong)
        await keys.revoke(key.id)
        with pytest.raises(RevokedKeyError):
            await keys.verify("hunter22")
    assert len(threads) == 1
    assert threads[0].startswith("keylatch-argon2")
    async with collection(store, f"{K2},{K1}") as keys:
        with pytest.raises(RevokedKeyError):
            await keys.verify("hunter22")
    assert kid_of((await store.load(key.id)).hash) == "k1"


async def test_too_many_weak_tokens_at_once_are_refused(monkeypatch):
    """As too many verifications are: a later attempt makes sense, and nothing was written."""
    monkeypatch.setattr("keylatch.stretching._MOST_WAITING", 0)
    async with collection() as keys:
        with pytest.raises(UnavailableError, match="argon2id"):
            await keys.import_token("hunter22", name="ci", weak=True)
        assert (await keys.list()).items == []


@pytest.mark.parametrize("imported_tokens", [True, False])
async def test_a_key_sees_imported_ones_where_its_collection_accepts_them(imported_tokens):
    """It manages those of its owner as it does others; elsewhere they are as those of a stranger.

    It imports none by itself.
    """
    store = MemoryStore()
    all_of_them = collection(store)
    old = await all_of_them.import_token(OLD, name="ci", owner="u1")
    theirs = await all_of_them.import_token(f"{OLD}2", name="ci", owner="u2")
    keys = collection(store, imported_tokens=imported_tokens)
    scopes = ["keys:read", "keys:write"]
    caller = (await keys.create(name="ui", owner="u1", scopes=scopes)).key
    by = keys.delegated_to(caller)
    assert {key.id for key in (await by.list()).items} == (
        {caller.id, old.id} if imported_tokens else {caller.id}
    )
    assert [key.id for key in (await by.list(prefix="")).items] == [old.id] * imported_tokens
    with pytest.raises(UnknownKeyError):
        await by.revoke(theirs.id)
    if imported_tokens:
        new = await by.rotate(old.id, grace=timedelta(0))
        assert new.key.prefix == "acme_live"
        with pytest.raises(ConfigurationError, match="may not do this by itself"):
            await by.import_token("hunter22", name="ci", owner="u1")
        one = TokenToImport(keys.read_imported("hunter22"), KeyRequest(name="ci", owner="u1"))
        with pytest.raises(ConfigurationError, match="may not import tokens by itself"):
            await by.import_many([one])
    else:
        with pytest.raises(UnknownKeyError):
            await by.revoke(old.id)


async def test_a_store_that_is_faster_names_the_key(monkeypatch):
    """Between looking and writing somebody else may import the same token."""
    async with collection() as keys:

        async def taken(*_, **__):
            raise DuplicateKeyError

        monkeypatch.setattr(keys._store, "insert", taken)
        with pytest.raises(DuplicateTokenError) as refused:
            await keys.import_token(OLD, name="ci")
        assert refused.value.key_id == digest(K1, OLD)


def test_a_token_of_another_format_shows_nothing_of_itself():
    """Not its text, and not its length; and strict parsing stays strict."""
    keys = collection()
    read = keys.read_imported(OLD)
    assert (repr(read), read.prefix, read.sealed_by(SecretRing(K1))) == (
        "<Token imported ***>",
        "",
        None,
    )
    with pytest.raises(ValueError, match="not a keylatch token"):
        parse(OLD)
    assert isinstance(read, Token)


def test_ids_are_those_of_the_vectors():
    """An independent computation and the native core agree."""
    ring = json.loads((VECTORS / "keylatch-v1.json").read_text())["secret_ring"]
    cases = json.loads((VECTORS / "imported-v1.json").read_text())
    secrets = {entry.partition(":")[0]: entry for entry in ring.split(",")}
    for case in cases["ids"]:
        assert digest(secrets[case["kid"]], case["token"]) == case["key_id"]
    keys = collection(secret=secrets["k1"])
    for case in cases["ids"]:
        if case["kid"] == "k1":
            assert keys.read_imported(case["token"]).key_id == case["key_id"]
    for case in cases["refused"]:
        with pytest.raises(ValueError, match="8 to 512 visible ASCII characters"):
            keys.read_imported(case["token"])


COLLECTION = collection()
# Whatever has this shape names a key of the collection, however damaged it is.
SHAPE = re.compile(rb"acme_live_.{16}_.{55}", re.DOTALL)


def damaged(prefix, at, other):
    """A token with other characters at some place, as many as there are."""
    token = mint(prefix, SecretRing(K1))
    at %= len(token)
    return token[:at] + other + token[at + len(other) :]


TEXTS = st.one_of(
    st.text(max_size=600),
    st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=600),
    st.builds(
        damaged,
        st.sampled_from(["acme_live", "acme", "acme_live_x", "a"]),
        st.integers(0, 96),
        st.sampled_from(["", "0", "1", "z", "_", "-", " ", "\u00e9", "00"]),
    ),
)


@settings(max_examples=500)
@given(text=TEXTS)
def test_texts_are_told_apart_as_the_rules_say(text):
    """The native code agrees with a plain reading of them on any text, and never fails."""
    try:
        prefix = parse(text).prefix
    except InvalidTokenError:
        prefix = None
    if prefix == "acme_live":
        assert COLLECTION._engine.present(text).prefix == prefix
        return
    damaged = SHAPE.fullmatch(text.encode(errors="surrogatepass"))
    if damaged or not re.fullmatch(r"[\x21-\x7e]{8,512}", text):
        with pytest.raises(InvalidTokenError):
            COLLECTION._engine.present(text)
        return
    read = COLLECTION._engine.present(text)
    assert (read.prefix, read.key_id, read.reveal()) == ("", digest(K1, text), text)
