"""Certificate signing requests (PKCS#10, RFC 2986): strict reading, and making our own.

The CA takes only the public key from a request. Names in it are read so that they can be *compared* with what the
entry gives; what cannot be compared is refused here, with all reasons at once.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID

from handfast.errors import HandfastError, Invalid, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId, parse_dns_name
from handfast.keys import DEFAULT_LEAF_KEYS, KeyPolicy, PrivateKey, PublicKey, spki_sha256

__all__ = ["MAX_CSR_BYTES", "MAX_NAMES", "CertificateRequest", "binding", "build_csr", "parse_csr"]

MAX_CSR_BYTES = 16 * 1024
MAX_NAMES = 8
MAX_SUBJECT_BYTES = 1024

_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_KNOWN_ATTRIBUTES = frozenset({_EXTENSION_REQUEST, AttributeOID.CHALLENGE_PASSWORD})


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a request says, after every check that needs no registration."""

    der: bytes = field(repr=False)
    public_key: PublicKey = field(repr=False)
    spki_sha256: bytes = field(repr=False)
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()
    binding: str | None = field(default=None, repr=False)


def binding(credential: bytes) -> str:
    """Ties a request to the proof it travels with: the join token's text, or the DER of the presented leaf.

    It stands in the request as challengePassword (RFC 2985, 5.4.1), so that a request made for one proof is refused
    with another (threat A13). Base64url without padding of SHA-256.

    >>> binding(b"token")[:8]
    'IyW944tJ'
    """
    digest = hashlib.sha256(b"handfast-csr-v1\0" + credential).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def build_csr(
    key: PrivateKey,
    *,
    credential: bytes | None = None,
    spiffe_id: SpiffeId | None = None,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[IPAddress] = (),
) -> bytes:
    """A request in DER, signed with ``key``, with an empty subject."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))] if spiffe_id else []
    names += [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(address) for address in ip_addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if credential is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, binding(credential).encode("ascii"))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def parse_csr(data: bytes, *, keys: KeyPolicy = DEFAULT_LEAF_KEYS, allow_pem: bool = False) -> CertificateRequest:
    """Reads a request strictly.

    Raises ``Invalid`` with ``CSR_TOO_LARGE`` (before a byte is parsed), ``CSR_MALFORMED`` or ``CSR_BAD_SIGNATURE``, and
    ``Refused`` with every violation: ``CSR_FORBIDDEN_EXTENSION``, ``CSR_FORBIDDEN_NAME``, ``TOO_MANY_NAMES``,
    ``INVALID_DNS_NAME``, ``INVALID_SPIFFE_ID``, ``UNSUPPORTED_KEY``, ``WEAK_KEY``.
    """
    if len(data) > MAX_CSR_BYTES:
        raise Invalid(f"the CSR of {len(data)} bytes exceeds the maximum of {MAX_CSR_BYTES}", reason="CSR_TOO_LARGE")
    try:
        return _parse(data, keys, allow_pem)
    except HandfastError:
        raise
    except Exception as error:
        # The library raises ValueError, but also its own errors for duplicates and unsupported types: whatever it is,
        # a stranger's bytes must not end a request handler any other way (threat A20).
        raise Invalid(f"the CSR cannot be read: {type(error).__name__}", reason="CSR_MALFORMED") from error


def _parse(data: bytes, keys: KeyPolicy, allow_pem: bool) -> CertificateRequest:
    request = _load(data, allow_pem)
    public_key = request.public_key()
    found = ViolationsCollector()
    found.extend(keys.violations(public_key))
    if found.violations:
        # Not even the signature of a key that may be 16,000 bits long is looked at (threat H5).
        found.raise_if_any("the CSR is refused")
    if not isinstance(request.signature_hash_algorithm, _SIGNATURE_HASHES) or not request.is_signature_valid:
        raise Invalid(
            "the CSR is not signed by its own key with SHA-256, SHA-384 or SHA-512", reason="CSR_BAD_SIGNATURE"
        )
    _check_subject(request.subject, found)
    _check_attributes(request.attributes, found)
    names = _read_extensions(request.extensions, found)
    uris, dns_names, addresses = _read_names(names, found)
    found.raise_if_any("the CSR is refused")
    return CertificateRequest(
        der=data,
        public_key=public_key,  # type: ignore[arg-type]  # the key policy let it pass
        spki_sha256=spki_sha256(public_key),
        uris=uris,
        dns_names=dns_names,
        ip_addresses=addresses,
        binding=_read_binding(request.attributes),
    )


def _load(data: bytes, allow_pem: bool) -> x509.CertificateSigningRequest:
    if allow_pem and data.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_csr(data)
    request = x509.load_der_x509_csr(data)
    if request.public_bytes(serialization.Encoding.DER) != data:
        raise Invalid("the CSR is not in DER: encoded again it is different", reason="CSR_MALFORMED")
    return request


def _check_subject(subject: x509.Name, found: ViolationsCollector) -> None:
    """The subject is never used; but it may end up on a screen or in a log of somebody who looks at it."""
    if len(subject.public_bytes()) > MAX_SUBJECT_BYTES:
        found.add("subject", "CSR_FORBIDDEN_NAME", f"the subject is longer than {MAX_SUBJECT_BYTES} bytes")
    for attribute in subject:
        text = attribute.value if isinstance(attribute.value, str) else ""
        if any(unicodedata.category(letter) in {"Cc", "Cf"} for letter in text):
            found.add("subject", "CSR_FORBIDDEN_NAME", "the subject has control or direction characters")
            return


def _check_attributes(attributes: x509.Attributes, found: ViolationsCollector) -> None:
    seen = [attribute.oid for attribute in attributes]
    for oid in sorted(set(seen), key=lambda oid: oid.dotted_string):
        if oid not in _KNOWN_ATTRIBUTES:
            found.add("attributes", "CSR_FORBIDDEN_EXTENSION", f"unknown attribute {oid.dotted_string}")
        if seen.count(oid) > 1:
            found.add("attributes", "CSR_FORBIDDEN_EXTENSION", f"attribute {oid.dotted_string} stands twice")


def _read_binding(attributes: x509.Attributes) -> str | None:
    try:
        return attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value.decode("ascii")
    except x509.AttributeNotFound:
        return None


def _read_extensions(extensions: x509.Extensions, found: ViolationsCollector) -> Iterable[x509.GeneralName]:
    """The alternative names. Usages that a leaf has anyway are tolerated, since common tools always ask for them."""
    names: Iterable[x509.GeneralName] = ()
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names = value
        elif not _is_harmless(value):
            found.add(
                f"extensions[{extension.oid.dotted_string}]",
                "CSR_FORBIDDEN_EXTENSION",
                f"extension {extension.oid.dotted_string} asks for what a leaf never gets",
            )
    return names


def _is_harmless(value: x509.ExtensionType) -> bool:
    if isinstance(value, x509.BasicConstraints):
        return not value.ca
    if isinstance(value, x509.KeyUsage):
        return not (value.key_cert_sign or value.crl_sign or value.content_commitment or value.data_encipherment)
    if isinstance(value, x509.ExtendedKeyUsage):
        return set(value) <= {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    return isinstance(value, x509.SubjectKeyIdentifier)


def _read_names(
    names: Iterable[x509.GeneralName], found: ViolationsCollector
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[IPAddress, ...]]:
    uris: list[str] = []
    dns_names: list[str] = []
    addresses: list[IPAddress] = []
    wanted = list(names)
    if len(wanted) > MAX_NAMES:
        found.add("subjectAltName", "TOO_MANY_NAMES", f"{len(wanted)} names exceed the maximum of {MAX_NAMES}")
        return (), (), ()
    for index, name in enumerate(wanted):
        where = f"subjectAltName[{index}]"
        try:
            if isinstance(name, x509.UniformResourceIdentifier):
                uris.append(str(SpiffeId.parse(name.value)))
            elif isinstance(name, x509.DNSName):
                dns_names.append(parse_dns_name(name.value))
            elif isinstance(name, x509.IPAddress) and isinstance(
                name.value, ipaddress.IPv4Address | ipaddress.IPv6Address
            ):
                addresses.append(name.value)
            else:
                found.add(where, "CSR_FORBIDDEN_NAME", f"names of type {type(name).__name__} are not issued")
        except Invalid as error:
            found.add(where, error.reason, error.message)
    if len(uris) > 1:
        found.add("subjectAltName", "CSR_FORBIDDEN_NAME", f"{len(uris)} URI names, where at most 1 may be")
    return tuple(uris), tuple(dns_names), tuple(addresses)
