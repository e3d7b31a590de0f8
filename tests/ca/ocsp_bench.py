"""A responder over the memory ledger, with a clock that stands until it is moved, and an audit trail within reach."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from handfast.csr import build_csr
from handfast.errors import Unavailable
from handfast.keys import generate
from handfast.ocsp import OcspAnswer, build_request, issuer_hashes
from handfast.testing import ManualClock
from handfast_ca.audit import MemoryAudit
from handfast_ca.authority import Authority, Issued
from handfast_ca.ledger import CertificateRecord
from handfast_ca.ocsp.responder import Reply, Responder
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import NOW, TRUST_DOMAIN, URLS, WEB, Ceremony

CEREMONY = Ceremony()
ISSUER = CEREMONY.issuing.certificate
MINUTE = timedelta(minutes=1)


class LeverLedger(MemoryLedger):
    """The memory ledger with levers: ``lost``, and it cannot be reached; ``asked`` counts the serials looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self.asked = 0

    async def find(self, serial: int) -> CertificateRecord:
        self.asked += 1
        if self.lost:
            raise Unavailable("the ledger cannot be reached", reason="LEDGER_UNAVAILABLE")
        return await super().find(serial)


class OcspBench:
    """One authority that has an entry for WEB; nothing is started."""

    def __init__(self, **how: Any) -> None:
        self.clock = ManualClock(NOW)
        self.ledger = LeverLedger()
        self.audit = MemoryAudit(self.clock)
        given: dict[str, Any] = {
            "trust_domain": TRUST_DOMAIN,
            "issuer": CEREMONY.issuer,
            "bundle": CEREMONY.bundle,
            "ledger": self.ledger,
            "audit": self.audit,
            "clock": self.clock,
            "urls": URLS,
            "root_crls": (CEREMONY.root_crl.public_bytes(serialization.Encoding.DER),),
        }
        self.authority = Authority(**{**given, **how})
        self.responder = self.authority.responder
        self.signers = self.responder.signers

    async def start(self) -> OcspBench:
        await self.authority.start()
        await self.authority.add_entry(str(WEB), by="admin")
        await self.signers.renew_if_due()
        return self

    async def issue(self) -> Issued:
        return await self.authority.sign(WEB, build_csr(generate()), by="admin")

    def responding(self, **other: Any) -> Responder:
        """Another responder over the same parts, but for those that are given."""
        parts = {"issuer": self.authority.issuer, "ledger": self.ledger, "feed": self.authority.feed}
        return Responder(**{**parts, "time": self.authority.time, "signers": self.signers, **other})

    async def ask(self, serial: int, nonce: bytes = b"") -> Reply:
        return await self.responder.answer(build_request(serial, ISSUER, nonce=nonce))

    def read(self, reply: Reply, serial: int, nonce: bytes = b"") -> OcspAnswer:
        """As an agent or a service reads it."""
        return OcspAnswer.verify(reply.der, serial=serial, issuer=ISSUER, now=self.clock.now(), nonce=nonce)


def question(serial: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """As other clients make it."""
    name, key = issuer_hashes(ISSUER, algorithm)
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, serial, algorithm)
    return builder.build().public_bytes(serialization.Encoding.DER)


def status(reply: Reply) -> ocsp.OCSPResponseStatus:
    """As the library reads it."""
    return ocsp.load_der_ocsp_response(reply.der).response_status
