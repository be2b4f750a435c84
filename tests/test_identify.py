"""``keys.identify``: whose a token is that was found somewhere, without a use of it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from imports import K1, K2, OLD, collection
from subject import SILENT

from keylatch import APIKeys, Hasher, SecretRing, mint, parse
from keylatch.errors import InvalidTokenError, UnavailableError
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def test_a_token_leads_to_its_key_dead_or_alive(keys, clock):
    """Of whatever prefix, in every store; nothing is counted and nothing is written."""
    for end in ("", "revoked", "expired"):
        new = await keys.create(name="ci", owner="u1", expires_in=timedelta(hours=1))
        if end == "revoked":
            await keys.revoke(new.key.id)
        elif end == "expired":
            clock.advance(hours=2)
        for token in (new.token, parse(new.token)):
            found = await keys.identify(token)
            assert (found.key_id, found.proven, found.sealed_by) == (new.key.id, True, "k1")
            assert found.key == await keys.get(new.key.id)
    await keys.flush()
    assert (await keys.get(new.key.id)).use_count == 0


async def test_a_made_up_token_is_not_proven(keys, wrong_secret):
    """Whether somebody has taken a key's id, or none has it."""
    new = await keys.create(name="ci")
    found = await keys.identify(wrong_secret(new.token))
    assert (found.key, found.proven, found.sealed_by) == (new.key, False, None)
    foreign = mint("acme_live", SecretRing(SecretRing.generate()))
    found = await keys.identify(foreign)
    assert (found.key, found.proven, found.key_id) == (None, False, parse(foreign).key_id)
    for nonsense in ("", "x", new.token[:-1], new.token + "\ud800", OLD):
        with pytest.raises(InvalidTokenError):
            await keys.identify(nonsense)
    with pytest.raises(TypeError):
        await keys.identify(new.token.encode())


async def test_a_seal_proves_where_the_hash_cannot_be_checked(clock):
    """The server secret of the hash has left the ring, and the one of the seal has not."""
    store, gone = MemoryStore(), SecretRing.generate("gone")
    options = {"prefix": "acme_live", "clock": clock, "allow_missing_secrets": True} | SILENT
    async with APIKeys(store, secret=K1, **options) as keys:
        new = await keys.create(name="ci")
    stored = Hasher(SecretRing(gone)).hash(new.token)
    store._records[new.key.id] = replace(await store.load(new.key.id), hash=stored)
    for secret, proven in [(K1, True), (K2, False), (gone, True)]:
        async with APIKeys(store, secret=secret, **options) as keys:
            found = await keys.identify(new.token)
            assert (found.key, found.proven) == (new.key, proven)


@pytest.mark.parametrize("weak", [False, True])
async def test_imported_tokens_lead_to_their_keys(clock, weak):
    """Under whatever server secret of the ring, slow hashes included."""
    store = MemoryStore()
    async with collection(store, clock=clock) as keys:
        key = await keys.import_token(OLD, name="old", weak=weak)
    async with collection(store, secret=f"{K2},{K1}", clock=clock) as keys:
        found = await keys.identify(OLD)
        assert (found.key, found.proven, found.sealed_by) == (key, True, None)
        found = await keys.identify(f"{OLD}x")
        assert (found.key, found.proven) == (None, False)
        other = mint("elsewhere", SecretRing(SecretRing.generate()))
        key = await keys.import_token(other, name="elsewhere")
        found = await keys.identify(other)
        assert (found.key, found.proven) == (key, True)


async def test_a_database_that_fails_is_told_of(keys, monkeypatch):
    """There is no telling, which is not a no."""

    async def fail(*_, **__):
        raise UnavailableError("down")

    new = await keys.create(name="ci")
    monkeypatch.setattr(keys._store, "load", fail)
    with pytest.raises(UnavailableError):
        await keys.identify(new.token)


async def test_a_rotation_keeps_its_reason(keys):
    """In the audit trail; without one nothing is said."""
    new = await keys.create(name="ci")
    successor = await keys.rotate(new.key.id, grace=timedelta(0), reason="leaked", actor="ops")
    event = (await keys.events(new.key.id))[-1]
    assert (event.action, event.details["reason"], event.actor) == ("rotated", "leaked", "ops")
    await keys.rotate(successor.key.id, grace=timedelta(0))
    assert "reason" not in (await keys.events(successor.key.id))[-1].details
    with pytest.raises(ValueError, match="reason"):
        await keys.rotate(successor.key.id, grace=timedelta(0), reason="")
