"""The CA over gRPC, as agents and operators meet it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.certificates import Leaf
from handfast.csr import build_csr
from handfast.errors import HandfastError
from handfast.keys import PrivateKey, generate
from handfast.wire.codec import certificates_from_wire, from_rpc_error
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast_ca.access import OPEN_METHODS
from tests.ca_edges.running import OPERATOR, RunningCa, running_ca

WEB = "spiffe://test.example/web"
REVOKE = "/handfast.v1.Registry/Revoke"
pytestmark = pytest.mark.timeout(60)


async def refusal(call: Any) -> HandfastError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def join_token(ca: RunningCa) -> str:
    async with ca.registry(await ca.credentials(OPERATOR)) as registry:
        await registry.AddEntry(
            registry_pb2.AddEntryRequest(entry=registry_pb2.Entry(spiffe_id=WEB, dns_names=["web"]))
        )
        made = await registry.CreateToken(registry_pb2.CreateTokenRequest(spiffe_id=WEB))
        return str(made.token)


def enrolment(token: str, key: PrivateKey) -> authority_pb2.EnrolRequest:
    return authority_pb2.EnrolRequest(join_token=token, csr=build_csr(key, credential=token.encode()), spiffe_id=WEB)


async def test_a_workload_enrols_renews_is_revoked_and_is_out(tmp_path: Path) -> None:
    """The main job in one test: B1, C1, C6."""
    async with running_ca(tmp_path) as ca:
        token, key = await join_token(ca), generate()
        async with ca.anonymous() as channel:
            issued = await AuthorityStub(channel).Enrol(enrolment(token, key))
        chain = certificates_from_wire(issued.chain)
        leaf = Leaf.of(chain[0])
        assert str(leaf.spiffe_id) == WEB
        assert leaf.dns_names == ("web",)
        assert issued.trust.whole

        web = ca.build(key, chain)
        async with ca.authority_stub(web) as stub:
            fresh = generate()
            request = authority_pb2.RenewRequest(csr=build_csr(fresh, credential=leaf.der))
            renewed = await stub.Renew(request)
            assert Leaf.parse(renewed.chain[0]).spiffe_id == leaf.spiffe_id
            watch = stub.WatchTrust(authority_pb2.WatchTrustRequest())
            first = await anext(aiter(watch))
            assert first.whole

            async with ca.registry(await ca.credentials(OPERATOR)) as registry:
                done = await registry.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB, reason="key-compromise"))
                assert len(done.serials) == 2
                assert not done.already_revoked
                repeated = await registry.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB))
                assert repeated.already_revoked
                shown = await registry.GetCertificate(registry_pb2.GetCertificateRequest(serial=done.serials[0]))
                assert shown.status == "revoked"
                page = await registry.ListCertificates(registry_pb2.ListCertificatesRequest(status="revoked"))
                assert {one.serial for one in page.certificates} == set(done.serials)
                status = await registry.GetStatus(registry_pb2.GetCaStatusRequest())
                assert status.revoked_certificates == 2


async def test_a_join_token_is_good_once(tmp_path: Path) -> None:
    """B1: a second key is refused, and nothing more is signed; the same request is answered again."""
    async with running_ca(tmp_path) as ca:
        token, key = await join_token(ca), generate()
        async with ca.anonymous() as channel:
            stub = AuthorityStub(channel)
            request = enrolment(token, key)
            first = await stub.Enrol(request)
            assert (await stub.Enrol(request)).chain == first.chain
            error = await refusal(stub.Enrol(enrolment(token, generate())))
            assert error.reason == "TOKEN_SPENT"
        async with ca.registry(await ca.credentials(OPERATOR)) as registry:
            page = await registry.ListCertificates(registry_pb2.ListCertificatesRequest(identity_glob=WEB))
            assert len(page.certificates) == 1
        assert token not in ca.audit.read_text("utf-8")


async def test_a_workload_is_no_operator(tmp_path: Path) -> None:
    """A19: every method of the registry, for a proven workload."""
    async with running_ca(tmp_path) as ca:
        token, key = await join_token(ca), generate()
        async with ca.anonymous() as channel:
            issued = await AuthorityStub(channel).Enrol(enrolment(token, key))
        web = ca.build(key, certificates_from_wire(issued.chain))
        async with ca.channel(web) as channel:
            for method in methods(registry_pb2.DESCRIPTOR, "Registry"):
                assert (await refusal(channel.unary_unary(method)(b""))).reason == "NOT_ALLOWED"


async def test_the_enrolment_port_is_open_to_enrolment_and_nothing_else(tmp_path: Path) -> None:
    """A19: every method of every service, without a certificate."""
    async with running_ca(tmp_path) as ca, ca.anonymous() as channel:
        every = [*methods(registry_pb2.DESCRIPTOR, "Registry"), *methods(authority_pb2.DESCRIPTOR, "Authority")]
        closed = [method for method in every if method not in OPEN_METHODS]
        assert len(closed) == len(every) - 1
        for method in closed:
            assert (await refusal(channel.unary_unary(method)(b""))).reason == "NO_CERTIFICATE"


async def test_whom_the_guard_turns_away_is_in_the_audit_trail_and_a_storm_of_it_is_two_lines(tmp_path: Path) -> None:
    """A19, H8: one who proved who he is, and one who did not."""
    async with running_ca(tmp_path) as ca, ca.anonymous() as nobody:
        web = await ca.workload(WEB)
        async with ca.channel(web) as channel:
            for _ in range(20):
                assert (await refusal(channel.unary_unary(REVOKE)(b""))).reason == "NOT_ALLOWED"
        assert (await refusal(nobody.unary_unary(REVOKE)(b""))).reason == "NO_CERTIFICATE"
        await ca.gate.turned_away.written()
        await ca.gate.refusals.flush()
        lines = [record for record in ca.records if record["event"] == "call"]
    assert [(one["reason"], one.get("spiffe_id"), one.get("count")) for one in lines] == [
        ("NOT_ALLOWED", WEB, None),
        ("NO_CERTIFICATE", None, None),
        ("NOT_ALLOWED", WEB, 19),
    ]
    for line in lines:
        assert (line["decision"], line["method"], line["peer_address"]) == ("refused", REVOKE, "127.0.0.1")


def methods(file: Any, service: str) -> list[str]:
    found = file.services_by_name[service]
    return [f"/{found.full_name}/{method.name}" for method in found.methods]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (authority_pb2.EnrolRequest(csr=b"x"), "NO_PROOF"),
        (authority_pb2.EnrolRequest(join_token="hft_short", csr=b"x"), "TOKEN_MALFORMED"),
    ],
)
async def test_an_enrolment_without_a_readable_proof_is_refused(
    tmp_path: Path, request_: authority_pb2.EnrolRequest, reason: str
) -> None:
    async with running_ca(tmp_path) as ca, ca.anonymous() as channel:
        assert (await refusal(AuthorityStub(channel).Enrol(request_))).reason == reason
        line = ca.records[-1]
        assert (line["event"], line["decision"], line["reason"]) == ("enrol", "refused", reason)


async def test_wrong_requests_of_operators_say_why(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as registry:
        entry = registry_pb2.Entry(spiffe_id="spiffe://other.example/x", dns_names=["*", "UPPER"], usages=["both"])
        error = await refusal(registry.AddEntry(registry_pb2.AddEntryRequest(entry=entry)))
        assert {violation.field for violation in error.violations} == {
            "spiffe_id",
            "dns_names[0]",
            "dns_names[1]",
            "usages[0]",
        }
        assert (
            await refusal(registry.GetEntry(registry_pb2.GetEntryRequest(spiffe_id="x")))
        ).reason == "INVALID_SPIFFE_ID"
        assert (await refusal(registry.GetEntry(registry_pb2.GetEntryRequest(spiffe_id=WEB)))).reason == "NO_ENTRY"
        request = registry_pb2.RevokeRequest(serial="1f", reason="certificate-hold")
        assert (await refusal(registry.Revoke(request))).reason == "INVALID_REASON"
        line = ca.records[-1]
        assert (line["event"], line["reason"], line["by"]) == ("revoke", "INVALID_REASON", str(OPERATOR))
        assert (await refusal(registry.Revoke(registry_pb2.RevokeRequest(serial="1f")))).reason == "NO_CERTIFICATE"
        page = await registry.ListEntries(registry_pb2.ListEntriesRequest(page_size=2**31))
        assert not page.entries
        audit = await registry.ListAudit(registry_pb2.ListAuditRequest(newest_first=True, page_size=5))
        assert len(audit.records) == 5
