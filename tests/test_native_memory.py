"""Server secrets in memory: the core wipes what it derived, seen from another process."""

import base64
import hashlib
import hmac
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import sys
from keylatch import Hasher, SecretRing

ring = SecretRing(sys.stdin.readline())
hasher = Hasher(ring)
stored = hasher.hash("token")
assert hasher.verify("token", stored)
print("alive", flush=True)
sys.stdin.readline()
del ring, hasher
print("gone", flush=True)
sys.stdin.readline()
"""


def memory_of(pid: int) -> bytes:
    """Everything that a process can write to."""
    content = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if rights.startswith("rw"):
                memory.seek(int(first, 16))
                content.append(memory.read(int(last, 16) - int(first, 16)))
    return b"".join(content)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_a_server_secret_outlives_its_ring():
    """Once a ring is gone, neither the secret's bytes nor those of its subkeys are in memory."""
    secret = os.urandom(32)
    subkeys = {
        label: hmac.digest(secret, b"keylatch/v1/" + label.encode(), hashlib.sha256)
        for label in ("seal", "hash", "argon2")
    }
    text = "k1:" + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            found = []
            for said in ("alive", "gone"):
                child.stdin.write(f"{text}\n" if said == "alive" else "go on\n")
                child.stdin.flush()
                assert child.stdout.readline().strip() == said
                memory = memory_of(child.pid)
                needles = {"secret": secret} | subkeys
                # Freeing memory overwrites its first bytes, so the last ones are looked for.
                found.append({name for name, key in needles.items() if key[16:] in memory})
        finally:
            child.kill()
    alive, gone = found
    assert alive == {"argon2"}, "of the four, only Argon2's key is kept as it is"
    assert gone == set()
