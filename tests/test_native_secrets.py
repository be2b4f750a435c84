"""Server secrets: what a ring refuses, and that nothing shows, copies or pickles a secret."""

import base64
import copy
import pickle
from datetime import UTC, datetime

import pytest

from keylatch import APIKey, Hasher, NewKey, SecretRing, mint, parse
from keylatch.errors import ConfigurationError

# 32 bytes whose base64url has a hyphen and an underscore.
SECRET = base64.urlsafe_b64encode(bytes(range(0xE0, 0x100))).decode().rstrip("=")
RING = SecretRing(f"k1:{SECRET}")
TOKEN = mint("acme", RING)


def encoded(secret: bytes) -> str:
    """An entry of a ring."""
    return "k1:" + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def new_key() -> NewKey:
    """What ``create`` returns."""
    parsed = parse(TOKEN)
    key = APIKey(
        id=parsed.key_id,
        prefix=parsed.prefix,
        name="ci",
        owner=None,
        scopes=frozenset(),
        metadata={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return NewKey(key, TOKEN)


HOLDERS = {
    "SecretRing": RING,
    "Token": parse(TOKEN),
    "minted Token": type(parse(TOKEN)).mint("acme", RING),
    "Hasher": Hasher(RING),
    "NewKey": new_key(),
}
holders = pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)

WEAK = {
    "empty": "",
    "blank": " \n",
    "no kid": SECRET,
    "no secret": "k1:",
    "nothing but a comma": ",",
    "trailing comma": f"k1:{SECRET},",
    "31 bytes": encoded(bytes(range(31))),
    "65 bytes": encoded(bytes(range(65))),
    "all zero": encoded(bytes(32)),
    "one byte repeated": encoded(b"\xa5" * 32),
    "fifteen different bytes": encoded((bytes(range(15)) * 3)[:32]),
    "a word repeated": "k1:" + "changeme" * 6,
    "a word repeated, as bytes": encoded(b"changeme" * 4),
    "hex of zeros": "k1:" + "0" * 64,
    "base64, not base64url": f"k1:{SECRET}".replace("-", "+").replace("_", "/"),
    "padding too long": f"k1:{SECRET}==",
    "padding inside": f"k1:{SECRET[:20]}={SECRET[21:]}",
    "spare bits set": f"k1:{SECRET[:-1]}9",
    "blank inside": f"k1:{SECRET[:20]} {SECRET[21:]}",
    "line break inside": f"k1:{SECRET[:20]}\n{SECRET[21:]}",
    "not ASCII": f"k1:{SECRET[:20]}é{SECRET[21:]}",
    "lone surrogate": f"k1:{SECRET}\ud800",
    "kid empty": f":{SECRET}",
    "kid upper-case": f"K1:{SECRET}",
    "kid of nine": f"prod20261:{SECRET}",
    "kid with a hyphen": f"k-1:{SECRET}",
    "kid twice": f"k1:{SECRET},{encoded(bytes(range(32)))}",
    "semicolon between entries": f"k1:{SECRET};k2:{SECRET}",
    "quoted": f'"k1:{SECRET}"',
    "a megabyte": "k1:" + SECRET * 25_000,
}


@pytest.mark.parametrize("text", WEAK.values(), ids=WEAK)
def test_weak_and_malformed_rings_are_refused(text):
    """A ring that is not made of random secrets is an error, which shows nothing of the text."""
    with pytest.raises(ConfigurationError) as caught:
        SecretRing(text)
    shown = str(caught.value) + repr(caught.value) + repr(caught.value.args)
    parts = [text[at : at + 8] for at in range(max(0, min(len(text), 200) - 7))]
    assert not [part for part in parts if part in shown]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "kids"),
    [
        (f"k1:{SECRET}", ["k1"]),
        (f"k1:{SECRET}=", ["k1"]),
        (f"  k1:{SECRET}\n", ["k1"]),
        (f"k2:{SECRET}, k1:{SECRET}", ["k2", "k1"]),
        (f"prod2026:{SECRET},0:{SECRET},a:{SECRET}", ["prod2026", "0", "a"]),
        (encoded(bytes(range(64))), ["k1"]),
    ],
)
def test_right_rings_are_read_active_first(text, kids):
    """Padding, blanks around entries and secrets of up to 64 bytes are fine."""
    assert SecretRing(text).kids == kids


def test_padding_makes_no_difference():
    """A secret with its padding is the same secret."""
    assert parse(mint("acme", SecretRing(f"k1:{SECRET}="))).sealed_by(RING) == "k1"


