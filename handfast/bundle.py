"""The trust bundle of a trust domain: its roots, the issuing CAs below them, and a number that only rises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.certificates import load_certificates, pem_chain, subject_key_id
from handfast.errors import Invalid, Refused
from handfast.identity import TrustDomain

__all__ = ["TrustBundle"]


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Whom a trust domain's members trust.

    An empty bundle is a statement: trust nothing (SPIFFE bundle, 4.1.3). ``issuers`` are the signing CAs below the
    roots; they are carried so that a revocation list can be verified without a peer's chain, and they are no trust
    anchors. ``sequence`` rises with every change of contents (SPIFFE bundle, 4.1.1).
    """

    trust_domain: TrustDomain
    roots: tuple[x509.Certificate, ...]
    issuers: tuple[x509.Certificate, ...] = ()
    sequence: int = 0
    refresh_hint_seconds: int = 300
    _by_key_id: dict[bytes, x509.Certificate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_key_id = {_key_id(certificate): certificate for certificate in (*self.roots, *self.issuers)}
        object.__setattr__(self, "_by_key_id", by_key_id)

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, pem: bytes, *, sequence: int = 0) -> TrustBundle:
        """Self-signed certificates become roots, all others issuers. Raises ``Invalid``."""
        roots: list[x509.Certificate] = []
        issuers: list[x509.Certificate] = []
        for certificate in load_certificates(pem) if pem.strip() else ():
            (roots if _is_root(certificate) else issuers).append(certificate)
        return cls(trust_domain, tuple(roots), tuple(issuers), sequence)

    @property
    def roots_pem(self) -> bytes:
        return pem_chain(self.roots)

    @property
    def pem(self) -> bytes:
        """Roots, then issuers. For files that only hold trust anchors, take :attr:`roots_pem`."""
        return pem_chain((*self.roots, *self.issuers))

    def issuer(self, key_id: bytes) -> x509.Certificate | None:
        """The CA certificate with this subject key identifier."""
        return self._by_key_id.get(key_id)

    def same_contents(self, other: TrustBundle) -> bool:
        return (
            self.trust_domain == other.trust_domain
            and _ders(self.roots) == _ders(other.roots)
            and _ders(self.issuers) == _ders(other.issuers)
        )

    def check_successor(self, newer: TrustBundle) -> bool:
        """True when ``newer`` replaces this one, False when it is the same.

        Trusted material only moves forward: raises ``Refused`` with ``BUNDLE_ROLLBACK``, ``BUNDLE_EQUIVOCATION`` (one
        number, two contents) or ``FOREIGN_TRUST_DOMAIN``.
        """
        if newer.trust_domain != self.trust_domain:
            raise Refused(
                f"a bundle of trust domain {newer.trust_domain} cannot replace one of {self.trust_domain}",
                reason="FOREIGN_TRUST_DOMAIN",
            )
        if newer.sequence < self.sequence:
            raise Refused(
                f"bundle sequence {newer.sequence} is below {self.sequence}, which was seen before",
                reason="BUNDLE_ROLLBACK",
            )
        if newer.sequence == self.sequence:
            if self.same_contents(newer):
                return False
            raise Refused(f"two different bundles carry sequence {self.sequence}", reason="BUNDLE_EQUIVOCATION")
        return True


def _ders(certificates: Iterable[x509.Certificate]) -> frozenset[bytes]:
    return frozenset(c.public_bytes(serialization.Encoding.DER) for c in certificates)


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        return certificate.issuer == certificate.subject
    except ValueError as error:
        raise _malformed(error) from error


def _key_id(certificate: x509.Certificate) -> bytes:
    """The library reads a certificate piece by piece, and finds what is wrong with a piece when somebody asks for it."""
    try:
        key_id = subject_key_id(certificate)
    except Exception as error:
        raise _malformed(error) from error
    if key_id is None:
        raise Invalid("a CA certificate of the bundle has no subject key identifier", reason="BUNDLE_MALFORMED")
    return key_id


def _malformed(error: Exception) -> Invalid:
    return Invalid(f"a CA certificate of the bundle cannot be read: {type(error).__name__}", reason="BUNDLE_MALFORMED")
