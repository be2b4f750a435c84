"""The life of a key, the same in every store."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keylatch import APIKeys, Hasher, SecretRing, Token, parse
from keylatch.errors import (
    ExpiredKeyError,
    InsufficientScopeError,
    InvalidKeyError,
    MissingKeyError,
    RevokedKeyError,
    UnavailableError,
    UnknownKeyError,
)
from keylatch.memory import MemoryStore
from keylatch.records import APIKey, KeyEvent, KeyRecord
from keylatch.store import DuplicateKeyError

pytestmark = pytest.mark.anyio


async def test_a_created_key_verifies_as_itself(keys, clock):
    """What create returns is what verify finds, to the microsecond."""
    clock.advance(microseconds=123_456)
    new = await keys.create(
        name="ci",
        owner="u1",
        scopes=["items:read", "items:write"],
        expires_in=timedelta(days=90),
        metadata={"team": "ü", "n": [1, 2.5, None, True]},
    )
    key = await keys.verify(new.token)
    assert key == new.key == await keys.get(new.key.id)
    assert key.owner == "u1"
    assert key.scopes == {"items:read", "items:write"}
    assert key.metadata == {"team": "ü", "n": [1, 2.5, None, True]}
    assert key.created_at == clock.now
    assert key.expires_at == clock.now + timedelta(days=90)
    assert (key.revoked_at, key.last_used_at, key.use_count, key.successor) == (None, None, 0, None)


async def test_a_token_names_its_key(keys):
    """The token opens with the collection's prefix and the key's id."""
    new = await keys.create(name="ci")
    assert new.token.startswith(f"acme_live_{new.key.id}_")
    assert parse(new.token).key_id == new.key.id


async def test_every_datetime_is_aware_and_utc(keys, clock):
    """Moments come back aware and in UTC, however they were given."""
    tokyo = timezone(timedelta(hours=9))
    ends = (clock.now + timedelta(hours=1)).astimezone(tokyo)
    new = await keys.create(name="ci", expires_at=ends)
    key = await keys.revoke(new.key.id)
    for moment in (key.created_at, key.expires_at, key.revoked_at):
        assert moment.tzinfo is UTC
    assert key.expires_at == ends
    assert (await keys.events(key.id))[0].at.tzinfo is UTC


async def test_no_token_is_missing_rather_than_invalid(keys):
    """An empty token is told apart: nothing was sent."""
    with pytest.raises(MissingKeyError):
        await keys.verify("")


@pytest.mark.parametrize("token", ["x", "acme_live_", "\x00", "\ud800", "é" * 97, "a" * 1_000_000])
async def test_what_is_no_token_is_invalid(keys, token):
    """Text of any content is refused as invalid, whatever it holds."""
    with pytest.raises(InvalidKeyError):
        await keys.verify(token)


async def test_an_unknown_id_and_a_wrong_secret_are_refused_alike(keys, secret, wrong_secret):
    """A token we could have minted opens nothing unless it is the very one."""
    new = await keys.create(name="ci")
    stranger = Token.mint("acme_live", SecretRing(secret))
    with pytest.raises(InvalidKeyError) as unknown:
        await keys.verify(stranger)
    with pytest.raises(InvalidKeyError) as wrong:
        await keys.verify(wrong_secret(new.token))
    assert str(unknown.value) == str(wrong.value)


async def test_another_prefix_is_refused(keys, secret):
    """A token of another collection is invalid here, even if this database has its id."""
    other = APIKeys(keys._store, prefix="acme_test", secret=secret)
    new = await other.create(name="ci")
    with pytest.raises(InvalidKeyError):
        await keys.verify(new.token)


async def test_a_key_ends_at_its_expiry_and_not_before(keys, clock):
    """The moment of expiry is the first at which the key does not open."""
    new = await keys.create(name="ci", expires_in=timedelta(hours=1))
    clock.advance(hours=1, microseconds=-1)
    await keys.verify(new.token)
    clock.advance(microseconds=1)
    with pytest.raises(ExpiredKeyError):
        await keys.verify(new.token)


async def test_a_revoked_key_stays_revoked(keys, clock):
    """Revocation holds at once, is final, and keeps its first reason."""
    new = await keys.create(name="ci")
    first = await keys.revoke(new.key.id, reason="leaked", actor="ops")
    clock.advance(hours=1)
    assert await keys.revoke(new.key.id, reason="again") == first
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)
    assert [event.action for event in await keys.events(new.key.id)] == ["created", "revoked"]


async def test_a_key_both_revoked_and_expired_is_revoked(keys, clock):
    """Revoked is the stronger word."""
    new = await keys.create(name="ci", expires_in=timedelta(hours=1))
    await keys.revoke(new.key.id)
    clock.advance(hours=2)
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)


async def test_only_the_right_secret_learns_of_revocation_and_expiry(keys, clock, wrong_secret):
    """A wrong secret for a dead key is as invalid as for a living one."""
    revoked = await keys.create(name="ci")
    await keys.revoke(revoked.key.id)
    expired = await keys.create(name="ci", expires_in=timedelta(hours=1))
    clock.advance(hours=2)
    for new in (revoked, expired):
        with pytest.raises(InvalidKeyError):
            await keys.verify(wrong_secret(new.token))


async def test_scopes_are_compared_whole(keys):
    """A scope opens itself, and nothing that begins with it or that it begins with."""
    new = await keys.create(name="ci", scopes=["read", "items:write"])
    assert await keys.verify(new.token, scopes=["read"])
    assert await keys.verify(new.token, scopes=["items:write", "read"])
    for needed in ("read:all", "rea", "READ", "items", "items:write:x"):
        with pytest.raises(InsufficientScopeError) as refused:
            await keys.verify(new.token, scopes=["read", needed])
        assert refused.value.required == {"read", needed}
        assert refused.value.granted == {"read", "items:write"}


async def test_management_of_an_unknown_id_says_so(keys):
    """An id that no key has, in the format or not, is an error that does not echo it."""
    for key_id in ("0123456789abcdef", "x", "", "\ud800", None, 7):
        for call in (keys.get, keys.revoke, keys.events):
            with pytest.raises(UnknownKeyError) as unknown:
                await call(key_id)
            assert str(key_id) not in str(unknown.value) or key_id in {"", "x"}


async def test_the_audit_trail_tells_who_did_what_and_when(keys, clock):
    """Each change leaves one event, in order."""
    new = await keys.create(name="ci", owner="u1", scopes=["b", "a"], actor="admin@example.com")
    clock.advance(seconds=5)
    await keys.revoke(new.key.id, reason="leaked", actor="ops")
    created, revoked = await keys.events(new.key.id)
    assert created == KeyEvent(
        key_id=new.key.id,
        at=new.key.created_at,
        action="created",
        actor="admin@example.com",
        details={"owner": "u1", "scopes": ["a", "b"], "expires_at": None},
    )
    assert revoked == KeyEvent(
        key_id=new.key.id,
        at=clock.now,
        action="revoked",
        actor="ops",
        details={"reason": "leaked"},
    )


async def test_list_filters_before_it_pages(keys, clock):
    """Pages are full as long as there is more, the newest first, and nothing comes twice."""
    made = []
    for number in range(9):
        # Three at a time are made in the same microsecond.
        clock.advance(seconds=number % 3 == 0)
        made.append((await keys.create(name=str(number), owner="u1")).key.id)
        await keys.create(name="other", owner="u2")
    seen, cursor = [], None
    while True:
        page = await keys.list(owner="u1", limit=4, cursor=cursor)
        seen.append([key.id for key in page.items])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [len(ids) for ids in seen] == [4, 4, 1]
    flat = [key_id for ids in seen for key_id in ids]
    assert sorted(flat) == sorted(made)
    expected = [sorted(made[i : i + 3], reverse=True) for i in (6, 3, 0)]
    assert flat == [key_id for ids in expected for key_id in ids]


async def test_list_knows_the_status_of_keys(keys, clock):
    """Active, expired and revoked keys are told apart at the moment of asking."""
    stays = await keys.create(name="stays")
    ends = await keys.create(name="ends", expires_in=timedelta(hours=1))
    dead = await keys.create(name="dead", expires_in=timedelta(hours=1))
    await keys.revoke(dead.key.id)

    async def ids(status):
        return {key.id for key in (await keys.list(status=status)).items}

    assert await ids("active") == {stays.key.id, ends.key.id}
    clock.advance(hours=1)
    assert await ids("active") == {stays.key.id}
    assert await ids("expired") == {ends.key.id}
    assert await ids("revoked") == {dead.key.id}
    assert await ids(None) == {stays.key.id, ends.key.id, dead.key.id}


async def test_owners_are_compared_exactly(keys):
    """Case, blanks and accents make another owner."""
    owners = ["Ada", "ada", "ada ", " ada", "ádá", "a%", "a_a"]
    for owner in owners:
        await keys.create(name="ci", owner=owner)
    for owner in owners:
        assert [key.owner for key in (await keys.list(owner=owner)).items] == [owner]


async def test_what_a_caller_does_to_a_returned_key_changes_nothing(keys):
    """The metadata of a returned key is the caller's own copy."""
    new = await keys.create(name="ci", metadata={"a": {"b": 1}})
    new.key.metadata["a"]["b"] = 2
    (await keys.get(new.key.id)).metadata["a"]["b"] = 3
    assert (await keys.get(new.key.id)).metadata == {"a": {"b": 1}}


