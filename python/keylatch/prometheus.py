"""The health of a collection as Prometheus metrics. Knows prometheus_client and the collection."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keylatch.keys import APIKeys


class HealthCollector(Collector):
    """Reads ``keys.health()`` whenever it is scraped: ``REGISTRY.register(HealthCollector(keys))``.

    Args:
        keys: The collection. Its metrics are those of this process.
        name: Tells several collections apart, as the label ``collection``; its first prefix if
            left out.
    """

    def __init__(self, keys: APIKeys, *, name: str | None = None) -> None:
        self._keys = keys
        self._name = name or keys.prefix

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics as they are now."""
        health, label = self._keys.health(), [self._name]
        for name, text, value in (
            ("started", "Whether the collection was started, so that it caches.", health.started),
            ("fresh", "Whether cached keys count now.", health.fresh),
            ("cached_keys", "Keys that are cached, absent ones among them.", health.cached_keys),
            (
                "unwritten_usage_keys",
                "Keys whose last uses are not in the database yet.",
                health.unwritten_usage,
            ),
            (
                "waiting_events",
                "Events that callbacks have still to be told.",
                health.waiting_events,
            ),
        ):
            gauge = GaugeMetricFamily(f"keylatch_{name}", text, labels=["collection"])
            gauge.add_metric(label, float(value))
            yield gauge
        age = GaugeMetricFamily(
            "keylatch_feed_age_seconds",
            "Seconds since all was known that had changed until then.",
            labels=["collection"],
        )
        if health.feed_age is not None:
            age.add_metric(label, health.feed_age)
        yield age
        lookups = CounterMetricFamily(
            "keylatch_lookups",
            "Requests that a cached key let pass (hit), and those it did not tell of (miss).",
            labels=["collection", "result"],
        )
        lookups.add_metric([self._name, "hit"], health.hits)
        lookups.add_metric([self._name, "miss"], health.misses)
        yield lookups
        refusals = CounterMetricFamily(
            "keylatch_refusals",
            "Requests that were refused, by the code of the error.",
            labels=["collection", "code"],
        )
        for code, count in health.refusals.items():
            refusals.add_metric([self._name, code], count)
        yield refusals
        for name, text, value in (
            (
                "lost_usage",
                "Uses that will not be counted: the database was away for too long.",
                health.lost_usage,
            ),
            (
                "dropped_events",
                "Events that no callback will be told.",
                health.dropped_events,
            ),
            (
                "failed_callbacks",
                "Calls of callbacks that raised, or did not end in time.",
                health.failed_callbacks,
            ),
        ):
            counter = CounterMetricFamily(f"keylatch_{name}", text, labels=["collection"])
            counter.add_metric(label, value)
            yield counter
