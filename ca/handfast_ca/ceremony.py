"""Makes the certificates that stand above every leaf: a root, an issuing CA below it, and the root's revocation list.

Done once, by a person, before anything serves. What a root signs at its ceremony is all that it ever needs to sign
online: it can be locked away afterwards.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handfast.errors import Refused
from handfast.identity import TrustDomain
from handfast.keys import CaPrivateKey, key_identifier
from handfast_ca.issuer import signature_hash
from handfast_ca.template import crl_distribution_points, issuer_access, new_serial
from handfast_ca.urls import PublicUrls

__all__ = ["ISSUER_LIFETIME", "ROOT_LIFETIME", "CertificateAuthority", "make_issuer", "make_root", "make_root_crl"]

ROOT_LIFETIME = timedelta(days=3653)
ISSUER_LIFETIME = timedelta(days=90)
ROOT_CRL_MARGIN = timedelta(days=30)
"""The root's list outlives the issuing CAs that it speaks of by so much, since the root is offline until the next
ceremony.
"""

BACKDATE = timedelta(minutes=5)
ONE_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA certificate and its private key, which never shows in a repr."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.certificate.subject.rfc4514_string()!r})"


def make_root(trust_domain: TrustDomain, *, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> CertificateAuthority:
    """P-384, self-signed. No path length: how deep it goes is for its issuing CAs to say."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(trust_domain, "root")
    certificate = _sign(name, key.public_key(), name, key, [], path_length=None, now=now, not_after=now + lifetime)
    return CertificateAuthority(certificate, key)


def make_issuer(
    root: CertificateAuthority,
    trust_domain: TrustDomain,
    *,
    now: datetime,
    lifetime: timedelta = ISSUER_LIFETIME,
    curve: ec.EllipticCurve | None = None,
    urls: PublicUrls | None = None,
) -> CertificateAuthority:
    """An issuing CA with path length 0, P-256 by default, and a subject name that no other has (threat J7).

    Raises ``Refused`` (``ISSUER_EXPIRING``) when it would outlive the root.
    """
    not_after = now + lifetime
    if not_after >= root.certificate.not_valid_after_utc:
        raise Refused(
            f"an issuing CA until {not_after:%Y-%m-%dT%H:%M:%SZ} would outlive its root of "
            f"{root.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            reason="ISSUER_EXPIRING",
            hint="`handfast ca rotate prepare --root` makes the next root",
        )
    key = ec.generate_private_key(curve or ec.SECP256R1())
    root_key_id = key_identifier(root.key.public_key())
    extensions: list[x509.ExtensionType] = [x509.AuthorityKeyIdentifier(root_key_id, None, None)]
    if urls is not None:
        extensions += [crl_distribution_points(urls, root_key_id), issuer_access(urls, root_key_id)]
    certificate = _sign(
        _name(trust_domain, "issuing CA"),
        key.public_key(),
        root.certificate.subject,
        root.key,
        extensions,
        path_length=0,
        now=now,
        not_after=not_after,
    )
    return CertificateAuthority(certificate, key)


def make_root_crl(
    root: CertificateAuthority,
    *,
    now: datetime,
    next_update: datetime,
    number: int = 1,
    revoked: tuple[x509.RevokedCertificate, ...] = (),
) -> x509.CertificateRevocationList:
    """The root's list, so that a verifier that checks the whole chain finds one for the issuing CA.

    ``next_update`` should lie :data:`ROOT_CRL_MARGIN` past the end of the issuing CA.
    """
    extensions = (
        x509.CRLNumber(number),
        x509.AuthorityKeyIdentifier(key_identifier(root.key.public_key()), None, None),
    )
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=root.certificate.subject,
        last_update=_whole(now - BACKDATE),
        next_update=_whole(min(next_update, root.certificate.not_valid_after_utc)),
        extensions=[x509.Extension(value.oid, False, value) for value in extensions],
        revoked_certificates=list(revoked),
    )
    return builder.sign(root.key, signature_hash(root.key))


def _sign(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: CaPrivateKey,
    more: list[x509.ExtensionType],
    *,
    path_length: int | None,
    now: datetime,
    not_after: datetime,
) -> x509.Certificate:
    critical: list[x509.ExtensionType] = [x509.BasicConstraints(ca=True, path_length=path_length), _ca_key_usage()]
    plain: list[x509.ExtensionType] = [x509.SubjectKeyIdentifier(key_identifier(public_key)), *more]
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=new_serial(secrets.token_bytes),
        not_valid_before=_whole(now - BACKDATE),
        not_valid_after=_whole(not_after - ONE_SECOND),
        extensions=[
            *(x509.Extension(value.oid, True, value) for value in critical),
            *(x509.Extension(value.oid, False, value) for value in plain),
        ],
    )
    return builder.sign(key, signature_hash(key))


def _ca_key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _name(trust_domain: TrustDomain, role: str) -> x509.Name:
    """A random part keeps two CAs of one trust domain apart: a CRL's scope is its issuer's name (RFC 5280, 5)."""
    common_name = f"{str(trust_domain)[:40]} {role} {secrets.token_hex(4)}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Handfast"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _whole(moment: datetime) -> datetime:
    """What a certificate can say: whole seconds, and no zone (RFC 5280, 4.1.2.5)."""
    return moment.replace(microsecond=0, tzinfo=None)
