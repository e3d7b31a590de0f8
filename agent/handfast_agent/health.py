"""``/livez``, ``/readyz`` and ``/metrics`` for whoever runs the pod. Public facts only, on a thread of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from handfast.revocation import Freshness
from handfast_agent.condition import Condition

__all__ = ["serve_health"]

Look = Callable[[], Condition]
Failures = Callable[[], dict[str, int]]


@contextlib.contextmanager
def serve_health(host: str, port: int, look: Look, failures: Failures) -> Iterator[int]:
    """Serves until the block ends; gives the port, which the system chose when it was 0."""
    registry = CollectorRegistry()
    registry.register(_Metrics(look, failures))
    server = _Server((host, port), _Handler)
    server.look, server.registry = look, registry
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    look: Look
    registry: CollectorRegistry


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5

    def do_GET(self) -> None:  # named by http.server
        if self.path == "/livez":
            self._send(200, "application/json", b'{"live": true}\n')
        elif self.path == "/readyz":
            self._send_readiness(self.server.look())
        elif self.path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, _exposition(self.server.registry))
        else:
            self._send(404, "application/json", b'{"error": "there is /livez, /readyz and /metrics"}\n')

    def _send_readiness(self, now: Condition) -> None:
        checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in now.checks]
        body = (
            json.dumps(
                {"ready": now.ready, "state": str(now.state), "freshness": str(now.freshness), "checks": checks}
            ).encode()
            + b"\n"
        )
        self._send(200 if now.ready else 503, "application/json", body)

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Probes come every few seconds: they are no news."""


def _exposition(registry: CollectorRegistry) -> bytes:
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Metrics:
    """Read when they are asked for; nothing is counted twice."""

    def __init__(self, look: Look, failures: Failures) -> None:
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
            "generation": now.generation,
            "ready": float(now.ready),
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
