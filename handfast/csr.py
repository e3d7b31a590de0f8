"""Certificate signing requests (PKCS#10, RFC 2986): strict reading, and making our own.

The CA takes only the public key from a request. Names in it are read so that they can be *compared* with what the
entry gives; what cannot be compared is refused here, with all reasons at once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, SignatureAlgorithmOID

from handfast.errors import HandfastError, Invalid, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId, parse_dns_name
from handfast.keys import DEFAULT_LEAF_KEYS, KeyPolicy, PrivateKey, PublicKey, spki_der

__all__ = ["MAX_CSR_BYTES", "MAX_NAMES", "CertificateRequest", "binding", "build_csr", "parse_csr"]

MAX_CSR_BYTES = 16 * 1024
MAX_NAMES = 8
MAX_SUBJECT_BYTES = 1024
_MAX_EXTENSIONS = 8
"""More are not looked at one by one: the answer, with every violation in it, has to fit into trailing metadata."""

_SIGNATURES = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
    }
)
_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_KNOWN_ATTRIBUTES = frozenset({_EXTENSION_REQUEST, AttributeOID.CHALLENGE_PASSWORD})
_MAX_CHALLENGE = 255
"""RFC 2985, 5.4.1: pkcs-9-ub-challengePassword."""
_FORBIDDEN_NAMES: dict[type[x509.GeneralName], str] = {
    x509.RFC822Name: "an e-mail address",
    x509.OtherName: "an otherName",
    x509.DirectoryName: "a directory name",
    x509.RegisteredID: "a registered ID",
    x509.IPAddress: "an address range",
}
_PEM = re.compile(
    rb"\s*-----BEGIN (NEW |)CERTIFICATE REQUEST-----\s([A-Za-z0-9+/=\s]+)-----END \1CERTIFICATE REQUEST-----\s*"
)


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
    """A request in DER, signed with ``key``, with an empty subject; :func:`parse_csr` reads it if its policy takes the key.

    Raises ``Invalid``: ``INVALID_DNS_NAME``, ``TOO_MANY_NAMES``.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))] if spiffe_id else []
    names += [x509.DNSName(parse_dns_name(name)) for name in dns_names]
    names += [x509.IPAddress(address) for address in ip_addresses]
    if len(names) > MAX_NAMES:
        raise Invalid(f"{len(names)} names exceed the maximum of {MAX_NAMES}", reason="TOO_MANY_NAMES")
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if credential is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, binding(credential).encode("ascii"))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def parse_csr(data: bytes, *, keys: KeyPolicy = DEFAULT_LEAF_KEYS, allow_pem: bool = False) -> CertificateRequest:
    """Reads a request strictly: DER only, or with ``allow_pem`` also one PEM block and nothing beside it.

    Raises ``Invalid`` with ``CSR_TOO_LARGE`` (before a byte is parsed), ``CSR_MALFORMED`` or ``CSR_BAD_SIGNATURE``, and
    ``Refused`` with every violation: ``UNSUPPORTED_KEY``, ``WEAK_KEY``, ``CSR_FORBIDDEN_EXTENSION``,
    ``CSR_FORBIDDEN_NAME``, ``TOO_MANY_NAMES``, ``INVALID_DNS_NAME``, ``INVALID_SPIFFE_ID``. Nothing else.

    Not checked: whether anybody may have these names, and whether :attr:`CertificateRequest.binding` is the right one.
    """
    if len(data) > MAX_CSR_BYTES:
        raise Invalid(f"the CSR of {len(data)} bytes exceeds the maximum of {MAX_CSR_BYTES}", reason="CSR_TOO_LARGE")
    try:
        return _parse(_unarmoured(data) if allow_pem and data.lstrip().startswith(b"-----BEGIN") else data, keys)
    except HandfastError:
        raise
    except Exception as error:
        # The library raises ValueError, but also its own errors for what it does not know: whatever it is, a
        # stranger's bytes must not end a request handler any other way (threat A20).
        raise _malformed("it is no PKCS#10 request in DER or PEM, or a damaged one") from error


