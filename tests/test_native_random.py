"""What is random is random: uniform, and different in every process."""

import os
import string
import subprocess
import sys
from collections import Counter

import pytest

from keylatch import SecretRing, mint

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
# Where the chi-square distribution of 61 and of 31 degrees of freedom leaves 1e-9 above, by the
# closed form for odd degrees (Abramowitz and Stegun, 26.4.4): a fair source fails once in 10^9.
CHI_SQUARE = {BASE62: 152.02, BASE32: 103.44}

CHILDREN = """
import os, pathlib, sys
from keylatch import Hasher, SecretRing, mint

ring = SecretRing(SecretRing.generate())
hasher = Hasher(ring)
hasher.hash(mint("acme", ring))  # whatever state there may be is there before the fork

children = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        made = (mint("acme", ring) for _ in range(10_000))
        lines = [f"{token} {hasher.hash(token)}" for token in made]
        pathlib.Path(sys.argv[1], str(number)).write_text("\\n".join(lines))
        os._exit(0)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.fixture(scope="module")
def tokens():
    """Tokens with a little more than a million characters of secret."""
    ring = SecretRing(SecretRing.generate())
    return [mint("acme", ring) for _ in range(1_000_000 // 43 + 1)]


def chi_square(text, alphabet):
    """How far the characters of a text are from coming up equally often."""
    counts = Counter(text)
    assert set(counts) == set(alphabet)
    expected = len(text) / len(alphabet)
    return sum((count - expected) ** 2 / expected for count in counts.values())


def test_the_characters_of_secrets_are_uniform(tokens):
    """A million characters of secrets show no preference."""
    secrets = "".join(token[-55:-12] for token in tokens)
    assert len(secrets) >= 1_000_000
    assert chi_square(secrets, BASE62) < CHI_SQUARE[BASE62]


@pytest.mark.parametrize("place", [0, 21, 42])
def test_the_characters_of_one_place_are_uniform(tokens, place):
    """The first, middle and last characters of secrets show no preference either."""
    assert chi_square([token[-55 + place] for token in tokens], BASE62) < CHI_SQUARE[BASE62]


def test_the_characters_of_key_ids_are_uniform(tokens):
    """The characters of key ids show no preference."""
    key_ids = "".join(token.split("_")[1] for token in tokens)
    assert chi_square(key_ids, BASE32) < CHI_SQUARE[BASE32]


def test_a_modulo_bias_would_show():
    """The threshold is one that the usual mistake, a byte modulo 62, does not pass."""
    biased = [BASE62[byte % 62] for byte in os.urandom(1_000_000)]
    assert chi_square(biased, BASE62) > CHI_SQUARE[BASE62]


def test_forked_children_never_mint_the_same(tmp_path):
    """Eight children of one process mint and hash 10,000 keys each, without a repetition."""
    subprocess.run([sys.executable, "-c", CHILDREN, tmp_path], check=True, timeout=120)
    files = sorted(tmp_path.iterdir())
    lines = [line.split(" ") for file in files for line in file.read_text().splitlines()]
    assert len(files) == 8
    assert len(lines) == 80_000
    assert len({token.split("_")[1] for token, _ in lines}) == 80_000
    assert len({token[-55:-12] for token, _ in lines}) == 80_000
    assert len({stored.split("$")[4] for _, stored in lines}) == 80_000
