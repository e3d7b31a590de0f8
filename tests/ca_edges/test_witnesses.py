"""What agents offer to a CA that may have been restored, over real gRPC: sizes, proofs, and who may end a quarantine (threat J9)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.errors import HandfastError, Invalid
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast.wire.codec import from_rpc_error
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast_ca.crl import crl_builder
from handfast_ca.ledger import CrlPlan, RevokedEntry
from handfast_ca.service.witness import read_list
from tests.ca_edges.running import OPERATOR, RunningCa, running_ca

WEB = "spiffe://test.example/web"
PART = 32 * 1024
pytestmark = pytest.mark.timeout(60)


async def refusal(call: Any) -> HandfastError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def published_once(ca: RunningCa, entries: int) -> bytes:
    """A list that this CA signed and its ledger knows nothing of."""
    issuer, now = ca.authority.issuer, ca.authority.time.wall().replace(microsecond=0)
    revoked = tuple(RevokedEntry(1000 + number, now, Reason.SUPERSEDED) for number in range(entries))
    plan = CrlPlan(issuer.key_id, 500, now, revoked)
    validity = ca.authority.profile.crl_validity
    return (await issuer.sign_crl(crl_builder(plan, issuer.certificate, validity))).public_bytes(Encoding.DER)


def claim(ca: RunningCa, der: bytes, **other: Any) -> authority_pb2.Checkpoint:
    one = authority_pb2.CheckpointList(
        issuer_key_id=ca.authority.issuer.key_id,
        number=(500).to_bytes(20, "big"),
        sha256=hashlib.sha256(der).digest(),
        held=True,
    )
    one.MergeFrom(authority_pb2.CheckpointList(**other))
    return authority_pb2.Checkpoint(lists=[one])


def parts(der: bytes) -> Iterator[authority_pb2.CrlPart]:
    for start in range(0, len(der), PART):
        yield authority_pb2.CrlPart(der=der[start : start + PART])


async def test_a_long_list_comes_in_parts_and_is_learnt_from(tmp_path: Path) -> None:
    """J9, R2, R7: longer than any one message may be; then nothing is signed, and readiness says why."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        der = await published_once(ca, 5000)
        assert len(der) > 2 * 64 * 1024
        async with ca.authority_stub(web) as stub:
            asked = await stub.OfferCheckpoint(claim(ca, der))
            assert list(asked.wanted) == [hashlib.sha256(der).digest()]
            assert (await stub.OfferCrl(parts(der))).learnt == 5000
            assert list((await stub.OfferCheckpoint(claim(ca, der))).wanted) == []
            assert (await refusal(stub.Renew(authority_pb2.RenewRequest(csr=b"")))).reason == "QUARANTINED"
        assert len(ca.authority.trust().crls[ca.authority.issuer.key_id].serials) == 5000
        lines = [line for line in ca.authority.status() if line.name == "quarantine"]
        assert [str(line.level) for line in lines] == ["failed"]
        assert b"handfast_ca_quarantine 1.0" in ca.gate.metrics.exposition()


async def test_a_checkpoint_that_is_too_much_or_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """J9, H1: eight lists, numbers of twenty octets, digests of thirty-two."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        one = claim(ca, b"").lists[0]
        long = authority_pb2.CheckpointList(number=bytes(21), sha256=bytes(32))
        short = authority_pb2.CheckpointList(sha256=bytes(31))
        async with ca.authority_stub(web) as stub:
            for lists in ([one] * 9, [long], [short]):
                assert (
                    await refusal(stub.OfferCheckpoint(authority_pb2.Checkpoint(lists=lists)))
                ).reason == "CHECKPOINT"
            await stub.OfferCheckpoint(authority_pb2.Checkpoint(lists=[one] * 8))
        assert not ca.authority.quarantine.is_open


async def test_a_list_without_end_is_cut_off(tmp_path: Path) -> None:
    """J9, H1: at sixteen mebibytes, whatever was asked for."""

    async def endless() -> AsyncIterator[authority_pb2.CrlPart]:
        while True:
            yield authority_pb2.CrlPart(der=bytes(PART))

    with pytest.raises(Invalid) as caught:
        await read_list(endless())
    assert caught.value.reason == "LIST_TOO_LONG"
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            # gRPC may tell one who is still sending that its stream was reset, and not why.
            assert (await refusal(stub.OfferCrl(endless()))).reason in ("LIST_TOO_LONG", "INTERNAL")
            assert (await refusal(stub.OfferCrl(parts(b"unasked")))).reason == "LIST_NOT_WANTED"
        assert not ca.authority.quarantine.is_open


async def test_only_an_operator_ends_a_quarantine(tmp_path: Path) -> None:
    """J9, A19: in the audit trail with its identity; revocations are taken meanwhile, without a list to wait for."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        operator = await ca.credentials(OPERATOR)
        await ca.authority.quarantine.begin("a test", 1)
        async with ca.registry(web) as registry:
            refused = await refusal(registry.Release(registry_pb2.ReleaseRequest(accept_loss=True)))
            assert refused.reason == "NOT_ALLOWED"
        async with ca.registry(operator) as registry:
            done = await registry.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB))
            assert (done.crl_number, len(done.serials)) == ("", 1)
            missing = await refusal(registry.Release(registry_pb2.ReleaseRequest()))
            assert missing.reason == "WITNESSES_MISSING"
            released = await registry.Release(registry_pb2.ReleaseRequest(accept_loss=True))
        assert int(released.crl_number) > 1 << 64
        said = next(line for line in ca.records if line["event"] == "release" and line["decision"] == "granted")
        assert said["by"] == str(OPERATOR)
        latest = ca.authority.trust().crls[ca.authority.issuer.key_id]
        assert {SpiffeId.parse(WEB)} == {
            (await ca.authority.certificate(serial)).spiffe_id for serial in latest.serials
        }