def _malformed(why: str) -> Invalid:
    return Invalid(f"the CSR cannot be read: {why}", reason="CSR_MALFORMED")


def _unarmoured(data: bytes) -> bytes:
    """RFC 7468, 7, without the text around and the headers inside that it lets a parser take."""
    block = _PEM.fullmatch(data)
    if block is None:
        raise Invalid(
            "the CSR is not exactly one PEM block CERTIFICATE REQUEST",
            reason="CSR_MALFORMED",
            hint="`openssl req -in FILE -outform DER` writes it without anything around it",
        )
    return base64.b64decode(b"".join(block[2].split()), validate=True)


def _parse(der: bytes, keys: KeyPolicy) -> CertificateRequest:
    request = x509.load_der_x509_csr(der)
    if request.public_bytes(serialization.Encoding.DER) != der:
        raise _malformed("it is not in DER, encoded again it is different")
    public_key = request.public_key()
    key_info = spki_der(public_key)
    if key_info not in der:
        # Compressed and hybrid points, curves spelt out, RSASSA-PSS: the key would not look the same in a certificate.
        raise _malformed("the public key is not in its usual form (RFC 5480, 2.1.1 and 2.2; RFC 3279, 2.3.1)")
    found = ViolationsCollector()
    found.extend(keys.violations(public_key))
    if not found.violations:
        # Nobody looks at the signature of a key that is refused and may be 16,000 bits long (threat H5).
        _check_signature(request)
    _check_subject(request.subject, found)
    challenge = _read_attributes(request.attributes, found)
    uris, dns_names, addresses = _read_names(_read_extensions(request, found), found)
    found.raise_if_any("the CSR is refused", hint="a CSR with a P-256 key, no subject and no names always passes")
    return CertificateRequest(
        der=der,
        public_key=public_key,  # type: ignore[arg-type]  # the key policy let it pass
        spki_sha256=hashlib.sha256(key_info).digest(),
        uris=uris,
        dns_names=dns_names,
        ip_addresses=addresses,
        binding=challenge,
    )


def _check_signature(request: x509.CertificateSigningRequest) -> None:
    """Proof of possession (threat A13), by an algorithm without SHA-1, MD5 or parameters to choose."""
    algorithm = request.signature_algorithm_oid
    if algorithm not in _SIGNATURES:
        why = (
            f"signature algorithm {algorithm.dotted_string} is not ECDSA or RSA (PKCS#1 v1.5) with SHA-256, 384 or 512"
        )
    elif not request.is_signature_valid:
        why = "the CSR is not signed by its own key"
    else:
        return
    raise Invalid(why, reason="CSR_BAD_SIGNATURE")


def _check_subject(subject: x509.Name, found: ViolationsCollector) -> None:
    """The subject is never used; but it may end up on a screen or in a log of somebody who looks at it (threat A8)."""
    size = len(subject.public_bytes())
    if size > MAX_SUBJECT_BYTES:
        found.add("subject", "CSR_FORBIDDEN_NAME", f"{size} bytes of subject exceed {MAX_SUBJECT_BYTES}")
    elif not all(isinstance(attribute.value, str) and attribute.value.isprintable() for attribute in subject):
        found.add("subject", "CSR_FORBIDDEN_NAME", "the subject has control, direction or other unreadable text")


def _read_attributes(attributes: x509.Attributes, found: ViolationsCollector) -> str | None:
    """The challengePassword, when there is one. That an attribute has one value was checked by the library."""
    challenge: str | None = None
    seen: set[x509.ObjectIdentifier] = set()
    if len(attributes) > _MAX_EXTENSIONS:
        found.add("attributes", "CSR_FORBIDDEN_EXTENSION", f"{len(attributes)} attributes exceed {_MAX_EXTENSIONS}")
        return None
    for attribute in attributes:
        oid = attribute.oid
        if oid not in _KNOWN_ATTRIBUTES:
            found.add("attributes", "CSR_FORBIDDEN_EXTENSION", f"unknown attribute {oid.dotted_string}")
        elif oid in seen:
            found.add("attributes", "CSR_FORBIDDEN_EXTENSION", f"attribute {oid.dotted_string} stands twice")
        elif oid == AttributeOID.CHALLENGE_PASSWORD:
            challenge = _read_challenge(attribute.value, found)
        seen.add(oid)
    return challenge


