"""A token that is logged, and whether a text shows of it what it must not. Knows no test."""

from keylatch import SecretRing, mint, parse

TOKEN = mint("acme_live", SecretRing(SecretRing.generate()))
SECRET = TOKEN.rsplit("_", 1)[1]
MASKED = f"acme_live_{parse(TOKEN).key_id}_***"
# Less than so many characters are no secret to the filter.
LEAST = 12
RUNS = [SECRET[start : start + LEAST] for start in range(len(SECRET) - LEAST + 1)]


def assert_masked(text: str) -> None:
    """No part of the secret shows, be it of its beginning, its middle or its end."""
    shown = [run for run in RUNS if run in text]
    assert not shown, f"{len(shown)} of {len(RUNS)} runs show in {text}"
