"""The management routes hold to their own OpenAPI document, whatever a client sends.

Schemathesis makes the requests up; ``KEYLATCH_SOAK=1`` makes up twenty times as many.
"""

import asyncio
import os
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import CHECKS, load_all_checks

from keylatch import APIKeys, SecretRing
from keylatch.fastapi import APIKeyAuth, keys_router
from keylatch.memory import MemoryStore

EXAMPLES = 15 * (20 if os.environ.get("KEYLATCH_SOAK") else 1)
OPERATIONS = 7
# A document cannot say that a moment must lie ahead, or that one of two values excludes the other;
# and FastAPI's 405 allows the methods of one route of a path only.
EXCLUDED = {"positive_data_acceptance", "allow_header_conformance"}

load_all_checks()
checks = [check for check in CHECKS.get_all() if check.__name__ not in EXCLUDED]


async def made(keys: APIKeys) -> tuple[str, list[str]]:
    """A key that may do all that there is, and the ids of some for it to act on."""
    calling = await keys.create(
        name="calling", owner="u1", scopes=["keys:read", "keys:write", "keys:admin", "items:read"]
    )
    others = [await keys.create(name=f"{number}", owner="u1") for number in range(4)]
    ended = await keys.create(name="ended", expires_in=timedelta(microseconds=1))
    return calling.token, [new.key.id for new in (*others, ended)]


@pytest.fixture(scope="module")
def cases() -> list[st.SearchStrategy[Case]]:
    """Requests to each route, right ones and wrong ones, about keys that exist and others."""
    keys = APIKeys(MemoryStore(), prefix=["acme_live", "acme_test"], secret=SecretRing.generate())
    app = FastAPI()
    app.include_router(keys_router(APIKeyAuth(keys)), prefix="/api-keys")
    token, ids = asyncio.run(made(keys))
    headers = {"Authorization": f"Bearer {token}"}
    schema = openapi.from_asgi("/openapi.json", app)
    cases = []
    for operation in (found.ok() for found in schema.get_all_operations()):
        given: list[dict[str, Any]] = [{}]
        if "{key_id}" in operation.path:
            given += [{"path_parameters": {"key_id": key_id}} for key_id in ids]
        strategies = [
            operation.as_strategy(mode, headers=headers, **parameters)
            for mode in GenerationMode
            for parameters in given
        ]
        cases.append(st.one_of(strategies))
    return cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(OPERATIONS))
def test_no_request_is_answered_otherwise_than_documented(cases, number):
    """No 500, no status, header or body that the document does not have, no bad value taken."""
    assert len(cases) == OPERATIONS

    @given(cases[number])
    @settings(
        max_examples=EXAMPLES,
        phases=set(Phase) - {Phase.explain},
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case) -> None:
        case.call_and_validate(checks=checks)

    ask()
