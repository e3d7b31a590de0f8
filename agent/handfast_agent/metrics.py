"""The agent's metrics in OpenMetrics, made from what is known when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.openmetrics.exposition import generate_latest

from handfast.revocation import Freshness
from handfast_agent.condition import Condition

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(look: Callable[[], Condition], failures: Callable[[], dict[str, int]]) -> bytes:
    """The whole text."""
    registry = CollectorRegistry()
    registry.register(_Metrics(look, failures))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Metrics:
    """Nothing is counted twice."""

    def __init__(self, look: Callable[[], Condition], failures: Callable[[], dict[str, int]]) -> None:
        self._look = look
        self._failures = failures

    def collect(self) -> Iterator[Metric]:
        now = self._look()
        gauges = {
            "certificate_expiry_timestamp_seconds": now.not_after and now.not_after.timestamp(),
            "next_renewal_timestamp_seconds": now.next_renewal and now.next_renewal.timestamp(),
            "last_success_timestamp_seconds": now.last_success and now.last_success.timestamp(),
            "outage_budget_seconds": now.outage_budget_seconds,
            "crl_age_seconds": now.crl_age_seconds,
            "staple_expiry_timestamp_seconds": now.staple_until and now.staple_until.timestamp(),
            "generation": now.generation,
            "ready": float(now.ready),
            "hooks_failing": len(now.failing_hooks),
            "connected": float(now.connected),
        }
        for name, value in gauges.items():
            yield GaugeMetricFamily(f"handfast_agent_{name}", name.replace("_", " "), value=value or 0.0)
        freshness = GaugeMetricFamily(
            "handfast_agent_freshness", "1 for the state that the revocation list is in", labels=["state"]
        )
        for state in Freshness:
            freshness.add_metric([str(state)], float(state is now.freshness))
        yield freshness
        failures = CounterMetricFamily("handfast_agent_failures", "failed attempts and refused news", labels=["reason"])
        for reason, count in self._failures().items():
            failures.add_metric([reason], count)
        yield failures
