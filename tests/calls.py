"""Random calls that manage keys, for Hypothesis, with values that a database could get wrong.

A call is drawn before anybody knows which keys there will be, so it names a key by its place
among those that were handed out, and a moment by its distance from now. Knows the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from model import LATEST, Model

PREFIXES = ("acme_live", "acme_test")
STRANGERS = ("0123456789abcdef", "no key id", "")
# Alike to a careless comparison: by case, blank, accent, form, width, pattern or quote.
OWNERS = ["u1", "U1", "u1 ", " u1", "ú1", "u\u03011", "ß", "ss", "🦊", "🦄", "u_", "u%", "\\", "'"]
NAMES = ["ci", "CI", "ci ", "ünï ☃", "x" * 255, "🦊" * 255, "'; -- %s %(a)s :b", "null", "a\u202eb"]
NO_TEXTS = ["", "a\nb", "x" * 256]
SCOPES = ["items", "items:read", "items:rea", "ITEMS:READ", "a/b.c_d-e:f", "0"]
METADATA = [
    None,
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": None},
    {"a": 0.1, "b": 1e308, "c": 5e-324, "d": -0.0},
    {"a": 2**63, "b": -(2**64) - 1, "c": 10**300},
    {"ü🦊": "\x00\x1f\u2028\uffff\\u0000'\"", "": [None, {}, []]},
    {"a": float("nan")},
]
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
FAR = timedelta(days=1_000_000)
DURATIONS = [
    timedelta(0),
    MICROSECOND,
    SECOND,
    timedelta(hours=1) - MICROSECOND,
    timedelta(days=90, microseconds=123_456),
    -MICROSECOND,
    FAR,  # ends before the last moment that there is, mostly
    timedelta.max,
]
ZONES = [
    UTC,
    timezone(timedelta(hours=14)),
    timezone(-timedelta(hours=11, minutes=59, seconds=59, microseconds=999_999)),
    None,
]


@dataclass(frozen=True)
class FromNow:
    """A moment, or a duration from now on, as far as that can be said."""

    distance: timedelta
    zone: timezone | None = UTC

    def moment(self, now: datetime) -> datetime:
        """The moment, in its zone; the last one there is if it were later."""
        moment = now + min(self.distance, LATEST - now)
        # No zone at all may be near the year 9999.
        zone = UTC if moment > LATEST - timedelta(days=1) else self.zone
        return moment.replace(tzinfo=None) if zone is None else moment.astimezone(zone)


@dataclass(frozen=True)
class Call:
    """A call, of which ``resolve`` says what it is now."""

    name: str
    arguments: Mapping[str, Any]

    def resolve(self, model: Model) -> dict[str, Any]:
        """The arguments of the call as the keys and the clock are."""
        resolved: dict[str, Any] = {}
        for name, value in self.arguments.items():
            if name == "key":
                resolved["key_id"] = key_id(model, value)
            elif name == "token":
                resolved["token"] = model.tokens.get(key_id(model, value), "acme_live_stranger")
            elif name == "end_of":
                resolved["by"] = until_end(model, value, self.arguments["by"])
            elif isinstance(value, FromNow):
                resolved[name] = value.moment(model.now)
            else:
                resolved.setdefault(name, value)
        return resolved

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


def key_id(model: Model, place: int) -> str:
    """A key by its place, counted from the latest one; a stranger's if it is negative."""
    ids = list(model.tokens)
    if place < 0 or not ids:
        return STRANGERS[place % len(STRANGERS)]
    return ids[-1 - place % len(ids)]


def until_end(model: Model, place: int, by: timedelta) -> timedelta:
    """How long a key lives from now, and a little more or less; that little, if it does not."""
    key = model.keys.get(key_id(model, place))
    if key is None or key.expires_at is None or key.expires_at - model.now > FAR / 100:
        return abs(by)
    return max(timedelta(0), key.expires_at - model.now + by)


