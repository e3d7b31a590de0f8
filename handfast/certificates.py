"""Certificates as their readers see them: a leaf that names one workload, a CA that may sign it.

:class:`Leaf` is what every judge in the house looks at. It is parsed once, strictly (X509-SVID, 5.2), and holds plain
values. A ``Leaf`` says what a certificate *claims*; :func:`verify_leaf` says whether somebody we trust says so too.
Neither looks at revocations: :mod:`handfast.revocation` and :mod:`handfast.access` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from handfast.errors import HandfastError, Invalid, Refused, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId
from handfast.lifetime import Validity

__all__ = [
    "MAX_CHAIN_LENGTH",
    "Leaf",
    "Usage",
    "authority_key_id",
    "fingerprint",
    "format_serial",
    "load_certificates",
    "parse_fingerprint",
    "parse_serial",
    "pem_chain",
    "subject_key_id",
    "verify_leaf",
]

MAX_CHAIN_LENGTH = 4
"""Leaf and intermediates that a peer may present; longer chains are refused unread (threat H5)."""

_KNOWN_LEAF_EXTENSIONS = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    }
)


class Usage(StrEnum):
    """What a leaf may be used for in TLS."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def oid(self) -> x509.ObjectIdentifier:
        return ExtendedKeyUsageOID.CLIENT_AUTH if self is Usage.CLIENT else ExtendedKeyUsageOID.SERVER_AUTH


_USAGES = {usage.oid: usage for usage in Usage}
_Extensions = Mapping[type[x509.ExtensionType], x509.ExtensionType]
"""By what the library read them as. It refuses a certificate in which one stands twice (RFC 5280, 4.2)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate of one workload, read strictly.

    ``expires_at`` is ``not_after`` in seconds since 1970, for comparisons on every call.

    >>> from handfast.testing import TestAuthority
    >>> leaf = Leaf.parse_pem(TestAuthority("prod.example").issue("/web").chain_pem)
    >>> str(leaf.spiffe_id), sorted(leaf.usages)
    ('spiffe://prod.example/web', [<Usage.CLIENT: 'client'>, <Usage.SERVER: 'server'>])
    """

    spiffe_id: SpiffeId
    serial: int
    issuer_key_id: bytes
    validity: Validity
    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]
    usages: frozenset[Usage]
    certificate: x509.Certificate = field(repr=False, compare=False)
    der: bytes = field(repr=False)
    expires_at: float = field(repr=False)

    @classmethod
    def parse(cls, der: bytes) -> Leaf:
        """Reads a DER leaf. Raises ``Invalid`` (``CERTIFICATE_MALFORMED``) or ``Refused`` (``NOT_AN_SVID``)."""
        try:
            return _read_leaf(x509.load_der_x509_certificate(der), der)
        except HandfastError:
            raise
        except Exception as error:
            raise _malformed(error) from error

    @classmethod
    def parse_pem(cls, pem: bytes) -> Leaf:
        """Reads the first certificate of a PEM text as a leaf."""
        return cls.of(load_certificates(pem)[0])

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Leaf:
        """Checks what X509-SVID, 5.2 demands of a leaf, and reports every breach at once."""
        try:
            return _read_leaf(certificate, certificate.public_bytes(serialization.Encoding.DER))
        except HandfastError:
            raise
        except Exception as error:
            raise _malformed(error) from error

    @property
    def serial_text(self) -> str:
        return format_serial(self.serial)

    def __str__(self) -> str:
        return f"{self.spiffe_id} (serial {self.serial_text})"


def _malformed(error: Exception) -> Invalid:
    return Invalid(f"the certificate cannot be read: {type(error).__name__}", reason="CERTIFICATE_MALFORMED")


