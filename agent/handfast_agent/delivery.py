"""``handfast.v1.Workload`` on a Unix socket whose directory lets nobody else in (threats E8, E9)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc.aio

from handfast.credentials import Credentials
from handfast.crl_history import StepHistory
from handfast.errors import HandfastError, Invalid, Refused
from handfast.revocation import Revocations
from handfast.sources.static import StaticSource
from handfast.wire import codec
from handfast.wire.v1 import report_pb2, workload_pb2
from handfast.wire.v1.workload_pb2_grpc import WorkloadServicer, add_WorkloadServicer_to_server
from handfast_agent.condition import Condition

__all__ = ["serve_socket"]

_HEADER = "workload.spiffe.io"


@contextlib.asynccontextmanager
async def serve_socket(
    path: Path,
    source: StaticSource,
    generation: Callable[[], int],
    look: Callable[[], Condition],
    report: Callable[[report_pb2.ServiceReport], None] = lambda _report: None,
) -> AsyncIterator[None]:
    """Serves until the block ends. Raises ``Refused`` (``UNSAFE_DIRECTORY``, ``SOCKET_IN_USE``)."""
    _private_directory(path.parent)
    _refuse_a_live_one(path)
    server = grpc.aio.server(maximum_concurrent_rpcs=1024)
    add_WorkloadServicer_to_server(_Workload(source, generation, look, report), server)  # type: ignore[no-untyped-call,unused-ignore]
    old = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise Refused(f"socket {path} cannot be bound: {error}", reason="SOCKET_IN_USE") from error
    finally:
        os.umask(old)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0.2)
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one system call at the end


def _private_directory(directory: Path) -> None:
    """grpcio cannot say who is at the other end of a Unix socket: the directory is the guard."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise Refused(
            f"directory {directory} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}: "
            "others could reach the workload's key",
            reason="UNSAFE_DIRECTORY",
            hint=f"chmod 0700 {directory}, and let it belong to the agent's user",
        )


def _refuse_a_live_one(path: Path) -> None:
    """gRPC takes the place of any socket. One that nobody listens on was left by an agent that was killed."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as tried:
        tried.connect(os.fspath(path))
        raise Refused(
            f"somebody serves at the socket {path}",
            reason="SOCKET_IN_USE",
            hint="give each agent a `socket` of its own, or end the other one first",
        )


class _Workload(WorkloadServicer):
    def __init__(
        self,
        source: StaticSource,
        generation: Callable[[], int],
        look: Callable[[], Condition],
        report: Callable[[report_pb2.ServiceReport], None],
    ) -> None:
        self._report = report
        self._source = source
        self._generation = generation
        self._look = look
        self._history = StepHistory()
        source.subscribe(self._note)
        self._note(source.peek())

    def _note(self, credentials: Credentials | None) -> None:
        """Called where the agent publishes: on its event loop, as everything here."""
        for newest in credentials.revocations.lists.values() if credentials is not None else ():
            self._history.note(newest)

    async def WatchCredentials(  # noqa: N802  # named by the .proto
        self, request: workload_pb2.WatchCredentialsRequest, context: Any
    ) -> AsyncIterator[workload_pb2.CredentialsSnapshot]:
        await _demand_header(context)
        news = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell(_credentials: Credentials | None) -> None:
            loop.call_soon_threadsafe(news.set)

        history = self._history if request.crl_changes else None
        sent: Revocations | None = None
        unsubscribe = self._source.subscribe(tell)
        try:
            while True:
                news.clear()
                present = self._source.peek()
                yield codec.snapshot_to_wire(present, generation=self._generation(), before=sent, history=history)
                sent = present.revocations if present is not None else None
                await news.wait()
        finally:
            unsubscribe()

    async def GetStatus(  # noqa: N802  # named by the .proto
        self, request: workload_pb2.GetStatusRequest, context: Any
    ) -> workload_pb2.AgentStatus:
        await _demand_header(context)
        return _status(self._look())

    async def Report(self, request: report_pb2.ServiceReport, context: Any) -> report_pb2.ServiceReceipt:  # noqa: N802
        await _demand_header(context)
        try:
            self._report(request)
        except HandfastError as error:
            await codec.abort(context, error)
        return report_pb2.ServiceReceipt()


async def _demand_header(context: Any) -> None:
    """A browser or a server tricked into a request cannot send this header (SPIFFE Workload Endpoint, 3)."""
    if (_HEADER, "true") not in [(key, value) for key, value in context.invocation_metadata()]:
        await codec.abort(
            context, Invalid(f"the metadata {_HEADER}: true is missing", reason="SECURITY_HEADER_MISSING")
        )


def _status(now: Condition) -> workload_pb2.AgentStatus:
    values = asdict(now) | {"state": str(now.state), "freshness": str(now.freshness), "ready": now.ready}
    values["checks"] = [workload_pb2.Check(name=c.name, ok=c.ok, detail=c.detail) for c in now.checks]
    del values["staple_until"]  # /metrics tells it
    times = {"not_before", "not_after", "next_renewal", "last_success", "crl_next_update"}
    for name in times:
        moment = values.pop(name)
        if moment is not None:
            values[name] = codec.time_to_wire(moment)
    from importlib.metadata import version  # 1.5 MB and 20 ms, which an agent that nobody asks need not spend

    return workload_pb2.AgentStatus(**values, version=version("handfast-agent"))
