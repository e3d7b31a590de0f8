"""What a caller may try over the wire: another's name, a forged header, octets that are none (threats A3, A20, B9, C8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.certificates import Leaf
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.wire.codec import certificates_from_wire, from_rpc_error
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from tests.ca_edges.running import OPERATOR, RunningCa, running_ca

WEB, DB = "spiffe://test.example/t1/web", "spiffe://test.example/t2/db"
pytestmark = pytest.mark.timeout(60)


async def refusal(call: Any) -> tuple[grpc.StatusCode, HandfastError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), from_rpc_error(caught.value)


async def token(registry: Any, identity: str) -> str:
    return str((await registry.CreateToken(registry_pb2.CreateTokenRequest(spiffe_id=identity))).token)


async def entered(registry: Any) -> None:
    for identity in (WEB, DB):
        await registry.AddEntry(registry_pb2.AddEntryRequest(entry=registry_pb2.Entry(spiffe_id=identity)))


async def enrolled(ca: RunningCa, token: str) -> Credentials:
    key = generate()
    async with ca.anonymous() as channel:
        request = authority_pb2.EnrolRequest(join_token=token, csr=build_csr(key, credential=token.encode()))
        issued = await AuthorityStub(channel).Enrol(request)
    return ca.build(key, certificates_from_wire(issued.chain))


def decided(ca: RunningCa) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, ca.audit.read_text("utf-8").splitlines()) if "decision" in line]


async def stored(registry: Any) -> int:
    return len((await registry.ListCertificates(registry_pb2.ListCertificatesRequest(page_size=500))).certificates)


async def test_another_tenant_s_name_is_refused_on_every_way_over_the_wire(tmp_path: Path) -> None:
    """A3: enrolling, renewing, signing; with its reason, nothing stored, one line each."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as registry:
        await entered(registry)
        web = await enrolled(ca, await token(registry, WEB))
        mine = await token(registry, WEB)
        asked = build_csr(generate(), credential=mine.encode(), spiffe_id=SpiffeId.parse(DB))
        renewal = build_csr(generate(), credential=web.leaf.der, spiffe_id=SpiffeId.parse(DB))
        signed = build_csr(generate(), spiffe_id=SpiffeId.parse(DB))
        async with ca.anonymous() as door, ca.authority_stub(web) as authority:
            ways: dict[str, Callable[[], Any]] = {
                "enrol": lambda: AuthorityStub(door).Enrol(authority_pb2.EnrolRequest(join_token=mine, csr=asked)),
                "renew": lambda: authority.Renew(authority_pb2.RenewRequest(csr=renewal)),
                "sign": lambda: registry.Sign(registry_pb2.SignRequest(spiffe_id=WEB, csr=signed)),
            }
            for event, call in ways.items():
                lines, known = len(decided(ca)), await stored(registry)
                code, error = await refusal(call())
                assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_ENTITLED")
                assert await stored(registry) == known
                assert [(line["event"], line["reason"]) for line in decided(ca)[lines:]] == [(event, "NOT_ENTITLED")]


async def test_a_forged_header_changes_nobody_s_identity_at_the_ca(tmp_path: Path) -> None:
    """B9: a renewal is of whom the handshake proved, and the trail says so."""
    forged = tuple(
        (name, value)
        for name in ("x-forwarded-client-cert", "x-spiffe-id", "x-client-cert", "authorization", "forwarded")
        for value in (f"By={DB};URI={DB}",)
    )
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as registry:
        await entered(registry)
        web = await enrolled(ca, await token(registry, WEB))
        async with ca.authority_stub(web) as authority, ca.channel(web) as channel:
            csr = build_csr(generate(), credential=web.leaf.der)
            renewed = await authority.Renew(authority_pb2.RenewRequest(csr=csr), metadata=forged)
            assert str(Leaf.parse(renewed.chain[0]).spiffe_id) == WEB
            assert decided(ca)[-1]["spiffe_id"] == WEB
            admin = tuple((name, f"URI={OPERATOR}") for name, _ in forged)
            call = channel.unary_unary("/handfast.v1.Registry/Revoke")(b"", metadata=admin)
            assert (await refusal(call))[1].reason == "NOT_ALLOWED"


@pytest.mark.parametrize("csr", [b"\x30\x80\x00\x00", b"-----BEGIN CERTIFICATE REQUEST-----\n" * 300, b"\xff" * 16000])
async def test_octets_that_are_no_request_are_an_invalid_argument_and_the_ca_lives(tmp_path: Path, csr: bytes) -> None:
    """A20: and the token that came with them is still good."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as registry:
        await entered(registry)
        mine = await token(registry, WEB)
        async with ca.anonymous() as door:
            lines, known = len(decided(ca)), await stored(registry)
            code, error = await refusal(AuthorityStub(door).Enrol(authority_pb2.EnrolRequest(join_token=mine, csr=csr)))
            assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CSR_MALFORMED")
            assert await stored(registry) == known
            assert [line["reason"] for line in decided(ca)[lines:]] == ["CSR_MALFORMED"]
        assert str((await enrolled(ca, mine)).spiffe_id) == WEB


def test_no_method_on_the_wire_takes_a_revocation_back() -> None:
    """C8: by reading every method and every field of every message that a client can send."""
    for file in (registry_pb2, authority_pb2):
        methods = [method for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods]
        words = {method.name.lower() for method in methods}
        words |= {field.name.lower() for method in methods for field in method.input_type.fields}
        assert not [word for word in words if any(part in word for part in ("unrevoke", "hold", "reinstate", "undo"))]


@pytest.mark.parametrize("reason", ["certificate-hold", "remove-from-crl", "certificateHold", "0"])
async def test_a_hold_is_no_reason_to_revoke(tmp_path: Path, reason: str) -> None:
    """C8: what could be lifted again is refused, and the certificate stays as it is."""
    async with running_ca(tmp_path) as ca, ca.registry(await ca.credentials(OPERATOR)) as registry:
        await entered(registry)
        web = await enrolled(ca, await token(registry, WEB))
        _, error = await refusal(registry.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB, reason=reason)))
        assert error.reason == "INVALID_REASON"
        shown = await registry.GetCertificate(registry_pb2.GetCertificateRequest(serial=web.leaf.serial_text))
        assert shown.status == "valid"
