"""A certificate that this CA signed and its restored ledger does not know comes back when it is presented (threat J9, R4)."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, format_serial
from handfast.errors import NotFound, Unauthenticated
from handfast.keys import spki_sha256
from handfast_ca.audit_trail import AuditLog
from handfast_ca.ledger import CertificateRecord, Ledger, Status

__all__ = ["readmit"]


async def readmit(leaf: Leaf, bundle: TrustBundle, ledger: Ledger, audit: AuditLog) -> None:
    """Returns when the ledger knows ``leaf``, as it did before or from now on; whether it still counts is judged after it.

    Verified with the issuing CA's own key, whatever the handshake found. Raises ``Unauthenticated`` with
    ``UNKNOWN_CERTIFICATE`` when it is none of ours, ``REVOKED`` when all that is known of it is that a CRL names it, or
    ``Refused`` (``KEY_BLOCKED``).
    """
    try:
        known = await ledger.find(leaf.serial)
    except NotFound:
        await _take_in(leaf, bundle, ledger, audit)
        return
    if known.der is None and known.revoked_at is not None:
        raise Unauthenticated(
            f"serial {format_serial(leaf.serial)} was revoked at {known.revoked_at:%Y-%m-%dT%H:%M:%SZ}",
            reason="REVOKED",
        )


async def _take_in(leaf: Leaf, bundle: TrustBundle, ledger: Ledger, audit: AuditLog) -> None:
    if not _is_signed(leaf, bundle.issuer(leaf.issuer_key_id)):
        raise Unauthenticated(
            f"serial {format_serial(leaf.serial)} is no certificate that this CA signed", reason="UNKNOWN_CERTIFICATE"
        )
    record = CertificateRecord(
        serial=leaf.serial,
        issuer_key_id=leaf.issuer_key_id,
        spiffe_id=leaf.spiffe_id,
        spki_sha256=spki_sha256(leaf.certificate.public_key()),
        dns_names=leaf.dns_names,
        not_before=leaf.validity.not_before,
        not_after=leaf.validity.not_after,
        obtained_by="readmitted",
        status=Status.ISSUED,
        der=leaf.der,
    )
    await audit.append(
        {
            "event": "readmit",
            "decision": "granted",
            "spiffe_id": str(leaf.spiffe_id),
            "serial": leaf.serial_text,
            "public_key_sha256": record.spki_sha256.hex(),
            "not_after": leaf.validity.not_after.isoformat(),
        }
    )
    await ledger.readmit(record)


def _is_signed(leaf: Leaf, issuer: x509.Certificate | None) -> bool:
    if issuer is None:
        return False
    try:
        leaf.certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
