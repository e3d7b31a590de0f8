"""What a stranger's request may hold, and what it may not: parsed strictly, refused with every reason."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import univ
from pyasn1_alt_modules import rfc2986, rfc5280

from handfast.csr import MAX_CSR_BYTES, MAX_NAMES, binding, build_csr, parse_csr
from handfast.errors import HandfastError, Invalid, Refused
from handfast.identity import SpiffeId
from handfast.keys import LEAF_KEYS_WITH_RSA, generate, spki_sha256

KEY = generate()
WEB = SpiffeId.parse("spiffe://test.example/web")
Builder = x509.CertificateSigningRequestBuilder
Spoil = Callable[[Builder], Builder]


def request(
    spoil: Spoil = lambda builder: builder,
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
    subject: str = "",
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    return spoil(Builder(name)).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def names(*general: x509.GeneralName) -> Spoil:
    return lambda builder: builder.add_extension(x509.SubjectAlternativeName(general), critical=False)


def reasons(der: bytes) -> set[str]:
    with pytest.raises(Refused) as caught:
        parse_csr(der)
    return {violation.reason for violation in caught.value.violations}


def malformed(der: bytes) -> str:
    with pytest.raises(Invalid) as caught:
        parse_csr(der)
    return caught.value.reason


def test_what_is_built_is_read_back() -> None:
    credential = b"what proves the caller"
    der = build_csr(
        KEY,
        credential=credential,
        spiffe_id=WEB,
        dns_names=["web.test.example"],
        ip_addresses=[ipaddress.IPv4Address("10.0.0.1")],
    )
    read = parse_csr(der)
    assert read.der == der
    assert read.uris == (str(WEB),)
    assert read.dns_names == ("web.test.example",)
    assert read.ip_addresses == (ipaddress.IPv4Address("10.0.0.1"),)
    assert read.binding == binding(credential)
    assert read.spki_sha256 == spki_sha256(KEY.public_key())


def test_a_request_without_any_name_is_good() -> None:
    read = parse_csr(build_csr(KEY))
    assert (read.uris, read.dns_names, read.ip_addresses, read.binding) == ((), (), (), None)


def test_pem_is_read_where_it_is_allowed_and_only_one_block() -> None:
    der = build_csr(KEY, spiffe_id=WEB)
    pem = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)
    assert parse_csr(pem, allow_pem=True).der == der
    assert malformed(pem) == "CSR_MALFORMED"
    for spoiled in (pem + pem, b"text\n" + pem, pem.replace(b"-----END", b"----END")):
        with pytest.raises(Invalid):
            parse_csr(spoiled, allow_pem=True)


def test_a_request_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    """H3"""
    assert malformed(b"\x30" * (MAX_CSR_BYTES + 1)) == "CSR_TOO_LARGE"


@pytest.mark.parametrize(
    "name",
    [
        x509.RFC822Name("root@test.example"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x04root"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
        x509.IPAddress(ipaddress.IPv4Network("10.0.0.0/8")),
    ],
    ids=lambda name: type(name).__name__,
)
def test_a_name_of_a_type_that_is_never_issued_is_refused(name: x509.GeneralName) -> None:
    """A7"""
    assert reasons(request(names(name))) == {"CSR_FORBIDDEN_NAME"}


def test_two_identities_in_one_request_are_refused() -> None:
    """A4"""
    uri = x509.UniformResourceIdentifier
    assert reasons(request(names(uri(str(WEB)), uri("spiffe://test.example/db")))) == {"CSR_FORBIDDEN_NAME"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (x509.UniformResourceIdentifier("spiffe://test.example/a/../b"), "INVALID_SPIFFE_ID"),
        (x509.UniformResourceIdentifier("https://test.example/"), "INVALID_SPIFFE_ID"),
        (x509.DNSName("*.test.example"), "INVALID_DNS_NAME"),
        (x509.DNSName(""), "INVALID_DNS_NAME"),
        (x509.DNSName("web\x00.test.example"), "INVALID_DNS_NAME"),
    ],
)
def test_a_name_that_is_none_is_refused(name: x509.GeneralName, reason: str) -> None:
    assert reasons(request(names(name))) == {reason}


def test_every_reason_is_given_at_once() -> None:
    spoiled = request(
        lambda builder: names(x509.RFC822Name("a@b"), x509.DNSName("*"))(builder).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    )
    assert reasons(spoiled) == {"CSR_FORBIDDEN_NAME", "INVALID_DNS_NAME", "CSR_FORBIDDEN_EXTENSION"}


def test_more_names_than_a_leaf_may_have_are_refused() -> None:
    """H3"""
    many = [x509.DNSName(f"n{number}.test.example") for number in range(MAX_NAMES + 1)]
    assert reasons(request(names(*many))) == {"TOO_MANY_NAMES"}
    with pytest.raises(Invalid) as caught:
        build_csr(KEY, dns_names=[name.value for name in many])
    assert caught.value.reason == "TOO_MANY_NAMES"


@pytest.mark.parametrize(
    "subject", ["line\nbreak", "right\u202eto left", "x" * 2000], ids=["control", "direction", "long"]
)
@pytest.mark.filterwarnings("ignore:Attribute's length must be")  # the library's word on a long name, where we build it
def test_a_subject_that_would_deceive_a_reader_is_refused(subject: str) -> None:
    """A8"""
    name = x509.NameAttribute(NameOID.COMMON_NAME, subject, _validate=False)
    der = Builder(x509.Name([name])).sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    assert reasons(der) == {"CSR_FORBIDDEN_NAME"}


def test_extensions_that_common_tools_always_ask_for_are_tolerated() -> None:
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=True, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    read = parse_csr(
        request(
            lambda builder: (
                builder.add_extension(usage, critical=True)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            )
        )
    )
    assert read.uris == ()


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=0),
        x509.KeyUsage(True, False, False, False, False, True, False, False, False),
        x509.KeyUsage(True, False, False, False, False, False, True, False, False),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.NameConstraints([x509.DNSName("test.example")], None),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00"),
    ],
    ids=lambda extension: type(extension).__name__,
)
@pytest.mark.parametrize("critical", [True, False])
def test_an_extension_that_asks_for_more_than_a_leaf_has_is_refused(
    extension: x509.ExtensionType, critical: bool
) -> None:
    """A1, A5, A14: among the key usages, keyCertSign and cRLSign."""
    assert reasons(request(lambda builder: builder.add_extension(extension, critical=critical))) == {
        "CSR_FORBIDDEN_EXTENSION"
    }


def test_an_attribute_that_nobody_knows_is_refused() -> None:
    """A14"""
    unknown = x509.ObjectIdentifier("1.3.6.1.4.1.55555.2")
    assert reasons(request(lambda builder: builder.add_attribute(unknown, b"x"))) == {"CSR_FORBIDDEN_EXTENSION"}


def test_an_attribute_that_stands_twice_is_refused_though_the_signature_is_good() -> None:
    """A14: two bindings, of which one may be the right one."""
    found = x509.load_der_x509_csr(build_csr(KEY, credential=b"one"))
    info, _ = decoder.decode(found.tbs_certrequest_bytes, asn1Spec=rfc2986.CertificationRequestInfo())
    info["attributes"].append(info["attributes"][0])
    der = resigned(found, info)
    assert x509.load_der_x509_csr(der).is_signature_valid
    assert reasons(der) == {"CSR_FORBIDDEN_EXTENSION"}


def test_more_attributes_or_extensions_than_anybody_needs_are_not_looked_at_one_by_one() -> None:
    """H3, A14: the answer stays small."""
    arcs = [x509.ObjectIdentifier(f"1.3.6.1.4.1.55555.{number}") for number in range(9)]

    def attributes(builder: Builder) -> Builder:
        for arc in arcs:
            builder = builder.add_attribute(arc, b"x")
        return builder

    def extensions(builder: Builder) -> Builder:
        for arc in arcs:
            builder = builder.add_extension(x509.UnrecognizedExtension(arc, b"\5\0"), critical=False)
        return builder

    for spoil in (attributes, extensions):
        with pytest.raises(Refused) as caught:
            parse_csr(request(spoil))
        assert [violation.reason for violation in caught.value.violations] == ["CSR_FORBIDDEN_EXTENSION"]


def test_a_signature_of_an_old_kind_proves_nothing() -> None:
    """A13: SHA-224, which is not among those that TLS takes, although the key did sign."""
    builder = Builder(x509.Name([]))
    der = builder.sign(KEY, hashes.SHA224()).public_bytes(serialization.Encoding.DER)
    assert x509.load_der_x509_csr(der).is_signature_valid
    assert malformed(der) == "CSR_BAD_SIGNATURE"


def test_a_key_in_another_form_than_certificates_have_is_refused() -> None:
    """A14: a compressed point is the same key and other octets."""
    found = x509.load_der_x509_csr(build_csr(KEY))
    info, _ = decoder.decode(found.tbs_certrequest_bytes, asn1Spec=rfc2986.CertificationRequestInfo())
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    info["subjectPKInfo"]["subjectPublicKey"] = univ.BitString.fromOctetString(point)
    der = resigned(found, info)
    assert x509.load_der_x509_csr(der).is_signature_valid
    assert malformed(der) == "CSR_MALFORMED"


def test_names_of_the_two_oldest_kinds_are_refused() -> None:
    """A7: the library cannot read an EDI party name or an X.400 address, and says so in a way of its own."""
    edi_party = b"\x30\x08\xa5\x06\xa1\x04\x0c\x02hi"
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), edi_party)
    assert reasons(request(lambda builder: builder.add_extension(strange, critical=False))) == {"CSR_FORBIDDEN_NAME"}


def test_an_alternative_name_without_a_name_is_malformed() -> None:
    """A14: RFC 5280, 4.2.1.6."""
    empty = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x00")
    assert malformed(request(lambda builder: builder.add_extension(empty, critical=False))) == "CSR_MALFORMED"


def test_a_binding_that_is_no_text_is_refused() -> None:
    spoiled = request(lambda builder: builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"line\nbreak"))
    assert reasons(spoiled) == {"CSR_FORBIDDEN_EXTENSION"}


def test_an_extension_that_stands_twice_is_refused_though_the_signature_is_good() -> None:
    """A14: the library loads it, calls its signature valid, and raises only when the extensions are read."""
    der = signed_again(twice=True)
    assert x509.load_der_x509_csr(der).is_signature_valid
    assert malformed(der) == "CSR_MALFORMED"
    assert parse_csr(signed_again(twice=False)).uris == (str(WEB),)


def signed_again(*, twice: bool) -> bytes:
    """A request whose extension request holds the alternative names once or twice, rightly signed."""
    found = x509.load_der_x509_csr(build_csr(KEY, spiffe_id=WEB))
    info, _ = decoder.decode(found.tbs_certrequest_bytes, asn1Spec=rfc2986.CertificationRequestInfo())
    values = info["attributes"][0]["values"]
    extensions, _ = decoder.decode(bytes(values[0]), asn1Spec=rfc5280.Extensions())
    if twice:
        extensions.append(extensions[0])
    values[0] = encoder.encode(extensions)
    return resigned(found, info)


def resigned(found: x509.CertificateSigningRequest, info: Any) -> bytes:
    """The request with this in place of what it said, rightly signed."""
    whole, _ = decoder.decode(found.public_bytes(serialization.Encoding.DER), asn1Spec=rfc2986.CertificationRequest())
    whole["certificationRequestInfo"] = info
    assert isinstance(KEY, ec.EllipticCurvePrivateKey)
    signature = KEY.sign(encoder.encode(info), ec.ECDSA(hashes.SHA256()))
    whole["signature"] = rfc2986.CertificationRequest().componentType["signature"].asn1Object.fromOctetString(signature)
    return bytes(encoder.encode(whole))


@pytest.mark.parametrize("spoiled", [lambda der: der + b"\x00", lambda der: der[:-1], lambda der: b"", lambda der: b"\x30\x80" + der[4:] + b"\0\0"],
                         ids=["trailing byte", "cut", "nothing", "indefinite length"])  # fmt: skip
def test_what_is_not_exactly_one_request_in_der_is_refused(spoiled: Callable[[bytes], bytes]) -> None:
    """A14"""
    assert malformed(spoiled(build_csr(KEY, spiffe_id=WEB))) == "CSR_MALFORMED"


def test_a_request_that_its_key_has_not_signed_is_refused() -> None:
    """A13"""
    der = bytearray(build_csr(KEY, spiffe_id=WEB))
    place = bytes(der).index(str(WEB).encode())
    der[place : place + len(str(WEB))] = str(WEB).replace("web", "wob").encode()
    assert malformed(bytes(der)) == "CSR_BAD_SIGNATURE"


@pytest.mark.parametrize(
    ("key", "reason"),
    [(ec.generate_private_key(ec.SECP521R1()), "UNSUPPORTED_KEY"), (ec.generate_private_key(ec.SECP256K1()), "UNSUPPORTED_KEY")],
    ids=["P-521", "secp256k1"],
)  # fmt: skip
def test_a_key_that_is_not_for_a_leaf_is_refused(key: ec.EllipticCurvePrivateKey, reason: str) -> None:
    assert reason in reasons(request(key=key))


def test_rsa_is_taken_only_where_it_was_opted_into() -> None:
    der = request(key=rsa.generate_private_key(65537, 2048))
    assert "UNSUPPORTED_KEY" in reasons(der)
    assert parse_csr(der, keys=LEAF_KEYS_WITH_RSA).uris == ()


@given(st.binary(max_size=400))
def test_no_bytes_end_the_parser_in_another_way_than_with_our_error(data: bytes) -> None:
    """A20"""
    for pem in (False, True):
        with pytest.raises(HandfastError):
            parse_csr(data, allow_pem=pem)


@given(place=st.integers(min_value=0), change=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing_that_counts(place: int, change: int) -> None:
    """A20: whatever was altered, what still parses has our key and a signature by it."""
    der = bytearray(SAMPLE)
    der[place % len(der)] ^= change
    ours_or_our_error(bytes(der))


def ours_or_our_error(data: bytes) -> None:
    """Nobody who only alters octets can sign: what is read is signed by our key."""
    for pem in (False, True):
        try:
            read = parse_csr(data, allow_pem=pem)
        except HandfastError:
            continue
        assert read.spki_sha256 == spki_sha256(KEY.public_key())
        assert read.uris in ((), (str(WEB),))


SAMPLE = build_csr(KEY, credential=b"proof", spiffe_id=WEB, dns_names=["web.test.example"])


def test_a_block_with_broken_base64_is_called_malformed() -> None:
    block = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.b64encode(SAMPLE)[:-3]
        + b"\n-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(Invalid) as caught:
        parse_csr(block, allow_pem=True)
    assert caught.value.reason == "CSR_MALFORMED"


def test_the_signature_of_a_key_of_16_000_bits_is_not_looked_at() -> None:
    """H5: the cheap check comes first, so that a spoiled signature changes nothing about the answer."""
    p, q, e = 2**11213 - 1, 2**4423 - 1, 65537  # Mersenne primes: a key that nobody has to search for
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q))
    key = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    assert key.key_size == 15_636
    good = build_csr(key)  # type: ignore[arg-type]
    spoiled = good[:-1] + bytes([good[-1] ^ 1])
    for der in (good, spoiled):
        with pytest.raises(Refused) as caught:
            parse_csr(der, keys=LEAF_KEYS_WITH_RSA)
        assert caught.value.reason == "UNSUPPORTED_KEY"
