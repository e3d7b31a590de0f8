"""A CA that serves on loopback: the real core, the real gRPC services, the real guard, mutual TLS on two ports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.rpc.guard import AioGuard
from handfast.rpc.server import server_credentials
from handfast.sources import StaticSource
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub, add_AuthorityServicer_to_server
from handfast.wire.v1.registry_pb2_grpc import RegistryStub, add_RegistryServicer_to_server
from handfast_ca.access import OPEN_METHODS, policy
from handfast_ca.audit import FileAudit
from handfast_ca.authority import Authority
from handfast_ca.ledger import Ledger
from handfast_ca.limits import Limits
from handfast_ca.quotas import DEFAULT_QUOTAS, Quotas
from handfast_ca.registration import Entry
from handfast_ca.serve import OPTIONS
from handfast_ca.service.authority import AuthorityService
from handfast_ca.service.gate import Gate
from handfast_ca.service.registry import RegistryService
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import TRUST_DOMAIN, Ceremony

if TYPE_CHECKING:
    from handfast.wire.v1.authority_pb2_grpc import AuthorityAsyncStub
    from handfast.wire.v1.registry_pb2_grpc import RegistryAsyncStub

CA = SpiffeId.parse("spiffe://test.example/handfast/ca")
OPERATOR = SpiffeId.parse("spiffe://test.example/handfast/operator/admin")


@dataclass
class RunningCa:
    authority: Authority
    address: str
    enrol_address: str
    audit: Path
    source: StaticSource
    gate: Gate

    async def workload(self, identity: str) -> Credentials:
        """A certificate on an operator's word, for an entry that is made for it."""
        entry = await self.authority.add_entry(identity, by=str(OPERATOR))
        key = generate()
        issued = await self.authority.sign(entry.spiffe_id, build_csr(key), by=str(OPERATOR))
        return self.build(key, issued.chain)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The audit trail, read back."""
        return [json.loads(line) for line in self.audit.read_text("utf-8").splitlines()]

    async def credentials(self, identity: SpiffeId) -> Credentials:
        """A certificate of the CA's own, or of its operator's, through the nine steps."""
        key = generate()
        issued = await self.authority.issue_internal(identity, build_csr(key))
        return self.build(key, issued.chain)

    def build(self, key: Any, chain: tuple[x509.Certificate, ...]) -> Credentials:
        state = self.authority.trust()
        crls = [crl.der for crl in state.crls.values()]
        return Credentials.build(key=key, chain=chain, bundle=state.bundle, crls=crls, now=datetime.now(UTC))

    @asynccontextmanager
    async def registry(self, credentials: Credentials) -> AsyncIterator[RegistryAsyncStub]:
        async with self.channel(credentials) as channel:
            yield RegistryStub(channel)

    @asynccontextmanager
    async def authority_stub(self, credentials: Credentials) -> AsyncIterator[AuthorityAsyncStub]:
        async with self.channel(credentials) as channel:
            yield AuthorityStub(channel)

    def channel(self, credentials: Credentials) -> grpc.aio.Channel:
        tls = grpc.ssl_channel_credentials(credentials.bundle.roots_pem, credentials.key_pem, credentials.chain_pem)
        return grpc.aio.secure_channel(self.address, tls)

    def anonymous(self) -> grpc.aio.Channel:
        roots = self.authority.trust().bundle.roots_pem
        return grpc.aio.secure_channel(self.enrol_address, grpc.ssl_channel_credentials(roots))


@asynccontextmanager
async def running_ca(
    tmp_path: Path, ledger: Ledger | None = None, quotas: Quotas = DEFAULT_QUOTAS
) -> AsyncIterator[RunningCa]:
    ceremony = Ceremony(datetime.now(UTC) - timedelta(minutes=1))
    audit = FileAudit(tmp_path / "audit.jsonl", SystemClock())
    authority = Authority(
        trust_domain=TRUST_DOMAIN,
        issuer=ceremony.issuer,
        bundle=ceremony.bundle,
        ledger=ledger or MemoryLedger(),
        audit=audit,
        clock=SystemClock(),
        reserved={CA: Entry(CA, dns_names=("localhost",), version=0), OPERATOR: Entry(OPERATOR, version=0)},
        root_crls=(ceremony.root_crl.public_bytes(Encoding.DER),),
    )
    await authority.start()
    source = StaticSource()
    gate = Gate(authority, limits=Limits(quotas))
    gate.metrics.watch(authority)
    running = RunningCa(authority, "", "", tmp_path / "audit.jsonl", source, gate)
    source.publish(await running.credentials(CA))
    permitted = policy(TRUST_DOMAIN, [OPERATOR])
    guard = AioGuard(
        source, permitted, open_methods=OPEN_METHODS, observer=gate.metrics.rpc, on_refusal=gate.turned_away
    )
    server = grpc.aio.server(interceptors=(guard,), options=OPTIONS)
    add_AuthorityServicer_to_server(AuthorityService(authority, gate), server)
    add_RegistryServicer_to_server(RegistryService(authority, gate.metrics), server)
    running.address = f"localhost:{server.add_secure_port('127.0.0.1:0', server_credentials(source))}"
    enrol = server.add_secure_port("127.0.0.1:0", server_credentials(source, require_client=False))
    running.enrol_address = f"localhost:{enrol}"
    await server.start()
    try:
        yield running
    finally:
        await server.stop(None)
        guard.close()
        await gate.turned_away.written()
        await authority.close()
        await audit.close()
