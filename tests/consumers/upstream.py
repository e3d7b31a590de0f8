"""A service behind a proxy: `http.server` over the library's TLS context, so that the proxy is its mTLS client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import handfast


class Upstream(ThreadingHTTPServer):
    """``/slow`` writes one half of its answer, and the other one when ``release`` is set."""

    daemon_threads = True

    def __init__(self, source: handfast.Source) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.source = source
        self.asked: list[str] = []
        self.release = threading.Event()

    def handle_error(self, *_request: object) -> None:
        """A handshake that was refused is a result, and the caller's to look at."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"se")
        if self.path == "/slow":
            self.server.release.wait(60)
        self.wfile.write(b"en")

    def log_message(self, *_words: object) -> None:
        return


@contextlib.contextmanager
def upstream(source: handfast.Source) -> Iterator[Upstream]:
    server = Upstream(source)
    server.socket = handfast.server_context(source).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