def test_generate_makes_a_new_secret_each_time():
    """What ``generate`` writes holds 32 bytes, is read back, and never repeats."""
    made = {SecretRing.generate("prod2026") for _ in range(1000)}
    assert len(made) == 1000
    for text in made:
        kid, _, secret = text.partition(":")
        assert SecretRing(text).kids == [kid] == ["prod2026"]
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32


@pytest.mark.parametrize("kid", ["", "K1", "k-1", "prod20261", "é", "k1:", "\ud800", "a" * 2**20])
def test_generate_refuses_a_bad_kid(kid):
    """A kid outside its format is an error that says what a kid is."""
    with pytest.raises(ConfigurationError, match=r"kid|name"):
        SecretRing.generate(kid)


def test_from_env_reads_the_variable(monkeypatch):
    """The ring comes from ``KEYLATCH_SECRET``, or from the variable that is named."""
    monkeypatch.setenv("KEYLATCH_SECRET", f"k1:{SECRET}")
    monkeypatch.setenv("other_SECRET2", f"k2:{SECRET}\n")
    assert SecretRing.from_env().kids == ["k1"]
    assert SecretRing.from_env("other_SECRET2").kids == ["k2"]


def test_from_env_without_the_variable_says_what_to_do(monkeypatch):
    """A missing variable is named in the error, with the command that makes a secret."""
    monkeypatch.delenv("KEYLATCH_SECRET", raising=False)
    with pytest.raises(ConfigurationError, match=r"KEYLATCH_SECRET is not set.*keylatch secret"):
        SecretRing.from_env()
    with pytest.raises(ConfigurationError, match="OTHER is not set"):
        SecretRing.from_env("OTHER")


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_from_env_with_an_empty_variable_says_so(monkeypatch, value):
    """An empty variable is no default."""
    monkeypatch.setenv("KEYLATCH_SECRET", value)
    with pytest.raises(ConfigurationError, match="empty"):
        SecretRing.from_env()


def test_from_env_with_bytes_that_are_no_text_is_refused(monkeypatch):
    """A variable that is not UTF-8 is an error that does not show it."""
    monkeypatch.setenv("KEYLATCH_SECRET", f"k1:{SECRET}\udcff")
    with pytest.raises(ConfigurationError) as caught:
        SecretRing.from_env()
    assert SECRET[:8] not in repr(caught.value)


@pytest.mark.parametrize(
    "name", [f"k1:{SECRET}", "", "A=B", "A B", "A\0", "é", "\ud800", "A" * 65, "A" * 2**20]
)
def test_from_env_does_not_show_a_secret_passed_for_a_name(name):
    """The value in the place of the variable's name is an error that does not repeat it."""
    with pytest.raises(ConfigurationError) as caught:
        SecretRing.from_env(name)
    assert SECRET[:8] not in repr(caught.value)
    assert len(str(caught.value)) < 300


@holders
def test_no_representation_shows_a_secret(holder):
    """Neither ``repr`` nor ``str`` nor formatting shows any part of token or secret."""
    shown = f"{holder!r} {holder!s} {holder} {holder!a}"
    whole = SECRET, TOKEN.split("_")[2]
    assert not [part for text in whole for part in (text[:8], text[-12:]) if part in shown]
    assert "k1" in shown or "acme" in shown


@holders
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_holds_a_secret_cannot_be_pickled(holder, protocol):
    """Pickling is refused by every protocol, also deep inside something else."""
    for whole in (holder, {"nested": [holder]}):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            pickle.dumps(whole, protocol)


@holders
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_what_holds_a_secret_cannot_be_copied(holder, copier):
    """Copies would outlive the memory that is wiped."""
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copier(holder)


@pytest.mark.parametrize("name", ["SecretRing", "Token", "Hasher"])
def test_what_holds_a_secret_has_no_attributes_to_set(name):
    """The native objects cannot be changed, subclassed or looked into."""
    holder = HOLDERS[name]
    with pytest.raises(AttributeError):
        holder.note = "x"
    with pytest.raises(TypeError):
        type("Sub", (type(holder),), {})
    with pytest.raises(TypeError):
        vars(holder)


def test_a_token_cannot_be_made_by_hand():
    """A Token comes out of ``parse`` or ``mint`` only, so that it is always well-formed."""
    with pytest.raises(TypeError):
        type(HOLDERS["Token"])()
