"""The core's values as messages."""

from __future__ import annotations

from datetime import datetime

from handfast.bundle import TrustBundle
from handfast.certificates import format_serial
from handfast.lifetime import RenewalWindow
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2, trust_pb2
from handfast_ca.authority import Issued
from handfast_ca.feed import Announcement, TrustChange
from handfast_ca.ledger import CertificateRecord
from handfast_ca.registration import Entry

__all__ = ["certificate_message", "entry_message", "issued_message", "trust_message"]


def trust_message(change: TrustChange, now: datetime) -> trust_pb2.TrustUpdate:
    return trust_pb2.TrustUpdate(
        whole=change.whole,
        revision=change.revision,
        bundle=None if change.bundle is None else codec.bundle_to_wire(change.bundle),
        crls=[trust_pb2.Crl(issuer_key_id=crl.issuer_key_id, der=crl.der) for crl in change.crls],
        announced=[_announcement(news) for news in change.announced],
        sent_at=codec.time_to_wire(now),
    )


def _announcement(news: Announcement) -> trust_pb2.Revocation:
    return trust_pb2.Revocation(
        issuer_key_id=news.issuer_key_id,
        serial=codec.serial_to_bytes(news.serial),
        revoked_at=codec.time_to_wire(news.revoked_at),
        reason=news.reason.value,
    )


def issued_message(issued: Issued, now: datetime) -> authority_pb2.IssuedCredentials:
    return authority_pb2.IssuedCredentials(
        chain=[codec.der(certificate) for certificate in issued.chain],
        trust=trust_message(TrustChange.whole_of(issued.trust), now),
        renewal=_window(issued.renewal),
        repeated_answer=issued.repeated,
    )


def _window(window: RenewalWindow) -> authority_pb2.RenewalWindow:
    return authority_pb2.RenewalWindow(
        not_before=codec.time_to_wire(window.opens), not_after=codec.time_to_wire(window.closes)
    )


def entry_message(entry: Entry) -> registry_pb2.Entry:
    return registry_pb2.Entry(
        spiffe_id=str(entry.spiffe_id),
        dns_names=entry.dns_names,
        ip_addresses=[str(address) for address in entry.ip_addresses],
        usages=sorted(entry.usages),
        lifetime=codec.duration_to_wire(entry.lifetime),
        proofs=sorted(entry.proofs),
        selectors=entry.selectors,
        allow_rsa=entry.allow_rsa,
        created_at=None if entry.created_at is None else codec.time_to_wire(entry.created_at),
        created_by=entry.created_by,
        version=entry.version,
        comment=entry.comment,
    )


def certificate_message(
    record: CertificateRecord, now: datetime, bundle: TrustBundle, *, whole: bool
) -> registry_pb2.Certificate:
    """``whole`` also carries the certificate itself. The issuer's name is empty when the bundle does not know it any more."""
    issuer = bundle.issuer(record.issuer_key_id)
    der = record.der if whole else None
    return registry_pb2.Certificate(
        serial=format_serial(record.serial),
        spiffe_id=str(record.spiffe_id),
        dns_names=record.dns_names,
        not_before=codec.time_to_wire(record.not_before),
        not_after=codec.time_to_wire(record.not_after),
        status=record.describe(now),
        issuer="" if issuer is None else issuer.subject.rfc4514_string(),
        revoked_at=None if record.revoked_at is None else codec.time_to_wire(record.revoked_at),
        revocation_reason="" if record.reason is None else record.reason.value,
        obtained_by=record.obtained_by,
        public_key_sha256=record.spki_sha256.hex(),
        der=der or b"",
        issuer_key_id=record.issuer_key_id.hex(),
    )
