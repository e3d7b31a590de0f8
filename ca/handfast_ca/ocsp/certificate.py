"""The responder's certificate: its profile, its template, its lint. Nothing of a workload's fits it (RFC 6960, 4.2.2.2).

It says ``id-pkix-ocsp-nocheck``: nobody can ask about the one who answers, so it lives a day (RFC 6960, 4.2.2.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from handfast.certificates import Leaf
from handfast.errors import Broken, HandfastError, ViolationsCollector
from handfast.identity import TrustDomain
from handfast.keys import key_identifier, spki_sha256
from handfast.lifetime import Validity
from handfast_ca.lint import IssuerFacts
from handfast_ca.profile import Profile
from handfast_ca.template import leaf_key_usage

__all__ = ["RESPONDER_PROFILE", "ResponderPlan", "lint_responder", "responder_builder", "responder_name"]

RESPONDER_PROFILE = Profile(longest=timedelta(hours=24))

_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.OCSP_NO_CHECK: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
}
"""Each extension it must have, and whether it is critical; it has no other."""


@dataclass(frozen=True, slots=True)
class ResponderPlan:
    """Everything that the certificate will say."""

    serial: int
    validity: Validity
    name: x509.Name
    public_key: ec.EllipticCurvePublicKey


def responder_name(trust_domain: TrustDomain, serial: int) -> x509.Name:
    """A subject of its own, and no SPIFFE ID: it is nobody in the mesh."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Handfast"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{str(trust_domain)[:40]} OCSP {serial:032x}"[:57]),
        ]
    )


def responder_builder(plan: ResponderPlan, issuer: x509.Name, issuer_key_id: bytes) -> x509.CertificateBuilder:
    """Issued directly by the CA whose certificates it speaks of."""
    values: tuple[x509.ExtensionType, ...] = (
        x509.BasicConstraints(ca=False, path_length=None),
        leaf_key_usage(),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),
        x509.OCSPNoCheck(),
        x509.AuthorityKeyIdentifier(issuer_key_id, None, None),
        x509.SubjectKeyIdentifier(key_identifier(plan.public_key)),
    )
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=plan.name,
        public_key=plan.public_key,
        serial_number=plan.serial,
        not_valid_before=plan.validity.not_before.replace(tzinfo=None),
        not_valid_after=plan.validity.not_after.replace(tzinfo=None),
        extensions=[x509.Extension(value.oid, _EXTENSIONS[value.oid], value) for value in values],
    )


def lint_responder(der: bytes, plan: ResponderPlan, issuer: IssuerFacts) -> None:
    """Raises ``Broken`` (``LINT``) with every finding, as :func:`handfast_ca.lint.lint` does for leaves."""
    found = ViolationsCollector()
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = {extension.oid: extension for extension in certificate.extensions}
        _check_form(certificate, plan, issuer, found)
        _check_extensions(extensions, found)
        _check_values({oid: one.value for oid, one in extensions.items()}, plan, issuer, found)
        _check_no_workload(certificate, found)
    except ValueError as error:
        found.add("certificate", "LINT", f"it cannot be read: {error}")
    found.raise_if_any(
        "the certificate of the OCSP responder is not what was decided, and was not signed",
        kind=Broken,
        hint="nothing was issued; this is a fault of the CA: please report it",
    )


def _check_form(
    certificate: x509.Certificate, plan: ResponderPlan, issuer: IssuerFacts, found: ViolationsCollector
) -> None:
    validity = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    pairs = (
        ("version", certificate.version, x509.Version.v3),
        ("serialNumber", certificate.serial_number, plan.serial),
        ("validity", validity, (plan.validity.not_before, plan.validity.not_after)),
        ("subject", certificate.subject, plan.name),
        ("issuer", certificate.issuer, issuer.subject),
        ("subjectPublicKeyInfo", spki_sha256(certificate.public_key()), spki_sha256(plan.public_key)),
    )
    for field, is_there, decided in pairs:
        if is_there != decided:
            found.add(field, "LINT", f"{field} differs from what was decided")
    if not 64 <= plan.serial.bit_length() < 160:
        found.add("serialNumber", "LINT", f"a serial of {plan.serial.bit_length()} bits is not one of 64 to 159 bits")
    if plan.validity.duration > RESPONDER_PROFILE.longest:
        found.add("validity", "LINT", "it lives longer than a day, and nobody can ask whether it was revoked")
    if plan.validity.not_after >= issuer.not_after:
        found.add("validity", "LINT", "the responder outlives its issuer")
    if not isinstance(certificate.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        found.add("signatureAlgorithm", "LINT", "not signed over SHA-256, SHA-384 or SHA-512")


def _check_extensions(
    present: dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]], found: ViolationsCollector
) -> None:
    for oid in _EXTENSIONS.keys() - present.keys():
        found.add("extensions", "LINT", f"extension {oid.dotted_string} is missing")
    for oid, extension in present.items():
        if oid not in _EXTENSIONS:
            found.add("extensions", "LINT", f"extension {oid.dotted_string} does not belong to a responder")
        elif extension.critical is not _EXTENSIONS[oid]:
            found.add("extensions", "LINT", f"extension {oid.dotted_string} has critical = {extension.critical}")


def _check_values(
    present: dict[x509.ObjectIdentifier, x509.ExtensionType],
    plan: ResponderPlan,
    issuer: IssuerFacts,
    found: ViolationsCollector,
) -> None:
    expected: dict[x509.ObjectIdentifier, x509.ExtensionType] = {
        ExtensionOID.BASIC_CONSTRAINTS: x509.BasicConstraints(ca=False, path_length=None),
        ExtensionOID.KEY_USAGE: leaf_key_usage(),
        ExtensionOID.EXTENDED_KEY_USAGE: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: x509.AuthorityKeyIdentifier(issuer.key_id, None, None),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: x509.SubjectKeyIdentifier(key_identifier(plan.public_key)),
    }
    for oid, value in expected.items():
        if oid in present and present[oid] != value:
            found.add("extensions", "LINT", f"extension {oid.dotted_string} says something else")


def _check_no_workload(certificate: x509.Certificate, found: ViolationsCollector) -> None:
    try:
        Leaf.of(certificate)
    except HandfastError:
        return
    found.add("certificate", "LINT", "it would pass as a workload of the mesh")
