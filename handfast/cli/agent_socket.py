"""Asking the agent beside a workload how it is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from handfast.errors import Unavailable

if TYPE_CHECKING:
    from handfast.wire.v1 import workload_pb2

__all__ = ["ask_agent"]

_HEADER = (("workload.spiffe.io", "true"),)


def ask_agent(path: Path) -> workload_pb2.AgentStatus:
    """Raises ``Unavailable`` (``NO_AGENT`` when nobody listens there), or what the agent answers."""
    import grpc

    from handfast.wire import codec
    from handfast.wire.v1 import workload_pb2
    from handfast.wire.v1.workload_pb2_grpc import WorkloadStub

    _look(path)
    with grpc.insecure_channel(f"unix:{path.absolute()}") as channel:
        try:
            return WorkloadStub(channel).GetStatus(workload_pb2.GetStatusRequest(), timeout=5, metadata=_HEADER)
        except grpc.RpcError as error:
            raise codec.from_rpc_error(error) from error


def _look(path: Path) -> None:
    """What the system says of the socket is for people; what gRPC says of it is not."""
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.connect(str(path.absolute()))
    except OSError as error:
        raise Unavailable(
            f"no agent answers at {path}: {error.strerror or error}",
            reason="NO_AGENT",
            hint="is `handfast agent run` running, and is `socket` in its configuration this path?",
        ) from error