async def test_a_duplicate_id_is_refused_by_the_store(store, clock):
    """Two keys never share an id, and the second leaves no trace."""
    await store.open()
    event = KeyEvent(key_id="0" * 16, at=clock.now, action="created", actor=None, details={})
    record = KeyRecord(plain_key("0" * 16, clock.now), "$hash")
    await store.insert([(record, event)])
    with pytest.raises(DuplicateKeyError):
        await store.insert([(record, event)])
    assert len(await store.events("0" * 16)) == 1
    await store.close()


class CollidingStore(MemoryStore):
    """A store whose first inserts meet an id that is taken."""

    def __init__(self, collisions: int) -> None:
        super().__init__()
        self.collisions = collisions

    async def insert(self, new, **options) -> None:
        """Collides, as often as it should."""
        if self.collisions:
            self.collisions -= 1
            raise DuplicateKeyError
        await super().insert(new, **options)


async def test_create_mints_again_when_an_id_is_taken(secret):
    """A taken id costs a second try; ids that keep colliding are an error, not a loop."""
    async with APIKeys(CollidingStore(1), prefix="acme", secret=secret) as keys:
        await keys.verify((await keys.create(name="ci")).token)
    async with APIKeys(CollidingStore(99), prefix="acme", secret=secret) as keys:
        with pytest.raises(UnavailableError, match="colliding"):
            await keys.create(name="ci")


