"""Over gRPC, an agent that has a list is sent what changed in it, and one that does not say so the whole list."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.csr import build_csr
from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.revocation import Reason, RevocationList, Revocations
from handfast.wire.codec import from_rpc_error
from handfast.wire.crls import change_from_wire, reader_to_wire
from handfast.wire.v1 import authority_pb2, trust_pb2
from tests.ca_edges.running import RunningCa, running_ca

WEB = "spiffe://test.example/web"
pytestmark = pytest.mark.timeout(60)


async def revoke(ca: RunningCa) -> int:
    issued = await ca.authority.sign(SpiffeId.parse(WEB), build_csr(generate()), by="admin")
    await ca.authority.revoke_serial(issued.record.serial, Reason.SUPERSEDED, by="admin")
    return issued.record.serial


def present(ca: RunningCa) -> RevocationList:
    return ca.authority.trust().crls[ca.authority.issuer.key_id]


def lists(ca: RunningCa) -> Revocations:
    return Revocations(dict(ca.authority.trust().crls))


def taken(ca: RunningCa, known: RevocationList, update: trust_pb2.TrustUpdate) -> RevocationList:
    """What an agent that has ``known`` makes of an update."""
    ((issuer, steps),) = map(change_from_wire, update.crl_changes)
    assert issuer == known.issuer_key_id
    assert not update.crls
    return known.after(steps, ca.authority.trust().bundle, now=ca.authority.time.wall())


async def test_a_watcher_that_takes_changes_gets_them_and_another_gets_lists(tmp_path: Path) -> None:
    """H6: both end with the same list."""
    async with running_ca(tmp_path) as ca, AsyncExitStack() as stack:
        stub = await stack.enter_async_context(ca.authority_stub(await ca.workload(WEB)))
        before = present(ca)
        reader = reader_to_wire(lists(ca))
        new = aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest(crl_reader=reader)))
        old = aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest()))
        first, whole = await anext(new), await anext(old)
        assert (first.whole, len(first.crls), len(first.crl_changes), first.HasField("bundle")) == (True, 0, 0, True)
        assert len(whole.crls) == 2
        serial = await revoke(ca)
        changed = await until(new, lambda update: update.crl_changes)
        listed = await until(old, lambda update: update.crls)
        assert not listed.crl_changes
        made = taken(ca, before, changed)
        assert serial in made.serials
        assert made.der == listed.crls[0].der == present(ca).der


async def until(stream: Any, true: Any) -> trust_pb2.TrustUpdate:
    """The announcement may come ahead, in a message of its own."""
    async for update in stream:
        if true(update):
            return update  # type: ignore[no-any-return]
    raise AssertionError("the stream ended")


async def test_who_comes_back_with_an_older_list_is_brought_up_in_steps(tmp_path: Path) -> None:
    """H6: also by GetTrust and with a renewal; with the newest list nothing is sent."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        before, reader = present(ca), reader_to_wire(lists(ca))
        for _ in range(3):
            await revoke(ca)
        async with ca.authority_stub(web) as stub:
            update = await stub.GetTrust(authority_pb2.GetTrustRequest(crl_reader=reader))
            assert taken(ca, before, update) == present(ca)
            csr = build_csr(generate(), credential=web.leaf.der)
            renewed = await stub.Renew(authority_pb2.RenewRequest(csr=csr, crl_reader=reader))
            assert taken(ca, before, renewed.trust) == present(ca)
            newest = reader_to_wire(lists(ca))
            same = await stub.GetTrust(authority_pb2.GetTrustRequest(crl_reader=newest))
            assert (same.whole, len(same.crls), len(same.crl_changes)) == (True, 0, 0)


async def test_another_list_under_the_number_of_ours_is_answered_with_ours(tmp_path: Path) -> None:
    """D1: so that the agent sees both, and says so."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        reader = reader_to_wire(lists(ca))
        for known in reader.known:
            known.sha256 = bytes(32)
        async with ca.authority_stub(web) as stub:
            update = await stub.GetTrust(authority_pb2.GetTrustRequest(crl_reader=reader))
    assert {crl.der for crl in update.crls} == {known.der for known in lists(ca).lists.values()}


async def test_a_number_that_nobody_can_have_is_refused_and_nothing_is_issued(tmp_path: Path) -> None:
    """H3, RFC 5280, 5.2.3: twenty octets at most."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        reader = trust_pb2.CrlReader(changes=True, known=[trust_pb2.KnownCrl(number=bytes(21))])
        before = await ca.authority.counts()
        async with ca.authority_stub(web) as stub:
            csr = build_csr(generate(), credential=web.leaf.der)
            for call in (
                stub.GetTrust(authority_pb2.GetTrustRequest(crl_reader=reader)),
                stub.Renew(authority_pb2.RenewRequest(csr=csr, crl_reader=reader)),
                anext(aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest(crl_reader=reader)))),
            ):
                assert (await refusal(call)).reason == "INVALID_NUMBER"
        assert await ca.authority.counts() == before


async def refusal(call: Any) -> HandfastError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
