"""Decides every byte of a leaf that is not the request's: the template decides, the issuer signs, the lint reads.

What is the same for all leaves of an issuer is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from handfast.certificates import Usage
from handfast.identity import IPAddress, SpiffeId
from handfast.keys import key_identifier
from handfast.lifetime import Validity
from handfast_ca.admission import Admitted
from handfast_ca.urls import PublicUrls

__all__ = ["SERIAL_BYTES", "LeafPlan", "LeafTemplate", "leaf_key_usage", "new_serial"]

SERIAL_BYTES = 16
"""128 random bits, none of them constant. As a DER INTEGER that is at most 17 octets (RFC 5280, 4.1.2.2: 20)."""


def new_serial(random_bytes: Callable[[int], bytes]) -> int:
    """Positive and unpredictable (threat A17). That it is unused is for the ledger to say."""
    serial = int.from_bytes(random_bytes(SERIAL_BYTES), "big")
    while serial.bit_length() < 64:
        serial = int.from_bytes(random_bytes(SERIAL_BYTES), "big")
    return serial


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """Everything that a leaf will say."""

    serial: int
    validity: Validity
    admitted: Admitted


class LeafTemplate:
    """Turns plans into builders for one issuing CA."""

    def __init__(self, issuer: x509.Certificate, issuer_key_id: bytes, urls: PublicUrls | None = None) -> None:
        self._issuer = issuer.subject
        self._subject = x509.Name([])
        self._constant = {
            usages: tuple(_constant_extensions(issuer_key_id, usages, urls)) for usages in _combinations()
        }

    def builder(self, plan: LeafPlan) -> x509.CertificateBuilder:
        """Through the constructor: each step of the fluent way copies the builder."""
        admitted, validity = plan.admitted, plan.validity
        names = _names(admitted.spiffe_id, admitted.dns_names, admitted.ip_addresses)
        key_id = x509.SubjectKeyIdentifier(key_identifier(admitted.public_key))
        return x509.CertificateBuilder(
            issuer_name=self._issuer,
            subject_name=self._subject,
            public_key=admitted.public_key,
            serial_number=plan.serial,
            not_valid_before=validity.not_before.replace(tzinfo=None),
            not_valid_after=validity.not_after.replace(tzinfo=None),
            extensions=[
                # The subject is empty, so the names are critical (RFC 5280, 4.2.1.6).
                x509.Extension(names.oid, True, names),
                *self._constant[admitted.usages],
                x509.Extension(key_id.oid, False, key_id),
            ],
        )


def _combinations() -> tuple[frozenset[Usage], ...]:
    return frozenset({Usage.CLIENT}), frozenset({Usage.SERVER}), frozenset(Usage)


def _names(
    spiffe_id: SpiffeId, dns_names: tuple[str, ...], ip_addresses: tuple[IPAddress, ...]
) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(str(spiffe_id)),
            *(x509.DNSName(name) for name in dns_names),
            *(x509.IPAddress(address) for address in ip_addresses),
        ]
    )


def _constant_extensions(
    issuer_key_id: bytes, usages: frozenset[Usage], urls: PublicUrls | None
) -> list[x509.Extension[x509.ExtensionType]]:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (leaf_key_usage(), True),
        (x509.ExtendedKeyUsage([usage.oid for usage in sorted(usages)]), False),
        (x509.AuthorityKeyIdentifier(issuer_key_id, None, None), False),
    ]
    if urls is not None:
        extensions += [
            (crl_distribution_points(urls, issuer_key_id), False),
            (leaf_access(urls, issuer_key_id), False),
        ]
    return [_encoded(value, critical) for value, critical in extensions]


def _encoded(value: x509.ExtensionType, critical: bool) -> x509.Extension[x509.ExtensionType]:
    """As it will stand in every leaf. Encoding it for each of two signatures would be a fifth of them."""
    return x509.Extension(value.oid, critical, x509.UnrecognizedExtension(value.oid, value.public_bytes()))


def leaf_key_usage() -> x509.KeyUsage:
    """digitalSignature alone: all that TLS 1.3 needs (X509-SVID, 4.3)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def crl_distribution_points(urls: PublicUrls, issuer_key_id: bytes) -> x509.CRLDistributionPoints:
    location = x509.UniformResourceIdentifier(urls.crl(issuer_key_id))
    return x509.CRLDistributionPoints([x509.DistributionPoint([location], None, None, None)])


def leaf_access(urls: PublicUrls, issuer_key_id: bytes) -> x509.AuthorityInformationAccess:
    """Where to ask about the leaf, unless OCSP is switched off, and where its issuer's certificate is."""
    issuer = issuer_access(urls, issuer_key_id)
    if not urls.ocsp:
        return issuer
    location = x509.UniformResourceIdentifier(urls.responder())
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location), *issuer]
    )


def issuer_access(urls: PublicUrls, issuer_key_id: bytes) -> x509.AuthorityInformationAccess:
    location = x509.UniformResourceIdentifier(urls.certificate(issuer_key_id))
    return x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)])
