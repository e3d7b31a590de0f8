"""Revocation lists of a test authority, whole and as steps, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from handfast.certificates import subject_key_id
from handfast.crl_change import ListStep, outline

SHA256 = hashes.SHA256()
VALIDITY = timedelta(hours=12)
_THROW_AWAY: dict[x509.ObjectIdentifier, Any] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.generate_private_key(ec.SECP256R1()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.generate_private_key(ec.SECP384R1()),
    SignatureAlgorithmOID.RSA_WITH_SHA256: rsa.generate_private_key(65537, 2048),
    SignatureAlgorithmOID.ED25519: ed25519.Ed25519PrivateKey.generate(),
}


def signed_list(
    issuer: x509.Certificate,
    key: Any,
    number: int,
    serials: Sequence[int],
    at: datetime,
    *,
    algorithm: Any = SHA256,
    entry: Sequence[x509.Extension[x509.ExtensionType]] = (),
) -> bytes:
    """As the CA signs them, with the entries in this order. ``entry`` stands in each of them."""
    extensions = (x509.CRLNumber(number), x509.AuthorityKeyIdentifier(subject_key_id(issuer), None, None))
    builder = x509.CertificateRevocationListBuilder(
        issuer.subject,
        at.replace(tzinfo=None),
        (at + VALIDITY).replace(tzinfo=None),
        [x509.Extension(value.oid, False, value) for value in extensions],
        [
            x509.RevokedCertificateBuilder(serial, datetime(2026, 1, 1), list(entry)).build()  # UTC by definition
            for serial in serials
        ],
    )
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def step_to(newer: bytes, base_number: int, *, removed: Sequence[int] = (), added: int = 0) -> ListStep:
    """The step to ``newer`` from a list that lacks its last ``added`` entries and has others at ``removed``."""
    crl = x509.load_der_x509_crl(newer)
    entries = list(crl)[len(crl) - added :]
    builder = x509.CertificateRevocationListBuilder(
        crl.issuer, _naive(crl.last_update_utc), _naive(crl.next_update_utc), list(crl.extensions), entries
    )
    algorithm: Any = crl.signature_hash_algorithm
    rehearsed = builder.sign(_THROW_AWAY[crl.signature_algorithm_oid], algorithm).public_bytes(Encoding.DER)
    return ListStep(base_number, tuple(removed), outline(rehearsed, crl.signature))


def _naive(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment.replace(tzinfo=None)
