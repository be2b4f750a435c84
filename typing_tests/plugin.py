"""What a type checker makes of the pytest plugin. It is checked, and never run."""

from datetime import datetime, timedelta
from typing import assert_type

from fastapi import FastAPI
from starlette.testclient import TestClient

from keylatch import APIKeys, NewKey
from keylatch.fastapi import APIKeyAuth
from keylatch.testing import Clock, MakesClients, MakesKeys


def a_test(
    keylatch_keys: APIKeys,
    keylatch_key: MakesKeys,
    keylatch_client: MakesClients,
    keylatch_clock: Clock,
) -> None:
    """What the fixtures give."""
    assert_type(keylatch_keys.prefix, str)
    assert_type(keylatch_key("items:read", owner="u1"), NewKey)
    auth = APIKeyAuth(keylatch_keys)
    assert_type(keylatch_client(FastAPI(), auth, "items:read", owner="u1"), TestClient)
    assert_type(keylatch_clock(), datetime)
    assert_type(keylatch_clock.now, datetime)
    assert_type(keylatch_clock.advance(timedelta(days=90)), None)
