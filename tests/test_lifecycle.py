"""What becomes of a key after it was made, the same in every store."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from keylatch import APIKeys
from keylatch.errors import (
    ExpiredKeyError,
    InvalidKeyError,
    KeyStateError,
    RevokedKeyError,
    UnknownKeyError,
)
from keylatch.memory import MemoryStore
from keylatch.records import KeyEvent

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


async def test_an_update_changes_what_is_given_and_nothing_else(keys, clock):
    """Each of the four can be changed alone; verify sees the change at once."""
    new = await keys.create(
        name="ci", owner="u1", scopes=["a"], metadata={"n": 1}, expires_in=DAY, actor="ada"
    )
    clock.advance(seconds=1)
    updated = await keys.update(new.key.id, scopes=["b", "c"], actor="bob")
    assert updated.scopes == {"b", "c"}
    assert (updated.name, updated.metadata) == ("ci", {"n": 1})
    assert updated.expires_at == new.key.expires_at
    assert (await keys.update(new.key.id, name="cd")).name == "cd"
    assert (await keys.update(new.key.id, metadata={"m": None})).metadata == {"m": None}
    assert (await keys.update(new.key.id, metadata=None)).metadata == {}
    assert (await keys.update(new.key.id, expires_at=None)).expires_at is None
    key = await keys.verify(new.token, scopes=["b"])
    assert (key.name, key.scopes, key.metadata) == ("cd", {"b", "c"}, {})
    assert (key.owner, key.created_at) == ("u1", new.key.created_at)


async def test_the_latest_entries_of_an_audit_trail_can_be_had_alone(keys):
    """The oldest of them first, as in the whole trail; all of them if there are fewer."""
    new, _ = await keys.create(name="0"), await keys.create(name="other")
    for number in range(1, 5):
        await keys.update(new.key.id, name=str(number))
    trail = await keys.events(new.key.id)
    assert [event.action for event in trail] == ["created", *["updated"] * 4]
    for latest in (1, 3, 5, 500):
        assert await keys.events(new.key.id, latest=latest) == trail[-latest:]
    for wrong in (0, -1, 501):
        with pytest.raises(ValueError, match="latest must be 1 to 500"):
            await keys.events(new.key.id, latest=wrong)
    with pytest.raises(UnknownKeyError):
        await keys.events("0" * 16, latest=1)


async def test_the_audit_trail_tells_what_an_update_changed(keys, clock):
    """An event has the old and the new of what changed, and nothing of what stayed."""
    new = await keys.create(name="ci", scopes=["b", "a"], expires_in=DAY)
    clock.advance(seconds=1)
    ends = clock.now + HOUR
    await keys.update(new.key.id, name="ci", scopes=["c"], expires_at=ends, actor="bob")
    assert (await keys.events(new.key.id))[1] == KeyEvent(
        key_id=new.key.id,
        at=clock.now,
        action="updated",
        actor="bob",
        details={
            "scopes": {"from": ["a", "b"], "to": ["c"]},
            "expires_at": {"from": new.key.expires_at.isoformat(), "to": ends.isoformat()},
        },
    )


async def test_an_update_that_changes_nothing_leaves_no_event(keys):
    """The same values again are no change."""
    new = await keys.create(name="ci", scopes=["a"])
    assert await keys.update(new.key.id, name="ci", scopes=["a"], expires_at=None) == new.key
    assert len(await keys.events(new.key.id)) == 1


async def test_metadata_that_python_takes_for_equal_is_updated(keys):
    """True, 1 and 1.0 are not the same in JSON, nor are 0.0 and -0.0."""
    new = await keys.create(name="ci", metadata={"a": [True, 0.0]})
    for value in ([1, 0.0], [1.0, 0.0], [1.0, -0.0], [True, 0.0]):
        await keys.update(new.key.id, metadata={"a": value})
        assert repr((await keys.get(new.key.id)).metadata) == repr({"a": value})
    assert len(await keys.events(new.key.id)) == 5


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({}, ValueError, "nothing to update"),
        ({"name": ""}, ValueError, "1 to 255"),
        ({"name": None}, TypeError, "str"),
        ({"scopes": "a"}, TypeError, "list"),
        ({"scopes": [""]}, ValueError, "1 to 64"),
        ({"metadata": {"a": "b" * 8192}}, ValueError, "8192"),
        ({"expires_at": datetime(2030, 1, 1)}, ValueError, "aware"),  # noqa: DTZ001
        ({"expires_at": datetime(2026, 1, 1, tzinfo=timezone(HOUR))}, ValueError, "future"),
        ({"expires_at": datetime(9999, 2, 1, tzinfo=timezone(HOUR))}, ValueError, "9999"),
        ({"expires_at": DAY}, TypeError, "datetime"),
        ({"name": "x", "actor": "a\nb"}, ValueError, "actor"),
    ],
)
async def test_a_bad_update_changes_nothing(keys, values, error, text):
    """Each bad value is named, and the key and its trail stay as they were."""
    new = await keys.create(name="ci")
    with pytest.raises(error, match=text):
        await keys.update(new.key.id, **values)
    assert await keys.get(new.key.id) == new.key
    assert len(await keys.events(new.key.id)) == 1


async def test_dead_keys_stay_as_they_are(keys, clock):
    """Neither an update nor a rotation brings back what was revoked or has expired."""
    revoked = await keys.create(name="ci", expires_in=HOUR)
    await keys.revoke(revoked.key.id)
    expired = await keys.create(name="ci", expires_in=HOUR)
    clock.advance(hours=1)
    for new, state in ((revoked, "revoked"), (expired, "expired")):
        before = await keys.get(new.key.id)
        for call in (
            keys.update(new.key.id, expires_at=None),
            keys.update(new.key.id, name="other"),
            keys.rotate(new.key.id, grace=DAY),
        ):
            with pytest.raises(KeyStateError, match="create a new one") as refused:
                await call
            assert refused.value.state == state
        assert await keys.get(new.key.id) == before
    assert len((await keys.list()).items) == 2


async def test_a_rotation_keeps_everything_but_the_secret(keys, clock):
    """The successor is the same key to the application; both open during the grace."""
    new = await keys.create(
        name="ci", owner="u1", scopes=["a", "b"], metadata={"team": "x"}, expires_in=90 * DAY
    )
    clock.advance(days=30)
    successor = await keys.rotate(new.key.id, grace=DAY, actor="ada")
    assert successor.token != new.token
    old, key = await keys.verify(new.token), await keys.verify(successor.token)
    assert key == successor.key
    assert (key.owner, key.name, key.prefix) == ("u1", "ci", "acme_live")
    assert (key.scopes, key.metadata) == ({"a", "b"}, {"team": "x"})
    assert (key.created_at, key.expires_at) == (clock.now, clock.now + 90 * DAY)
    assert (key.use_count, key.last_used_at, key.successor) == (0, None, None)
    assert (old.successor, old.expires_at) == (key.id, clock.now + DAY)
    clock.advance(days=1)
    with pytest.raises(ExpiredKeyError):
        await keys.verify(new.token)
    assert await keys.verify(successor.token)


async def test_the_audit_trail_tells_of_a_rotation_on_both_sides(keys, clock):
    """The old key names its successor, and the successor what it came from."""
    new = await keys.create(name="ci", owner="u1")
    successor = await keys.rotate(new.key.id, grace=DAY, actor="ada")
    assert (await keys.events(new.key.id))[1] == KeyEvent(
        key_id=new.key.id,
        at=clock.now,
        action="rotated",
        actor="ada",
        details={
            "successor": successor.key.id,
            "expires_at": (clock.now + DAY).isoformat(),
        },
    )
    (created,) = await keys.events(successor.key.id)
    assert (created.action, created.actor) == ("created", "ada")
    assert created.details["predecessor"] == new.key.id


@pytest.mark.parametrize(
    ("left", "grace", "lives"),
    [(None, DAY, DAY), (HOUR, DAY, HOUR), (2 * DAY, DAY, DAY), (DAY, DAY, DAY), (None, 0 * DAY, 0)],
)
async def test_a_rotated_key_never_lives_longer_than_it_would_have(keys, clock, left, grace, lives):
    """The old key ends with the grace, or when it would have ended, whichever comes first."""
    new = await keys.create(name="ci", expires_in=left)
    await keys.rotate(new.key.id, grace=grace)
    old = await keys.get(new.key.id)
    assert old.expires_at == clock.now + (lives or timedelta(0))
    if not lives:
        with pytest.raises(ExpiredKeyError):
            await keys.verify(new.token)


async def test_a_successor_lives_as_long_as_it_is_told(keys, clock):
    """Its own expiry, by duration or moment; without one, the lifetime of the old key."""
    kept = await keys.create(name="ci")
    assert (await keys.rotate(kept.key.id, grace=DAY)).key.expires_at is None
    for expiry in ({"expires_in": HOUR}, {"expires_at": clock.now + HOUR}):
        new = await keys.create(name="ci", expires_in=DAY)
        assert (await keys.rotate(new.key.id, grace=DAY, **expiry)).key.expires_at == (
            clock.now + HOUR
        )


async def test_a_rotated_key_is_rotated_once(keys):
    """Its successor is rotated next; a second successor would be lost."""
    new = await keys.create(name="ci")
    successor = await keys.rotate(new.key.id, grace=DAY)
    with pytest.raises(KeyStateError, match="successor") as refused:
        await keys.rotate(new.key.id, grace=DAY)
    assert refused.value.state == "rotated"
    third = await keys.rotate(successor.key.id, grace=DAY)
    assert await keys.verify(third.token)
    assert len((await keys.list()).items) == 3


async def test_the_grace_can_be_cut_short_and_not_drawn_out(keys, clock):
    """An update lets a rotated key end sooner, and keeps it from ending later or never."""
    new = await keys.create(name="ci")
    await keys.rotate(new.key.id, grace=DAY)
    for later in (None, clock.now + 2 * DAY):
        with pytest.raises(KeyStateError):
            await keys.update(new.key.id, expires_at=later)
    await keys.update(new.key.id, expires_at=clock.now + HOUR, name="going")
    clock.advance(hours=1)
    with pytest.raises(ExpiredKeyError):
        await keys.verify(new.token)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"grace": -HOUR}, ValueError, "negative"),
        ({"grace": timedelta.max}, ValueError, "9999"),
        ({"grace": 3600}, TypeError, "timedelta"),
        ({"grace": DAY, "expires_in": timedelta(0)}, ValueError, "future"),
        ({"grace": DAY, "expires_in": 7}, TypeError, "timedelta"),
        ({"grace": DAY, "expires_at": datetime(2030, 1, 1)}, ValueError, "aware"),  # noqa: DTZ001
        ({"grace": DAY, "actor": ""}, ValueError, "actor"),
    ],
)
async def test_a_bad_rotation_changes_nothing(keys, values, error, text):
    """Each bad value is named, and there is no successor."""
    new = await keys.create(name="ci")
    with pytest.raises(error, match=text):
        await keys.rotate(new.key.id, **values)
    assert (await keys.list()).items == [new.key]


async def test_a_revoked_key_in_its_grace_leaves_its_successor_alone(keys):
    """To revoke the old key is the end of the old key only."""
    new = await keys.create(name="ci")
    successor = await keys.rotate(new.key.id, grace=DAY)
    await keys.revoke(new.key.id)
    with pytest.raises(RevokedKeyError):
        await keys.verify(new.token)
    assert await keys.verify(successor.token)


async def test_an_incident_revokes_every_key_of_an_owner(keys, clock):
    """All of them, old ones in their grace included, and no key of anybody else."""
    mine = [await keys.create(name=str(number), owner="u1") for number in range(3)]
    mine.append(await keys.rotate(mine[0].key.id, grace=DAY))
    gone = await keys.create(name="gone", owner="u1")
    first = await keys.revoke(gone.key.id, reason="before")
    others = [await keys.create(name="x", owner=owner) for owner in ("U1", "u1 ", "u", None)]
    clock.advance(seconds=1)
    revoked = await keys.revoke_all(owner="u1", reason="stolen laptop", actor="ops")
    assert sorted(revoked) == sorted(new.key.id for new in mine)
    for new in mine:
        with pytest.raises(RevokedKeyError):
            await keys.verify(new.token)
        event = (await keys.events(new.key.id))[-1]
        assert (event.action, event.actor) == ("revoked", "ops")
        assert event.details == {"reason": "stolen laptop"}
    for new in others:
        assert await keys.verify(new.token)
    assert (await keys.get(gone.key.id)) == first
    assert await keys.revoke_all(owner="u1") == []


async def test_an_owner_of_many_keys_is_revoked_whole(keys):
    """Also where the store takes more than one statement for them."""
    template = await keys._store.load((await keys.create(name="ci", owner="u1")).key.id)
    records = many(template, 1_203)
    await keys._store.insert(records)
    assert len(await keys.revoke_all(owner="u1")) == 1_204
    assert (await keys.list(owner="u1", status="active")).items == []


def many(template, count):
    """That many records like one, with ids of their own."""
    return [
        (
            replace(template, key=replace(template.key, id=f"{number:016}")),
            KeyEvent(
                key_id=f"{number:016}",
                at=template.key.created_at,
                action="created",
                actor=None,
                details={},
            ),
        )
        for number in range(count)
    ]


async def test_purge_deletes_what_has_been_dead_for_long(keys, clock):
    """Revoked and expired keys go with their trails, once dead for the time, and no others."""
    revoked = await keys.create(name="revoked")
    await keys.revoke(revoked.key.id)
    await keys.create(name="expired", expires_in=HOUR)
    stays = await keys.create(name="stays")
    clock.advance(hours=1)
    late = await keys.create(name="late", expires_in=HOUR)
    clock.advance(days=30, hours=-1, microseconds=-1)
    assert await keys.purge(dead_for=30 * DAY) == 0
    clock.advance(microseconds=1)
    assert await keys.purge(dead_for=30 * DAY) == 1
    with pytest.raises(UnknownKeyError):
        await keys.get(revoked.key.id)
    with pytest.raises(UnknownKeyError):
        await keys.events(revoked.key.id)
    with pytest.raises(InvalidKeyError):
        await keys.verify(revoked.token)
    assert await keys._store.events(revoked.key.id) == []
    clock.advance(hours=1)
    assert await keys.purge(dead_for=30 * DAY) == 1
    assert {key.id for key in (await keys.list()).items} == {stays.key.id, late.key.id}
    assert await keys.verify(stays.token)
    marks = await keys._store.changes(after=None, missing=(), limit=500)
    assert {mark.key_id for mark in marks} == {stays.key.id, late.key.id}


async def test_purge_goes_on_until_nothing_dead_is_left(keys, clock):
    """Also where the store takes more than one statement for them."""
    new = await keys.create(name="ci", expires_in=HOUR)
    template = await keys._store.load(new.key.id)
    await keys._store.insert(many(template, 1_203))
    clock.advance(hours=2)
    assert await keys.purge(dead_for=HOUR) == 1_204
    assert (await keys.list()).items == []


@pytest.mark.parametrize(
    "dead_for", [-HOUR, timedelta(0), HOUR - timedelta(microseconds=1), timedelta.max]
)
async def test_purge_refuses_a_time_that_cannot_be(keys, dead_for):
    """A slip in the sign would delete what lives; a short time what workers must hear."""
    with pytest.raises(ValueError, match="dead_for"):
        await keys.purge(dead_for=dead_for)


async def test_list_filters_by_everything_at_once(keys, clock):
    """Each filter compares whole, and all of them must pass."""
    await keys.create(name="ci", owner="u1", scopes=["read", "a/b"], expires_in=DAY)
    await keys.create(name="ci ", owner="u1", scopes=["read:all"], expires_in=3 * DAY)
    await keys.create(name="CI", owner="u2", scopes=["READ"])
    await keys.create(name="ci", owner="u2")

    async def names(**filters):
        return [(key.name, key.owner) for key in (await keys.list(**filters)).items]

    assert sorted(await names(name="ci")) == [("ci", "u1"), ("ci", "u2")]
    assert await names(name="CI") == [("CI", "u2")]
    assert await names(scope="read") == [("ci", "u1")]
    assert await names(scope="a/b") == [("ci", "u1")]
    assert await names(scope="READ") == [("CI", "u2")]
    assert await names(scope="rea") == []
    assert await names(scope="read", owner="u2") == []
    assert await names(owner="u2", name="ci", status="active") == [("ci", "u2")]
    assert await names(prefix="acme_liv") == []
    assert len(await names(prefix="acme_live")) == 4
    assert await names(expiring_before=clock.now + DAY) == []
    assert await names(expiring_before=clock.now + 2 * DAY) == [("ci", "u1")]


async def test_list_finds_keys_that_nobody_used(keys, clock):
    """Unused since a moment: neither used nor made since then."""
    old = await keys.create(name="old")
    clock.advance(days=30)
    await keys.create(name="young")
    found = (await keys.list(unused_since=clock.now)).items
    assert [key.id for key in found] == [old.key.id]
    assert (await keys.list(unused_since=clock.now - 30 * DAY)).items == []
    tokyo = clock.now.astimezone(timezone(timedelta(hours=9)))
    assert (await keys.list(unused_since=tokyo)).items == found


@pytest.mark.parametrize(
    "filters",
    [
        {"unused_since": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"expiring_before": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"scope": "a b"},
        {"name": ""},
        {"prefix": "a" * 256},
    ],
)
async def test_list_refuses_filters_that_nothing_passes(keys, filters):
    """A naive moment or a malformed name is a mistake, not an empty page."""
    with pytest.raises(ValueError, match=r"must be|a scope is"):
        await keys.list(**filters)


async def test_dead_keys_are_listed_by_their_end(keys, clock):
    """The latest end first, with pages; those about to end are listed soonest first."""
    ids = []
    for number in range(5):
        new = await keys.create(name=str(number), expires_in=(10 - number) * HOUR)
        ids.append(new.key.id)

    async def paged(**filters):
        found, cursor = [], None
        while True:
            page = await keys.list(limit=2, cursor=cursor, **filters)
            found += [key.id for key in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found

    assert await paged(expiring_before=clock.now + 10 * HOUR) == ids[:0:-1]
    assert await paged(expiring_before=clock.now + 9 * HOUR, status="active") == ids[:1:-1]
    clock.advance(hours=10)
    assert await paged(status="expired") == ids
    for key_id in (ids[2], ids[0], ids[4]):
        clock.advance(seconds=1)
        await keys.revoke(key_id)
    assert await paged(status="revoked") == [ids[4], ids[0], ids[2]]
    assert await paged(status="expired") == [ids[1], ids[3]]


async def test_a_cursor_belongs_to_one_order(keys, clock):
    """A page of revoked keys does not go on as a page of all keys."""
    for _ in range(3):
        await keys.create(name="ci", expires_in=HOUR)
    cursor = (await keys.list(limit=1)).next_cursor
    assert (await keys.list(limit=1, cursor=cursor, status="active")).items
    for filters in (
        {"status": "revoked"},
        {"status": "expired"},
        {"expiring_before": clock.now + DAY},
    ):
        with pytest.raises(ValueError, match="other filters"):
            await keys.list(cursor=cursor, **filters)


async def test_one_collection_takes_several_prefixes(store, secret, clock):
    """Live and test keys live side by side; others are refused unread."""
    both = APIKeys(store, prefix=["acme_live", "acme_test"], secret=secret, clock=clock)
    live = APIKeys(store, prefix="acme_live", secret=secret, clock=clock)
    async with both:
        first = await both.create(name="live")
        test = await both.create(name="test", prefix="acme_test")
        assert first.token.startswith("acme_live_")
        assert test.token.startswith("acme_test_")
        for new in (first, test):
            assert await both.verify(new.token) == new.key
        assert await live.verify(first.token)
        with pytest.raises(InvalidKeyError):
            await live.verify(test.token)
        assert [key.id for key in (await both.list(prefix="acme_test")).items] == [test.key.id]
        successor = await both.rotate(test.key.id, grace=DAY)
        assert successor.key.prefix == "acme_test"
        with pytest.raises(ValueError, match="acme_live, acme_test"):
            await both.create(name="ci", prefix="acme")
        assert (both.prefix, both.prefixes) == ("acme_live", ("acme_live", "acme_test"))
        await store.close()


@pytest.mark.parametrize("prefix", [[], ["acme", "1x"], ["acme", ""]])
def test_a_collection_needs_prefixes_that_are_some(secret, prefix):
    """None at all, or a malformed one among them, is refused at once."""
    with pytest.raises(ValueError, match="prefix"):
        APIKeys(MemoryStore(), prefix=prefix, secret=secret)
