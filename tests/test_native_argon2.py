"""Argon2id against argon2-cffi, and what is refused before anything is spent."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import argon2
import pytest
from argon2.low_level import Type, core, ffi, lib

from keylatch import Hasher, SecretRing
from keylatch.errors import InvalidHashError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "keylatch-v1.json").read_text())
RING = SecretRing(VECTORS["secret_ring"])
TOKEN = VECTORS["tokens"][0]["token"]

STARVED = """
import resource, sys
from pathlib import Path
from keylatch import Hasher, SecretRing
from keylatch.errors import InvalidHashError

ring = SecretRing(SecretRing.generate())
hasher = Hasher(ring, scheme="argon2id", memory_kib=131072)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20,) * 2)

def verify(cost):
    return hasher.verify("a token", f"$argon2id$v=19${cost}${'A' * 22}${'A' * 43}")

for cost in sys.argv[1:]:
    for _ in range(10_000):
        try:
            sys.exit(f"verified {cost}: {verify(cost)}")
        except InvalidHashError:
            pass
assert verify("m=7168,t=1,p=1") is False
for work, text in (verify, "m=131072,t=1,p=1"), (hasher.hash, "a token"):
    try:
        sys.exit(f"had the memory: {work(text)}")
    except MemoryError as error:
        print(error)
"""


def keyed_argon2id(token: str, stored: str, key: bytes) -> bytes:
    """The tag of a stored string by the reference implementation, with a secret input."""
    _, _, _, cost, salt, _ = stored.split("$")
    memory, iterations, lanes, _keyid = (field.partition("=")[2] for field in cost.split(","))
    salt_bytes = base64.b64decode(salt + "==")
    out = ffi.new("uint8_t[]", 32)
    kept_alive = [ffi.new("uint8_t[]", part) for part in (token.encode(), salt_bytes, key)]
    context = ffi.new(
        "argon2_context *",
        {
            "version": 19,
            "out": out,
            "outlen": 32,
            "pwd": kept_alive[0],
            "pwdlen": len(token.encode()),
            "salt": kept_alive[1],
            "saltlen": len(salt_bytes),
            "secret": kept_alive[2],
            "secretlen": len(key),
            "ad": ffi.NULL,
            "adlen": 0,
            "t_cost": int(iterations),
            "m_cost": int(memory),
            "lanes": int(lanes),
            "threads": 1,
            "allocate_cbk": ffi.NULL,
            "free_cbk": ffi.NULL,
            "flags": lib.ARGON2_DEFAULT_FLAGS,
        },
    )
    assert core(context, Type.ID.value) == lib.ARGON2_OK
    return bytes(ffi.buffer(out))


def test_a_string_without_a_keyid_verifies_in_argon2_cffi():
    """The argon2id string of the vectors without a secret is one that argon2-cffi reads."""
    [case] = [case for case in VECTORS["argon2id"] if case["kid"] is None]
    assert argon2.PasswordHasher().verify(case["stored"], case["token"])


@pytest.mark.parametrize(("memory", "iterations", "lanes"), [(7168, 1, 1), (8192, 3, 4)])
@pytest.mark.parametrize("salt_len", [8, 16, 64])
def test_strings_of_argon2_cffi_verify(memory, iterations, lanes, salt_len):
    """What argon2-cffi wrote verifies here, and is due for a hash of our own."""
    foreign = argon2.PasswordHasher(iterations, memory, lanes, hash_len=32, salt_len=salt_len)
    hasher = Hasher(
        RING, scheme="argon2id", memory_kib=memory, iterations=iterations, parallelism=lanes
    )
    stored = foreign.hash("correct horse")
    assert hasher.verify("correct horse", stored) is True
    assert hasher.verify("battery staple", stored) is False
    assert hasher.needs_rehash(stored) is True


@pytest.mark.parametrize(
    "foreign",
    [
        argon2.PasswordHasher(1, 7168, 1, hash_len=31),
        argon2.PasswordHasher(1, 7168, 1, hash_len=33),
        argon2.PasswordHasher(1, 7167, 1),
        argon2.PasswordHasher(11, 7168, 1),
        argon2.PasswordHasher(1, 7168, 5),
        argon2.PasswordHasher(1, 7168, 1, type=Type.I),
        argon2.PasswordHasher(1, 7168, 1, type=Type.D),
    ],
    ids=["tag of 31", "tag of 33", "memory", "iterations", "parallelism", "argon2i", "argon2d"],
)
def test_strings_of_argon2_cffi_outside_the_policy_are_refused(foreign):
    """A real string of another kind or cost is an error, even with the right token."""
    with pytest.raises(InvalidHashError):
        Hasher(RING).verify("correct horse", foreign.hash("correct horse"))


@pytest.mark.parametrize(("memory", "iterations", "lanes"), [(7168, 1, 1), (8192, 2, 3)])
@pytest.mark.parametrize("token", [TOKEN, "ein Schlüssel\0", "a" * 4096])
def test_our_strings_are_what_the_reference_implementation_computes(
    memory, iterations, lanes, token
):
    """The tag of a new hash is that of argon2-cffi with our subkey as its secret."""
    hasher = Hasher(
        RING, scheme="argon2id", memory_kib=memory, iterations=iterations, parallelism=lanes
    )
    stored = hasher.hash(token)
    [kid] = RING.kids[:1]
    keyid = base64.b64encode(kid.encode()).decode().rstrip("=")
    head = f"$argon2id$v=19$m={memory},t={iterations},p={lanes},keyid={keyid}$"
    assert stored.startswith(head)
    key = bytes.fromhex(VECTORS["derived_hex"][kid]["argon2"])
    tag = base64.b64decode(stored.rpartition("$")[2] + "=")
    assert tag == keyed_argon2id(token, stored, key)
    assert hasher.verify(token, stored) is True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be limited so")
def test_a_refused_cost_takes_neither_memory_nor_time():
    """With 64 MiB left, huge costs are refused ten thousand times over; 128 MiB cannot be had."""
    refused = [
        "m=4194304,t=1,p=1",
        "m=131073,t=1,p=1",
        "m=4294967296,t=1,p=1",
        "m=7168,t=4294967295,p=1",
        "m=131072,t=10,p=16777215",
        "m=131072,t=10,p=4,keyid=Z29uZQ",
    ]
    run = subprocess.run(
        [sys.executable, "-c", STARVED, *refused], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert run.stdout.count(b"not enough memory for argon2id at this cost") == 2