async def test_keys_work_unstarted_and_say_so_once(store, secret, caplog):
    """Without a lifespan everything works from the database, and one warning tells."""
    keys = APIKeys(store, prefix="acme", secret=secret)
    news = await asyncio.gather(*(keys.create(name="ci") for _ in range(5)))
    await asyncio.gather(*(keys.verify(new.token) for new in news))
    warnings = [record for record in caplog.records if "lifespan" in record.getMessage()]
    assert len(warnings) == 1
    await store.close()


async def test_keys_minted_under_a_retired_secret_still_open(store, secret):
    """A ring of two verifies what either made; a ring that lost the old one refuses with 503."""
    new_secret = SecretRing.generate("k2")
    old = APIKeys(store, prefix="acme", secret=secret)
    both = APIKeys(store, prefix="acme", secret=f"{new_secret},{secret}")
    gone = APIKeys(store, prefix="acme", secret=new_secret)
    token = (await old.create(name="ci")).token
    assert await both.verify(token)
    with pytest.raises(UnavailableError, match="server secret k1"):
        await gone.verify(token)
    await store.close()


async def test_a_missing_server_secret_is_logged_once(store, secret, caplog):
    """The operator is told which secret is missing, once and not per request."""
    new = await APIKeys(store, prefix="acme", secret=secret).create(name="ci")
    gone = APIKeys(store, prefix="acme", secret=SecretRing.generate("k2"))
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await gone.verify(new.token)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    await store.close()


async def test_an_argon2id_row_verifies_beside_the_event_loop(store, secret, clock, wrong_secret):
    """It opens for its token and no other, in a thread of its own, so that other requests go on."""
    ring = SecretRing(secret)
    hasher = Hasher(ring, scheme="argon2id", memory_kib=7168, iterations=1)
    token = Token.mint("acme", ring)
    event = KeyEvent(key_id=token.key_id, at=clock.now, action="created", actor=None, details={})
    async with APIKeys(store, prefix="acme", secret=ring) as keys:
        await store.insert(
            [(KeyRecord(plain_key(token.key_id, clock.now), hasher.hash(token)), event)]
        )
        stretching, threads = keys._loader._stretching, []
        run = stretching.run

        async def watched(work):
            await run(lambda: (threads.append(threading.current_thread()), work()))

        stretching.run = watched
        assert (await keys.verify(token)).id == token.key_id
        with pytest.raises(InvalidKeyError):
            await keys.verify(wrong_secret(token.reveal()))
        assert await keys.verify(token)
        assert await keys.verify((await keys.create(name="ci")).token)
    assert len(threads) == 1, "argon2id once, hmac never"
    assert threads[0] is not threading.main_thread()


class DownStore(MemoryStore):
    """A store that cannot be opened, after a while."""

    async def open(self) -> None:
        """Fails."""
        await asyncio.sleep(0)
        raise UnavailableError("down")


def test_unstarted_keys_may_be_used_from_several_loops(secret):
    """Whatever fails fails as documented, in the second event loop as in the first."""
    keys = APIKeys(DownStore(), prefix="acme", secret=secret)

    async def three() -> list[object]:
        return await asyncio.gather(*(keys.list() for _ in range(3)), return_exceptions=True)

    for _ in range(2):
        assert {type(error) for error in asyncio.run(three())} == {UnavailableError}


def plain_key(key_id: str, now: datetime) -> APIKey:
    """A key with nothing but an id."""
    return APIKey(
        id=key_id,
        prefix="acme",
        name="ci",
        owner=None,
        scopes=frozenset(),
        metadata={},
        created_at=now,
    )
