"""What an agent sends over its socket, taken as one snapshot, however large (threat H6)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from handfast.access import in_trust_domain
from handfast.rpc.guard import Guard
from handfast.sources.socket import SocketSource
from handfast.testing import TestAuthority
from handfast.wire.codec import snapshot_to_wire
from handfast.wire.v1.report_pb2 import ServiceReceipt, ServiceReport
from handfast.wire.v1.workload_pb2 import AgentStatus, CredentialsSnapshot
from handfast.wire.v1.workload_pb2_grpc import WorkloadServicer, add_WorkloadServicer_to_server

MANY = 125_000
"""Without reasons, they make a list as long as a hundred thousand with reasons do."""
pytestmark = pytest.mark.timeout(120)


class OneSnapshot(WorkloadServicer):
    """An agent that says one thing and stays."""

    def __init__(self, message: CredentialsSnapshot) -> None:
        self._message = message
        self.reports: SimpleQueue[ServiceReport] = SimpleQueue()

    def WatchCredentials(self, request: Any, context: Any) -> Iterator[CredentialsSnapshot]:
        yield self._message

    def GetStatus(self, request: Any, context: Any) -> AgentStatus:
        return AgentStatus()

    def Report(self, request: ServiceReport, context: Any) -> ServiceReceipt:
        self.reports.put(request)
        return ServiceReceipt()


def test_a_list_of_more_than_four_megabytes_reaches_the_service(tmp_path: Path) -> None:
    """H6: more than gRPC takes unless it is told to."""
    authority = TestAuthority()
    authority.revoke_all(range(1 << 126, (1 << 126) + MANY))
    message = snapshot_to_wire(authority.issue("/web"))
    assert message.ByteSize() > 4 * 1024 * 1024
    server = grpc.server(ThreadPoolExecutor(2))
    add_WorkloadServicer_to_server(OneSnapshot(message), server)
    server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    server.start()
    source = SocketSource(tmp_path / "agent.sock", wait=60)
    try:
        credentials = source.current()
        issuer = credentials.leaf.issuer_key_id
        assert credentials.revocations.lists[issuer].serials == frozenset(range(1 << 126, (1 << 126) + MANY))
        assert credentials.revocations.revoked(issuer, 1 << 126)
    finally:
        source.close()
        server.stop(None).wait(5)


def test_a_guard_over_the_socket_tells_the_agent_its_policy_and_its_lists(tmp_path: Path) -> None:
    """What operators see in `handfast blast-radius`."""
    authority = TestAuthority()
    agent = OneSnapshot(snapshot_to_wire(authority.issue("/web")))
    server = grpc.server(ThreadPoolExecutor(2))
    add_WorkloadServicer_to_server(agent, server)
    server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    server.start()
    source = SocketSource(tmp_path / "agent.sock", wait=60)
    try:
        guard = Guard(source, in_trust_domain("test.example"))
        guard.close()
        report = agent.reports.get(timeout=20)
        while not report.policies:
            report = agent.reports.get(timeout=20)
        assert [policy.trust_domain for policy in report.policies] == ["test.example"]
        numbers = {known.number for known in source.current().revocations.lists.values()}
        assert {int(held.number) for held in report.lists} == numbers
    finally:
        source.close()
        server.stop(None).wait(5)
