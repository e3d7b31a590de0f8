"""``/livez``, ``/readyz`` and ``/metrics`` for whoever runs the pod. Public facts only, on a thread of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from handfast.errors import Unavailable
from handfast_agent.condition import Condition

__all__ = ["serve_health"]

Look = Callable[[], Condition]
Failures = Callable[[], dict[str, int]]


@contextlib.contextmanager
def serve_health(host: str, port: int, look: Look, failures: Failures) -> Iterator[int]:
    """Serves until the block ends; gives the port, which the system chose when it was 0. Raises ``Unavailable``
    (``ADDRESS_IN_USE``) when it cannot be had.
    """
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        raise Unavailable(
            f"health: {host}:{port} cannot be had: {error.strerror or error}",
            reason="ADDRESS_IN_USE",
            hint="`health` in the configuration says where to serve it; another agent may be there already",
        ) from error
    server.look, server.failures = look, failures
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
    failures: Failures


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5

    def do_GET(self) -> None:  # named by http.server
        if self.path == "/livez":
            self._send(200, "application/json", b'{"live": true}\n')
        elif self.path == "/readyz":
            self._send_readiness(self.server.look())
        elif self.path == "/metrics":
            from handfast_agent.metrics import (  # 1.5 MB that an agent nobody scrapes need not spend
                CONTENT_TYPE,
                exposition,
            )

            self._send(200, CONTENT_TYPE, exposition(self.server.look, self.server.failures))
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
