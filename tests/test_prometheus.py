"""What a scrape of the metrics shows."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from subject import SILENT

from keylatch import APIKeys, Happening
from keylatch.errors import InvalidKeyError
from keylatch.memory import MemoryStore
from keylatch.prometheus import HealthCollector

pytestmark = pytest.mark.anyio


async def test_a_scrape_shows_the_health_of_each_collection(secret, wrong_secret):
    """By the names that dashboards and alerts are built on."""
    registry = CollectorRegistry()
    keys = APIKeys(MemoryStore(), prefix="acme", secret=secret, **SILENT)
    idle = APIKeys(MemoryStore(), prefix="partner", secret=secret)
    registry.register(HealthCollector(keys))
    registry.register(HealthCollector(idle, name="partners"))

    @keys.on_event
    async def fail(happening: Happening) -> None:
        raise RuntimeError

    async with keys:
        new = await keys.create(name="ci")
        await keys.flush()
        for _ in range(3):
            await keys.verify(new.token)
        with pytest.raises(InvalidKeyError):
            await keys.verify(wrong_secret(new.token))
        shown = generate_latest(registry).decode()
    for line in (
        'keylatch_started{collection="acme"} 1.0',
        'keylatch_started{collection="partners"} 0.0',
        'keylatch_fresh{collection="acme"} 1.0',
        'keylatch_cached_keys{collection="acme"} 1.0',
        'keylatch_lookups_total{collection="acme",result="hit"} 2.0',
        'keylatch_lookups_total{collection="acme",result="miss"} 1.0',
        'keylatch_refusals_total{code="invalid_key",collection="acme"} 1.0',
        'keylatch_unwritten_usage_keys{collection="acme"} 1.0',
        'keylatch_lost_usage_total{collection="acme"} 0.0',
        'keylatch_waiting_events{collection="acme"} 1.0',
        'keylatch_dropped_events_total{collection="acme"} 0.0',
        'keylatch_failed_callbacks_total{collection="acme"} 1.0',
    ):
        assert line in shown.splitlines()
    assert 'keylatch_feed_age_seconds{collection="acme"} ' in shown
    assert 'keylatch_feed_age_seconds{collection="partners"}' not in shown
    assert new.token not in shown