def _read_leaf(certificate: x509.Certificate, der: bytes) -> Leaf:
    found = ViolationsCollector()
    extensions = certificate.extensions
    for extension in extensions:
        if extension.critical and extension.oid not in _KNOWN_LEAF_EXTENSIONS:
            found.add("extensions", "NOT_AN_SVID", f"unknown critical extension {extension.oid.dotted_string}")
    present = {type(extension.value): extension.value for extension in extensions}
    identity, dns_names, addresses = _read_names(present, found)
    usages = _read_usages(present, found)
    issuer = present.get(x509.AuthorityKeyIdentifier)
    issuer_key_id = issuer.key_identifier if isinstance(issuer, x509.AuthorityKeyIdentifier) else None
    if issuer_key_id is None:
        found.add("authorityKeyIdentifier", "NOT_AN_SVID", "the key identifier of the issuer is missing")
    _check_key(certificate, found)
    found.raise_if_any("the certificate is not an X.509-SVID", kind=Refused)
    assert identity is not None
    assert issuer_key_id is not None
    validity = Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Leaf(
        spiffe_id=identity,
        serial=certificate.serial_number,
        issuer_key_id=issuer_key_id,
        validity=validity,
        dns_names=dns_names,
        ip_addresses=addresses,
        usages=usages,
        certificate=certificate,
        der=der,
        expires_at=validity.not_after.timestamp(),
    )


def _read_names(
    present: _Extensions, found: ViolationsCollector
) -> tuple[SpiffeId | None, tuple[str, ...], tuple[IPAddress, ...]]:
    names = present.get(x509.SubjectAlternativeName)
    if not isinstance(names, x509.SubjectAlternativeName):
        found.add("subjectAltName", "NOT_AN_SVID", "there is no subject alternative name")
        return None, (), ()
    uris, dns_names, addresses = [], [], []
    for name in names:
        if isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        elif isinstance(name, x509.DNSName):
            dns_names.append(name.value)
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPAddress):
            addresses.append(name.value)
    return _read_identity(uris, found), tuple(dns_names), tuple(addresses)


def _read_identity(uris: Sequence[str], found: ViolationsCollector) -> SpiffeId | None:
    if len(uris) != 1:
        found.add("subjectAltName", "NOT_AN_SVID", f"{len(uris)} URI names, where exactly 1 must be")
        return None
    try:
        return SpiffeId.parse(uris[0])
    except Invalid as error:
        found.add("subjectAltName", "NOT_AN_SVID", error.message)
        return None


