"""Reads a finished leaf like a stranger would, before the real key is touched.

Two readers who share nothing with the template: :class:`handfast.certificates.Leaf`, which every peer will use, and the
rules below (RFC 5280, 4; X509-SVID, 2 to 4). Then it is compared with what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtensionOID

from handfast.certificates import Leaf
from handfast.errors import Broken, HandfastError, ViolationsCollector
from handfast.keys import key_identifier, spki_sha256
from handfast.ocsp import ocsp_url
from handfast_ca.template import LeafPlan
from handfast_ca.urls import PublicUrls

__all__ = ["IssuerFacts", "lint"]

_MUST = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: True,
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
}
_MAY = {
    ExtensionOID.CRL_DISTRIBUTION_POINTS: False,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: False,
}
_ALLOWED = _MUST | _MAY
"""Each extension a leaf may have, and whether it is critical."""

_NOBODY = x509.Name([])
_Extensions = Mapping[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]


@dataclass(frozen=True, slots=True)
class IssuerFacts:
    """What the lint holds a leaf to, read once from its issuing CA."""

    subject: x509.Name
    key_id: bytes
    not_after: datetime
    ocsp_url: str | None = None

    @classmethod
    def of(cls, issuer: x509.Certificate, urls: PublicUrls | None = None) -> IssuerFacts:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        ocsp_url = urls.responder() if urls is not None and urls.ocsp else None
        return cls(issuer.subject, key_id, issuer.not_valid_after_utc, ocsp_url)


def lint(der: bytes, plan: LeafPlan, issuer: IssuerFacts) -> None:
    """Raises ``Broken`` (``LINT``) with every finding. What it finds is a fault of ours, never of the caller."""
    found = ViolationsCollector()
    try:
        leaf = Leaf.parse(der)
    except HandfastError as error:
        found.extend(error.violations)
        found.add("certificate", "LINT", error.message)
    else:
        extensions = {extension.oid: extension for extension in leaf.certificate.extensions}
        _check_form(leaf, issuer, found)
        _check_extensions(extensions, found)
        _check_decision(leaf, extensions, plan, issuer, found)
    found.raise_if_any(
        f"the certificate for {plan.admitted.spiffe_id} is not what was decided, and was not signed",
        kind=Broken,
        hint="nothing was issued; this is a fault of the CA: please report it",
    )


def _check_form(leaf: Leaf, issuer: IssuerFacts, found: ViolationsCollector) -> None:
    certificate = leaf.certificate
    if certificate.version is not x509.Version.v3:
        found.add("version", "LINT", "not a version 3 certificate")
    if not 0 < leaf.serial < 1 << 159 or leaf.serial.bit_length() < 64:
        found.add(
            "serialNumber", "LINT", f"serial of {leaf.serial.bit_length()} bits is not positive and 64 to 159 bits"
        )
    if certificate.subject != _NOBODY:
        found.add("subject", "LINT", "the subject is not empty")
    if certificate.issuer != issuer.subject:
        found.add("issuer", "LINT", "the issuer's name is not the issuing CA's")
    if not isinstance(certificate.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        found.add("signatureAlgorithm", "LINT", "not signed over SHA-256, SHA-384 or SHA-512")


def _check_extensions(present: _Extensions, found: ViolationsCollector) -> None:
    for oid in _MUST.keys() - present.keys():
        found.add("extensions", "LINT", f"extension {oid.dotted_string} is missing")
    for oid, extension in present.items():
        if oid not in _ALLOWED:
            found.add("extensions", "LINT", f"extension {oid.dotted_string} does not belong in a leaf")
        elif extension.critical is not _ALLOWED[oid]:
            found.add("extensions", "LINT", f"extension {oid.dotted_string} has critical = {extension.critical}")
    usage = present.get(ExtensionOID.KEY_USAGE)
    if usage is not None and isinstance(usage.value, x509.KeyUsage) and _more_than_signing(usage.value):
        found.add("keyUsage", "LINT", "more than digitalSignature")


def _more_than_signing(usage: x509.KeyUsage) -> bool:
    return usage.content_commitment or usage.key_encipherment or usage.data_encipherment or usage.key_agreement


def _check_decision(
    leaf: Leaf, extensions: _Extensions, plan: LeafPlan, issuer: IssuerFacts, found: ViolationsCollector
) -> None:
    admitted = plan.admitted
    public_key = leaf.certificate.public_key()
    own = extensions.get(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    pairs = (
        ("serialNumber", leaf.serial, plan.serial),
        ("validity", leaf.validity, plan.validity),
        (
            "subjectAltName",
            (leaf.spiffe_id, leaf.dns_names, leaf.ip_addresses),
            (admitted.spiffe_id, admitted.dns_names, admitted.ip_addresses),
        ),
        ("extendedKeyUsage", leaf.usages, admitted.usages),
        ("subjectPublicKeyInfo", spki_sha256(public_key), admitted.spki_sha256),
        ("authorityKeyIdentifier", leaf.issuer_key_id, issuer.key_id),
        ("authorityInfoAccess", ocsp_url(leaf.certificate), issuer.ocsp_url),
        ("subjectKeyIdentifier", own and own.value, x509.SubjectKeyIdentifier(key_identifier(public_key))),
    )
    for field, is_there, decided in pairs:
        if is_there != decided:
            found.add(field, "LINT", f"{field} differs from what was decided")
    if leaf.validity.not_after >= issuer.not_after:
        found.add("validity", "LINT", "the leaf outlives its issuer")
