"""From a guard's policy to the operator's screen, over the agent's socket and the wire; and a revocation counted down."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.access import allow
from handfast.rpc.guard import AioGuard
from handfast.sources.socket import SocketSource
from handfast.wire import codec
from handfast.wire.v1 import registry_pb2, report_pb2
from handfast_agent.delivery import serve_socket
from handfast_agent.reporting import Reporting
from handfast_agent.serve import Agent
from handfast_ca.incident import MassFilter
from tests.ca_edges.mesh import Mesh
from tests.ca_edges.running import OPERATOR, running_ca

WEB, PAY, AWAY = (f"spiffe://test.example/{name}" for name in ("web", "pay", "away"))
pytestmark = pytest.mark.timeout(90)


async def until(stub: Any, fits: Any, **asked: str) -> registry_pb2.BlastRadius:
    """Looks again and again; raises with what it saw last."""
    seen = registry_pb2.BlastRadius()
    try:
        async with asyncio.timeout(30):
            while True:
                seen = await stub.GetBlastRadius(registry_pb2.BlastRadiusRequest(**asked))
                assert isinstance(seen, registry_pb2.BlastRadius)
                if fits(seen):
                    return seen
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within 30 s: {seen}") from None


def reporting(agent: Agent, stack: AsyncExitStack) -> tuple[Reporting, asyncio.Task[None]]:
    made = Reporting(agent.driver, agent.upstream, agent.source, agent.draw, agent.clock.monotonic)
    task = asyncio.create_task(made.run())
    stack.callback(task.cancel)
    return made, task


async def test_a_revocation_counts_down_to_nothing_as_agents_and_services_confirm_it(tmp_path: Path) -> None:
    """C9: whom it may call, who holds the list, and who does not because it is away."""
    async with AsyncExitStack() as stack:
        ca = await stack.enter_async_context(running_ca(tmp_path))
        stub = await stack.enter_async_context(ca.registry(await ca.credentials(OPERATOR)))
        mesh = Mesh(ca, tmp_path)
        stack.push_async_callback(mesh.close)
        web, pay, away = [await mesh.join(name) for name in ("web", "pay", "away")]
        for agent in (web, away):
            reporting(agent, stack)
        told, _ = reporting(pay, stack)
        socket = tmp_path / "run" / "pay.sock"
        await stack.enter_async_context(
            serve_socket(socket, pay.source, lambda: pay.driver.generation, pay.look, told.take)
        )
        source = await asyncio.to_thread(SocketSource, socket)
        stack.push_async_callback(asyncio.to_thread, source.close)
        guard = AioGuard(source, allow(WEB, methods=["/shop.v1.Payments/*"]))
        stack.callback(guard.close)

        seen = await until(stub, lambda seen: seen.may_call and seen.confirmed == 4, spiffe_id=WEB)
        assert [(one.spiffe_id, list(one.methods)) for one in seen.may_call] == [(PAY, ["/shop.v1.Payments/*"])]
        assert seen.certificates_total == 1
        assert (seen.callers_total, seen.silent_total) == (0, 0)
        seen = await until(stub, lambda seen: seen.callers, spiffe_id=PAY)
        assert [one.spiffe_id for one in seen.callers] == [WEB]

        mesh.disconnect(away)
        done = await stub.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB, reason="key-compromise"))
        seen = await until(stub, lambda seen: seen.confirmed == 2, spiffe_id=WEB, crl_number=done.crl_number)
        assert seen.certificates_total == 0
        assert [(one.spiffe_id, one.kind) for one in seen.unconfirmed] == [(AWAY, "agent")]
        assert int(seen.unconfirmed[0].holds) < int(done.crl_number)
        mesh.connect(away)
        seen = await until(stub, lambda seen: not seen.unconfirmed_total, spiffe_id=WEB, crl_number=done.crl_number)
        assert (seen.confirmed, seen.certificates_total) == (3, 0)


async def test_an_identity_without_an_agent_is_called_silent(tmp_path: Path) -> None:
    """What nobody reports is not taken for confirmed."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        await ca.workload(WEB)
        seen = await stub.GetBlastRadius(registry_pb2.BlastRadiusRequest())
        assert (list(seen.silent), seen.confirmed, seen.unconfirmed_total) == ([WEB], 0, 0)


async def test_what_signs_the_ca_s_ocsp_answers_is_not_silent(tmp_path: Path) -> None:
    """It has a live certificate and no agent: the CA itself is behind it, and knows every list."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        await ca.authority.responder.signers.renew_if_due()
        live = await ca.authority.live(MassFilter("*", renewals=False))
        assert f"spiffe://{ca.authority.trust_domain}/handfast/ocsp" in {one.spiffe_id for one in live}
        seen = await stub.GetBlastRadius(registry_pb2.BlastRadiusRequest())
        assert (list(seen.silent), seen.silent_total) == ([], 0)


async def test_a_report_is_of_whoever_the_handshake_proved_and_changes_nothing_that_is_decided(tmp_path: Path) -> None:
    """B9: no identity in the message; a hostile one is refused, and a lie confirms its own agent only."""
    async with AsyncExitStack() as stack:
        ca = await stack.enter_async_context(running_ca(tmp_path))
        stub = await stack.enter_async_context(ca.registry(await ca.credentials(OPERATOR)))
        web = await stack.enter_async_context(ca.authority_stub(await ca.workload(WEB)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await web.ReportStatus(report_pb2.StatusReport(instance="x" * 100))
        assert codec.from_rpc_error(caught.value).reason == "INVALID_REPORT"
        issuer = ca.authority.issuer.key_id
        lie = report_pb2.HeldList(issuer_key_id=issuer, number="99")
        await web.ReportStatus(report_pb2.StatusReport(instance="x", lists=[lie]))
        await ca.workload(PAY)
        before = ca.authority.trust().crls[issuer].number
        seen = await stub.GetBlastRadius(registry_pb2.BlastRadiusRequest())
        assert (seen.confirmed, list(seen.silent)) == (1, [PAY])
        assert [str(one.spiffe_id) for one in ca.authority.reports.present()] == [WEB]
        assert ca.authority.trust().crls[issuer].number == before


async def test_nobody_knows_an_identity_that_never_was(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetBlastRadius(registry_pb2.BlastRadiusRequest(spiffe_id=WEB))
        assert codec.from_rpc_error(caught.value).reason == "NO_ENTRY"
