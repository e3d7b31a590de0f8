"""Mass revocation and reissue over the wire: real gRPC, real TLS, and agents that obey while their services call each other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.access import in_trust_domain
from handfast.rpc.aio_channel import aio_channel
from handfast.rpc.guard import AioGuard
from handfast.wire import codec
from handfast.wire.v1 import registry_pb2
from tests.ca_edges.mesh import Mesh
from tests.ca_edges.running import OPERATOR, running_ca
from tests.library.mesh import UNARY, aio_server

AGENTS = 20
WINDOW = timedelta(seconds=10)
pytestmark = pytest.mark.timeout(120)


async def many(stub: Any, **wanted: Any) -> list[registry_pb2.RevokeManyProgress]:
    return [one async for one in stub.RevokeMany(registry_pb2.RevokeManyRequest(**wanted))]


async def test_an_operator_sees_each_batch_and_the_list_that_carries_them(tmp_path: Path) -> None:
    """C9: over the wire, with a survey that says the same before."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        for number in range(60):
            await ca.workload(f"spiffe://test.example/shop/{number:02}")
        wanted = {"identity_glob": "spiffe://test.example/shop/*", "reason": "superseded"}
        found = await stub.SurveyRevocation(registry_pb2.RevokeManyRequest(**wanted))
        assert (found.certificates, found.identities, len(found.sample_serials)) == (60, 60, 10)
        assert dict(found.by_issuer) == {ca.authority.issuer.key_id.hex(): 60}
        progress = await many(stub, **wanted)
        assert [one.certificates for one in progress] == [0, 50, 60, 60]
        assert progress[-1].crl_number == str(ca.authority.trust().crls[ca.authority.issuer.key_id].number)
        assert len(ca.authority.trust().crls[ca.authority.issuer.key_id].serials) == 60
        lines = [line for line in ca.records if line["event"] == "revoke"]
        assert [line["count"] for line in lines] == [50, 10]
        assert b"handfast_ca_revoked_total 60.0" in ca.gate.metrics.exposition()


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, "EMPTY_FILTER"),
        ({"identity_glob": "*", "reason": "hold"}, "INVALID_REASON"),
        ({"issuer": "CN=nobody"}, "NO_ISSUER"),
        ({"public_key_sha256": "xyz"}, "INVALID_KEY"),
        ({"before_reissue": True}, "NO_REISSUE"),
        ({"identity_glob": "spiffe://test.example/none"}, "NO_CERTIFICATE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_word_that_means_nothing_revokes_nothing(tmp_path: Path, wanted: dict[str, Any], reason: str) -> None:
    """C8: with the reason, before anything is begun."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        await ca.workload("spiffe://test.example/web")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await many(stub, **wanted)
        assert codec.from_rpc_error(caught.value).reason == reason
        assert ca.authority.trust().crls[ca.authority.issuer.key_id].serials == frozenset()
        assert not [line for line in ca.records if line["event"] == "revoke" and line["decision"] == "granted"]


async def test_an_issuer_is_named_by_its_key_or_its_subject(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as stub:
        await ca.workload("spiffe://test.example/web")
        issuer = ca.authority.issuer
        for name in (issuer.key_id.hex(), issuer.certificate.subject.rfc4514_string()):
            found = await stub.SurveyRevocation(registry_pb2.RevokeManyRequest(issuer=name))
            assert (found.certificates, list(found.spared)) == (
                1,
                ["spiffe://test.example/handfast/ca", str(OPERATOR)],
            )


async def test_twenty_agents_replace_their_certificates_inside_of_a_window_and_no_call_fails(tmp_path: Path) -> None:
    """C9: the drill as operators run it, with services that call each other all the while, and the old ones revoked."""
    async with AsyncExitStack() as stack:
        ca = await stack.enter_async_context(running_ca(tmp_path))
        stub = await stack.enter_async_context(ca.registry(await ca.credentials(OPERATOR)))
        mesh = Mesh(ca, tmp_path)
        stack.push_async_callback(mesh.close)
        for number in range(AGENTS):
            await mesh.join(f"shop-{number:02}")
        server, client = mesh.agents[:2]
        guard = AioGuard(server.source, in_trust_domain("test.example"))
        target, _ = await stack.enter_async_context(aio_server(server.source, guard))
        calls, ended = 0, asyncio.Event()

        async def call() -> None:
            nonlocal calls
            async with aio_channel(client.source, target, server="spiffe://test.example/shop-00") as channel:
                unary = channel.unary_unary(UNARY)
                while not ended.is_set():
                    assert await unary(b"x") == b"spiffe://test.example/shop-01 x"
                    calls += 1
                    await asyncio.sleep(0.005)

        calling = asyncio.create_task(call())
        old = {agent.driver.present.leaf.serial for agent in mesh.agents if agent.driver.present}
        report = await stub.BeginReissue(registry_pb2.BeginReissueRequest(window=codec.duration_to_wire(WINDOW)))
        assert (report.total, report.renewed, report.ended) == (AGENTS, 0, False)
        while not report.ended:
            await asyncio.sleep(0.2)
            report = await stub.GetReissue(registry_pb2.GetReissueRequest())
        assert (report.renewed, report.missing) == (AGENTS, 0)
        assert report.HasField("half_at")
        assert report.HasField("last_at")
        assert codec.time_from_wire(report.last_at) <= codec.time_from_wire(report.renew_before)
        ended.set()
        await calling
        assert calls > 0
        progress = await many(stub, before_reissue=True, reason="superseded")
        new = {agent.driver.present.leaf.serial for agent in mesh.agents if agent.driver.present}
        assert old & new == set()
        assert progress[-1].certificates >= AGENTS
        # What was opened with an old certificate is cut now, on both sides; whoever dials anew is served.
        async with aio_channel(client.source, target, server="spiffe://test.example/shop-00") as channel:
            assert await channel.unary_unary(UNARY)(b"x") == b"spiffe://test.example/shop-01 x"
        crl = ca.authority.trust().crls[ca.authority.issuer.key_id]
        assert old <= crl.serials
        assert not new & crl.serials
        assert all(agent.look().ready for agent in mesh.agents)