def _read_usages(present: _Extensions, found: ViolationsCollector) -> frozenset[Usage]:
    constraints = present.get(x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        found.add("basicConstraints", "NOT_AN_SVID", "a signing certificate never authenticates a workload")
    usage = present.get(x509.KeyUsage)
    if not isinstance(usage, x509.KeyUsage):
        found.add("keyUsage", "NOT_AN_SVID", "there is no key usage")
    elif not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        found.add("keyUsage", "NOT_AN_SVID", "digitalSignature must be set, keyCertSign and cRLSign must not")
    extended = present.get(x509.ExtendedKeyUsage)
    if not isinstance(extended, x509.ExtendedKeyUsage):
        return frozenset(Usage)
    usages = frozenset(_USAGES[oid] for oid in extended if oid in _USAGES)
    if not usages:
        found.add("extendedKeyUsage", "NOT_AN_SVID", "neither clientAuth nor serverAuth")
    return usages


def _check_key(certificate: x509.Certificate, found: ViolationsCollector) -> None:
    """Cheap: a stranger's certificate with a key that TLS accepts and we do not (threat A10)."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if not 2048 <= key.key_size <= 4096:
            found.add("publicKey", "WEAK_KEY", f"RSA of {key.key_size} bits is not 2048 to 4096")
    elif not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        found.add("publicKey", "WEAK_KEY", "the key is neither P-256 nor P-384 nor RSA")


def authority_key_id(certificate: x509.Certificate) -> bytes | None:
    """keyIdentifier of the issuer (RFC 5280, 4.2.1.1), or None."""
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def subject_key_id(certificate: x509.Certificate) -> bytes | None:
    """keyIdentifier of the certificate's own key (RFC 5280, 4.2.1.2), or None."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def load_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in order; at least one. Raises ``Invalid``."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:  # the latter is no ValueError
        raise Invalid("there is no readable PEM certificate", reason="CERTIFICATE_MALFORMED") from error


def pem_chain(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """``sha256:`` and 64 hexadecimal digits over the DER: what people pin."""
    return "sha256:" + certificate.fingerprint(hashes.SHA256()).hex()


def parse_fingerprint(text: str) -> bytes:
    """Reads a SHA-256 fingerprint as people write it: with or without ``sha256:`` and colons, any case."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise Invalid(
            f"fingerprint {text[:80]!a} is not 64 hexadecimal digits",
            reason="INVALID_FINGERPRINT",
            hint="`handfast ca init` prints it, and `handfast inspect root.crt` shows it",
        )
    return digest


def format_serial(serial: int) -> str:
    """Lower-case hexadecimal without leading zeros, as the command line shows serials."""
    return format(serial, "x")


def parse_serial(text: str) -> int:
    """The reverse of :func:`format_serial`; also takes colons and capitals. Positive and at most 20 octets."""
    digits = text.strip().lower().removeprefix("0x").replace(":", "")
    try:
        serial = int(digits, 16) if digits.isalnum() else 0
    except ValueError:
        serial = 0
    if not 0 < serial < 1 << 159:
        raise Invalid(
            f"serial {text[:60]!a} is not a positive hexadecimal number of at most 20 octets",
            reason="INVALID_SERIAL",
        )
    return serial


def verify_leaf(
    leaf: Leaf,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    known: Sequence[x509.Certificate] = (),
    usage: Usage,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Builds and checks the path from ``leaf`` to one of ``roots`` (RFC 5280, 6.1), and returns it, leaf first.

    ``intermediates`` are what the peer presented, and may not be too many; ``known`` are CAs that we carry ourselves.
    Does not look at revocations, names beyond the path's own constraints, or trust domains. Raises ``Refused`` with
    ``EXPIRED``, ``NOT_YET_VALID``, ``WRONG_USAGE`` or ``UNTRUSTED``.
    """
    if now > leaf.validity.not_after:
        raise Refused(
            f"the certificate of {leaf} expired at {leaf.validity.not_after:%Y-%m-%dT%H:%M:%SZ}", reason="EXPIRED"
        )
    if now < leaf.validity.not_before:
        raise Refused(
            f"the certificate of {leaf} is not valid before {leaf.validity.not_before:%Y-%m-%dT%H:%M:%SZ}",
            reason="NOT_YET_VALID",
        )
    if usage not in leaf.usages:
        raise Refused(f"the certificate of {leaf} is not for use as a TLS {usage}", reason="WRONG_USAGE")
    if len(intermediates) >= MAX_CHAIN_LENGTH:
        raise Refused(
            f"{len(intermediates) + 1} certificates exceed the maximum of {MAX_CHAIN_LENGTH}", reason="UNTRUSTED"
        )
    if not roots:
        raise Refused("the trust bundle is empty: nothing is trusted", reason="UNTRUSTED")
    policy = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(now.astimezone(UTC).replace(tzinfo=None))
        .max_chain_depth(MAX_CHAIN_LENGTH)
        .extension_policies(ca_policy=_ca_policy(), ee_policy=_leaf_policy())
    )
    try:
        verified = policy.build_client_verifier().verify(leaf.certificate, [*intermediates, *known])
    except verification.VerificationError as error:
        raise Refused(
            f"the certificate of {leaf} does not lead to a trusted root: {error}", reason="UNTRUSTED"
        ) from error
    return tuple(verified.chain)


def _ca_policy() -> verification.ExtensionPolicy:
    return verification.ExtensionPolicy.webpki_defaults_ca()


def _leaf_policy() -> verification.ExtensionPolicy:
    """As the web's, but without its demand for one fixed usage: :class:`Leaf` has checked usages and names."""
    return verification.ExtensionPolicy.permit_all().require_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
