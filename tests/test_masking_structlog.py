"""Masking of what objects tell structlog alone, by the hook that its renderer of JSON asks."""

import json
import weakref

import pytest
import structlog
from logged import MASKED, TOKEN

from keylatch.masked import WITHHELD
from keylatch.masking import mask_tokens


class User:
    """Tells structlog more of itself than its text does."""

    def __init__(self, told):
        self.told = told

    def __repr__(self):
        return "<quiet>"

    def __structlog__(self):
        if isinstance(self.told, Exception):
            raise self.told
        return {"user": self.told}


class Proxy:
    """Stands for another object, and says that it is of its type, as lazy ones do."""

    def __init__(self, held):
        self._held = held

    def __getattr__(self, name):
        return getattr(self._held, name)

    def __repr__(self):
        return repr(self._held)

    @property
    def __class__(self):
        return type(self._held)


def rendered(value):
    """What structlog writes of it as JSON, and what it was given for that."""
    event = mask_tokens(None, "info", {"event": "x", "user": value})
    return json.loads(structlog.processors.JSONRenderer()(None, "info", dict(event))), event


@pytest.mark.parametrize("stands", [lambda user: user, Proxy, weakref.proxy])
def test_what_an_object_tells_structlog_is_masked(stands):
    """By its own hook, which the renderer asks, also through a proxy."""
    user = User([TOKEN, 1])
    line, event = rendered(stands(user))
    assert line["user"] == {"user": [MASKED, 1]}
    assert str(event["user"]) == "<quiet>"
    assert rendered(event["user"])[1]["user"] is event["user"]


def test_the_hook_of_structlog_is_asked_where_there_is_one():
    """Without a token the object stays; where the hook fails, that value alone is withheld."""
    user = User(1)
    line, event = rendered(user)
    assert (line["user"], event["user"]) == ({"user": 1}, user)
    assert rendered(User(ValueError(TOKEN)))[0] == {"event": "x", "user": WITHHELD}
    assert rendered(User(AttributeError(TOKEN)))[0]["user"] == "<quiet>"
    # What stands for an object without one is written as its text, as the object would be.
    assert rendered(ValueError(TOKEN))[0]["user"] == f"ValueError('{MASKED}')"
