"""Who answers in place of a server that must not be spoken to: every call ends at once, with the reason as its status.

gRPC's own word for a connection that we did not let through would be ``UNAVAILABLE: Socket closed``, which tells a person
nothing and a program to try again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from handfast.errors import HandfastError
from handfast.wire import codec

__all__ = ["Refusals"]


class Refusals(grpc.GenericRpcHandler):
    """A gRPC server on a private Unix socket, started when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._error: HandfastError | None = None
        self._server: grpc.Server | None = None

    def answering(self, error: HandfastError) -> Path:
        """The socket where every call ends with ``error`` from now on."""
        self._error = error
        if self._server is None:
            self._server = grpc.server(ThreadPoolExecutor(1, "handfast-refusals"), handlers=[self])
            self._server.add_insecure_port(f"unix:{self._path}")
            self._server.start()
        return self._path

    def close(self) -> None:
        if self._server is not None:
            self._server.stop(None)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        # Whatever the call's own shape is, a status without a message ends it.
        return grpc.stream_stream_rpc_method_handler(self._end)

    def _end(self, _requests: Any, context: Any) -> Any:
        assert self._error is not None
        return codec.abort_sync(context, self._error)