def call(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    """Calls with these arguments, all of them given."""
    return st.builds(Call, st.just(name), st.fixed_dictionaries(arguments))


def call_with(
    name: str, needed: Mapping[str, Any], optional: Mapping[str, Any]
) -> st.SearchStrategy[Call]:
    """Calls with these arguments, some of which may be left out."""
    return st.builds(Call, st.just(name), st.fixed_dictionaries(needed, optional=optional))


def seldom(often: list[Any], rare: list[Any]) -> st.SearchStrategy[Any]:
    """One of the first, and now and then one of the others."""
    return st.integers(0, 19).flatmap(lambda dice: st.sampled_from(rare if dice == 19 else often))


places = seldom([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 8], [-1, -2, -3])
texts = seldom(NAMES, NO_TEXTS)
owners = st.sampled_from([*OWNERS[:1] * 9, *OWNERS])
scope_sets = st.lists(st.sampled_from(SCOPES), max_size=3)
moments = st.builds(FromNow, seldom(DURATIONS[1:5], DURATIONS), seldom(ZONES[:3], ZONES))
durations = seldom(DURATIONS[1:5], DURATIONS)
documents = st.sampled_from(METADATA) | st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=2,
)
actors = st.none() | texts
ends = st.one_of(
    st.just({}),
    moments.map(lambda moment: {"expires_at": moment}),
    durations.map(lambda duration: {"expires_in": duration}),
    seldom([{}], [{"expires_at": FromNow(SECOND), "expires_in": SECOND}]),
)
more = {"actor": actors}


def ending(calls: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
    """The same calls, with an expiry of either kind, or none."""
    return st.builds(lambda made, end: Call(made.name, {**made.arguments, **end}), calls, ends)


CALLS = {
    "wait": st.one_of(
        call("wait", by=st.sampled_from(DURATIONS[:5])),
        call("wait", end_of=places, by=st.sampled_from([-MICROSECOND, 0 * SECOND, MICROSECOND])),
    ),
    "create": ending(
        call_with(
            "create",
            {"name": texts, "owner": seldom(OWNERS[:1] * 9 + OWNERS, [None])},
            {
                "scopes": scope_sets,
                "metadata": documents,
                "prefix": seldom([None, *PREFIXES], ["acme", "ACME_LIVE", ""]),
                **more,
            },
        )
    ),
    "update": call_with(
        "update",
        {"key": places},
        {
            "name": texts,
            "scopes": scope_sets,
            "expires_at": st.none() | moments | moments,
            "metadata": documents,
            **more,
        },
    ),
    "rotate": ending(
        call_with("rotate", {"key": places, "grace": seldom(DURATIONS[:5], DURATIONS)}, more)
    ),
    "revoke": call_with("revoke", {"key": places}, {"reason": texts, **more}),
    "revoke_all": call_with("revoke_all", {"owner": owners}, {"reason": texts, **more}),
    "purge": call("purge", dead_for=seldom(DURATIONS[:5], DURATIONS)),
    "get": call("get", key=places),
    "events": call("events", key=places),
    "verify": call_with("verify", {"token": places}, {"scopes": scope_sets}),
    "list": call_with(
        "list",
        {},
        {
            "owner": owners,
            "prefix": st.sampled_from([*PREFIXES, "acme", "ACME_LIVE"]),
            "status": st.sampled_from(["active", "expired", "revoked"]),
            "scope": st.sampled_from(SCOPES),
            "name": texts.filter(lambda text: text not in NO_TEXTS),
            "unused_since": st.builds(FromNow, st.sampled_from([-SECOND, *DURATIONS[:3]])),
            "expiring_before": st.builds(FromNow, st.sampled_from(DURATIONS[:5])),
            "limit": st.sampled_from([1, 2, 3, 50]),
        },
    ),
}


def any_of(*names: str) -> st.SearchStrategy[Call]:
    """One of these calls; one that is named more often comes more often."""
    return st.sampled_from(names).flatmap(CALLS.__getitem__)