def _read_challenge(value: bytes, found: ViolationsCollector) -> str | None:
    text = value.decode("latin-1")
    if 0 < len(text) <= _MAX_CHALLENGE and text.isascii() and text.isprintable():
        return text
    found.add(
        "attributes", "CSR_FORBIDDEN_EXTENSION", f"challengePassword is not 1 to {_MAX_CHALLENGE} printable characters"
    )
    return None


def _read_extensions(request: x509.CertificateSigningRequest, found: ViolationsCollector) -> Sequence[x509.GeneralName]:
    """The alternative names. Usages that a leaf has anyway are tolerated, since common tools always ask for them."""
    try:
        extensions = request.extensions
    except x509.DuplicateExtension as error:
        raise _malformed(f"extension {error.oid.dotted_string} stands twice") from error
    except x509.UnsupportedGeneralNameType:
        found.add("subjectAltName", "CSR_FORBIDDEN_NAME", "an X.400 address or EDI party name is not issued")
        return ()
    if len(extensions) > _MAX_EXTENSIONS:
        found.add("extensions", "CSR_FORBIDDEN_EXTENSION", f"{len(extensions)} extensions exceed {_MAX_EXTENSIONS}")
        return ()
    names: Sequence[x509.GeneralName] = ()
    for extension in extensions:
        value = extension.value
        oid = extension.oid.dotted_string
        if isinstance(value, x509.SubjectAlternativeName):
            names = list(value)
            if not names:
                raise _malformed("there is a subjectAltName without a name (RFC 5280, 4.2.1.6)")
        elif not _is_harmless(value):
            found.add(
                f"extensions[{oid}]", "CSR_FORBIDDEN_EXTENSION", f"extension {oid} asks for what a leaf never gets"
            )
    return names


def _is_harmless(value: x509.ExtensionType) -> bool:
    """Whether it asks for no more than a leaf has, but for keyEncipherment, which OpenSSL and cert-manager always want."""
    if isinstance(value, x509.BasicConstraints):
        return not value.ca
    if isinstance(value, x509.KeyUsage):
        return not (
            value.key_cert_sign
            or value.crl_sign
            or value.key_agreement
            or value.content_commitment
            or value.data_encipherment
        )
    if isinstance(value, x509.ExtendedKeyUsage):
        return set(value) <= {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    return isinstance(value, x509.SubjectKeyIdentifier)


def _read_names(
    names: Sequence[x509.GeneralName], found: ViolationsCollector
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[IPAddress, ...]]:
    uris: list[str] = []
    dns_names: list[str] = []
    addresses: list[IPAddress] = []
    if len(names) > MAX_NAMES:
        found.add("subjectAltName", "TOO_MANY_NAMES", f"{len(names)} names exceed the maximum of {MAX_NAMES}")
        return (), (), ()
    for index, name in enumerate(names):
        try:
            if isinstance(name, x509.UniformResourceIdentifier):
                uris.append(name.value)
                SpiffeId.parse(name.value)
            elif isinstance(name, x509.DNSName):
                dns_names.append(parse_dns_name(name.value))
            elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPAddress):
                addresses.append(name.value)
            else:
                kind = _FORBIDDEN_NAMES.get(type(name), "a name of this type")
                found.add(f"subjectAltName[{index}]", "CSR_FORBIDDEN_NAME", f"{kind} is not issued")
        except Invalid as error:
            found.add(f"subjectAltName[{index}]", error.reason, error.message)
    if len(uris) > 1:
        found.add("subjectAltName", "CSR_FORBIDDEN_NAME", f"{len(uris)} URI names, where at most 1 may be")
    return tuple(uris), tuple(dns_names), tuple(addresses)
