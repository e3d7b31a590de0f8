"""Leaves are read strictly, and lead to a root or nowhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from handfast.certificates import (
    MAX_CHAIN_LENGTH,
    Leaf,
    Usage,
    authority_key_id,
    fingerprint,
    format_serial,
    load_certificates,
    parse_fingerprint,
    parse_serial,
    pem_chain,
    subject_key_id,
    verify_leaf,
)
from handfast.errors import HandfastError, Invalid, Refused
from handfast.keys import PublicKey
from handfast.testing import ManualClock, TestAuthority

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUTHORITY = TestAuthority(clock=ManualClock(START))
KEY = ec.generate_private_key(ec.SECP256R1())
URI = x509.UniformResourceIdentifier("spiffe://test.example/web")


@dataclass
class Recipe:
    """A right leaf; tests spoil one thing of it."""

    names: list[x509.GeneralName] | None = field(default_factory=lambda: list[x509.GeneralName]([URI]))
    key: object = field(default_factory=KEY.public_key)
    ca: bool | None = False
    usage: x509.KeyUsage | None = field(default_factory=lambda: key_usage(digital_signature=True))
    extended: list[x509.ObjectIdentifier] | None = field(default_factory=lambda: [usage.oid for usage in Usage])
    issuer_reference: bool = True
    unknown_critical: bool = False
    more: tuple[x509.ExtensionType, ...] = ()

    def sign(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder(AUTHORITY.issuer.subject, x509.Name([]), self.key, 255)  # type: ignore[arg-type]
            .not_valid_before(START - timedelta(minutes=1))
            .not_valid_after(START + timedelta(hours=1))
        )
        if self.names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=True)
        if self.ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
        if self.usage is not None:
            builder = builder.add_extension(self.usage, critical=True)
        if self.extended is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.extended), critical=False)
        if self.issuer_reference:
            reference = x509.AuthorityKeyIdentifier(subject_key_id(AUTHORITY.issuer), None, None)
            builder = builder.add_extension(reference, critical=False)
        if self.unknown_critical:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
            builder = builder.add_extension(unknown, critical=True)
        for extension in self.more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(AUTHORITY.issuer_key, hashes.SHA256())


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, crl_sign, False, False)


def refusal(make: Callable[[], object]) -> HandfastError:
    with pytest.raises(HandfastError) as caught:
        make()
    return caught.value


def test_a_right_leaf_is_read_whole() -> None:
    names: list[x509.GeneralName] = [
        URI,
        x509.DNSName("web.shop.svc"),
        x509.IPAddress(ipaddress.IPv4Address("10.0.0.1")),
        x509.IPAddress(ipaddress.IPv4Network("10.0.0.0/8")),
    ]
    certificate = Recipe(names=names).sign()
    leaf = Leaf.parse(certificate.public_bytes(serialization.Encoding.DER))
    assert str(leaf.spiffe_id) == "spiffe://test.example/web"
    assert leaf.dns_names == ("web.shop.svc",)
    assert leaf.ip_addresses == (ipaddress.IPv4Address("10.0.0.1"),)
    assert leaf.usages == set(Usage)
    assert (leaf.serial, leaf.serial_text) == (255, "ff")
    assert leaf.issuer_key_id == subject_key_id(AUTHORITY.issuer)
    assert leaf.expires_at == leaf.validity.not_after.timestamp()
    assert str(leaf) == "spiffe://test.example/web (serial ff)"
    assert Leaf.parse_pem(pem_chain([certificate, AUTHORITY.issuer])) == leaf


@pytest.mark.parametrize(
    ("recipe", "field_", "reason"),
    [
        (Recipe(names=None), "subjectAltName", "NOT_AN_SVID"),
        (Recipe(names=[x509.DNSName("web")]), "subjectAltName", "NOT_AN_SVID"),
        (
            Recipe(names=[URI, x509.UniformResourceIdentifier("spiffe://test.example/b")]),
            "subjectAltName",
            "NOT_AN_SVID",
        ),
        (Recipe(names=[URI, URI]), "subjectAltName", "NOT_AN_SVID"),
        (Recipe(names=[x509.UniformResourceIdentifier("https://test.example/b")]), "subjectAltName", "NOT_AN_SVID"),
        (
            Recipe(names=[x509.UniformResourceIdentifier("spiffe://test.example/a/../b")]),
            "subjectAltName",
            "NOT_AN_SVID",
        ),
        (Recipe(ca=True), "basicConstraints", "NOT_AN_SVID"),
        (Recipe(usage=None), "keyUsage", "NOT_AN_SVID"),
        (Recipe(usage=key_usage()), "keyUsage", "NOT_AN_SVID"),
        (Recipe(usage=key_usage(digital_signature=True, key_cert_sign=True)), "keyUsage", "NOT_AN_SVID"),
        (Recipe(usage=key_usage(digital_signature=True, crl_sign=True)), "keyUsage", "NOT_AN_SVID"),
        (Recipe(extended=[x509.OID_CODE_SIGNING]), "extendedKeyUsage", "NOT_AN_SVID"),
        (Recipe(issuer_reference=False), "authorityKeyIdentifier", "NOT_AN_SVID"),
        (Recipe(unknown_critical=True), "extensions", "NOT_AN_SVID"),
        (Recipe(key=rsa.generate_private_key(65537, 1024).public_key()), "publicKey", "WEAK_KEY"),
        (Recipe(key=ed25519.Ed25519PrivateKey.generate().public_key()), "publicKey", "WEAK_KEY"),
        (Recipe(key=ec.generate_private_key(ec.SECP521R1()).public_key()), "publicKey", "WEAK_KEY"),
        (Recipe(key=ec.generate_private_key(ec.SECP256K1()).public_key()), "publicKey", "WEAK_KEY"),
    ],
)
def test_each_breach_of_the_profile_is_refused(recipe: Recipe, field_: str, reason: str) -> None:
    """A1, A4, A5, A10: at the verifier too, whoever signed it."""
    error = refusal(lambda: Leaf.of(recipe.sign()))
    assert isinstance(error, Refused)
    assert (error.reason, [violation.field for violation in error.violations]) == (reason, [field_])


NO_REV_AVAIL = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\5\0")
HTTP = [x509.UniformResourceIdentifier("http://ca.test.example/")]
CRL_AT = x509.CRLDistributionPoints([x509.DistributionPoint(HTTP, None, None, None)])
OCSP_AT = x509.AuthorityInformationAccess(
    [x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.OCSP, HTTP[0])]
)


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        (Recipe(more=(NO_REV_AVAIL,)), {"noRevAvail"}),
        (Recipe(more=(NO_REV_AVAIL, CRL_AT)), {"noRevAvail"}),
        (Recipe(more=(NO_REV_AVAIL, OCSP_AT)), {"noRevAvail"}),
        (Recipe(more=(NO_REV_AVAIL,), ca=True), {"noRevAvail", "basicConstraints"}),
    ],
    ids=["alone", "beside a CRL distribution point", "beside an OCSP address", "on a CA"],
)
def test_a_leaf_that_says_nobody_revokes_it_is_refused(recipe: Recipe, fields: set[str]) -> None:
    """D15: revocation is required here; beside a distribution point, an OCSP address or cA it is invalid anyway (RFC 9608, 4)."""
    assert Leaf.of(replace(recipe, more=recipe.more[1:], ca=False).sign()).serial == 255
    error = refusal(lambda: Leaf.of(recipe.sign()))
    assert isinstance(error, Refused)
    assert (error.reason, {violation.field for violation in error.violations}) == ("NOT_AN_SVID", fields)


@pytest.mark.parametrize("more", [(), (NO_REV_AVAIL,)], ids=["as it must be", "with noRevAvail"])
def test_a_path_over_a_ca_that_says_nobody_revokes_it_is_none(more: tuple[x509.ExtensionType, ...]) -> None:
    """D15: RFC 9608, 4."""
    key = AUTHORITY.issuer_key.public_key()
    builder = (
        x509.CertificateBuilder(AUTHORITY.root.subject, AUTHORITY.issuer.subject, key, 7)
        .not_valid_before(START - timedelta(minutes=1))
        .not_valid_after(START + timedelta(hours=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(subject_key_id(AUTHORITY.root), None, None), critical=False)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    issuing = builder.sign(AUTHORITY.root_key, hashes.SHA256())
    leaf = Leaf.of(Recipe().sign())

    def path() -> tuple[x509.Certificate, ...]:
        return verify_leaf(leaf, [issuing], [AUTHORITY.root], usage=Usage.CLIENT, now=START)

    if not more:
        assert path() == (leaf.certificate, issuing, AUTHORITY.root)
        return
    error = refusal(path)
    assert (error.reason, "noRevAvail" in error.message) == ("UNTRUSTED", True)


def test_all_breaches_are_reported_at_once() -> None:
    error = refusal(lambda: Leaf.of(Recipe(names=None, ca=True, usage=None, issuer_reference=False).sign()))
    assert {violation.field for violation in error.violations} == {
        "subjectAltName",
        "basicConstraints",
        "keyUsage",
        "authorityKeyIdentifier",
    }


def test_basic_constraints_and_extended_usage_may_be_absent() -> None:
    """X509-SVID, 4.1 and 4.4."""
    assert Leaf.of(Recipe(ca=None, extended=None).sign()).usages == set(Usage)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_strong_keys_of_other_kinds_pass(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    assert Leaf.of(Recipe(key=key.public_key()).sign()).serial == 255


def test_what_is_no_certificate_is_malformed() -> None:
    """A20"""
    for text in (b"", b"\x30\x00"):
        assert refusal(lambda text=text: Leaf.parse(text)).reason == "CERTIFICATE_MALFORMED"  # type: ignore[misc]
    assert refusal(lambda: Leaf.parse_pem(b"rubbish")).reason == "CERTIFICATE_MALFORMED"
    assert refusal(lambda: load_certificates(b"")).reason == "CERTIFICATE_MALFORMED"


def test_an_empty_extended_key_usage_does_not_crash_the_reader() -> None:
    """A20: step-ca's CVE-2026-40097 was a panic here."""
    assert refusal(lambda: Leaf.of(Recipe(extended=[]).sign())).reason in {"NOT_AN_SVID", "CERTIFICATE_MALFORMED"}


def verified(
    leaf: Leaf | None = None,
    *,
    at: datetime = START,
    between: tuple[x509.Certificate, ...] = (AUTHORITY.issuer,),
    roots: tuple[x509.Certificate, ...] = (AUTHORITY.root,),
    usage: Usage = Usage.CLIENT,
) -> tuple[x509.Certificate, ...]:
    return verify_leaf(leaf or Leaf.of(Recipe().sign()), between, roots, usage=usage, now=at)


def test_a_path_to_a_root_is_found_and_returned() -> None:
    leaf = Leaf.of(Recipe().sign())
    assert verified(leaf) == (leaf.certificate, AUTHORITY.issuer, AUTHORITY.root)


def test_no_path_is_no_trust() -> None:
    """D12, H5"""
    stranger = TestAuthority(clock=ManualClock(START))
    assert refusal(lambda: verified(roots=())).reason == "UNTRUSTED"
    assert refusal(lambda: verified(roots=(stranger.root,))).reason == "UNTRUSTED"
    assert refusal(lambda: verified(between=())).reason == "UNTRUSTED"
    assert refusal(lambda: verified(between=(AUTHORITY.issuer,) * MAX_CHAIN_LENGTH)).reason == "UNTRUSTED"


def test_what_the_bundle_carries_does_not_count_as_presented() -> None:
    """A mesh of many issuing CAs stays open: the limit is on what a peer may send (H5)."""
    others = tuple(TestAuthority(clock=ManualClock(START)).issuer for _ in range(MAX_CHAIN_LENGTH))
    leaf = Leaf.of(Recipe().sign())
    path = verify_leaf(leaf, (), [AUTHORITY.root], known=(*others, AUTHORITY.issuer), usage=Usage.CLIENT, now=START)
    assert path == (leaf.certificate, AUTHORITY.issuer, AUTHORITY.root)


def test_dates_and_usage_are_part_of_the_path() -> None:
    assert refusal(lambda: verified(at=START + timedelta(hours=2))).reason == "EXPIRED"
    assert refusal(lambda: verified(at=START - timedelta(hours=2))).reason == "NOT_YET_VALID"
    client = Leaf.of(Recipe(extended=[Usage.CLIENT.oid]).sign())
    assert verified(client)
    assert refusal(lambda: verified(client, usage=Usage.SERVER)).reason == "WRONG_USAGE"


def test_a_server_only_leaf_is_verified_as_a_server() -> None:
    assert verified(Leaf.of(Recipe(extended=[Usage.SERVER.oid]).sign()), usage=Usage.SERVER)


def test_a_leaf_that_a_leaf_signed_is_not_trusted() -> None:
    """A1: only a CA signs."""
    signer = Recipe().sign()
    key: PublicKey = ec.generate_private_key(ec.SECP256R1()).public_key()
    forged = (
        x509.CertificateBuilder(signer.subject, x509.Name([]), key, 2)
        .not_valid_before(START - timedelta(minutes=1))
        .not_valid_after(START + timedelta(minutes=1))
        .add_extension(x509.SubjectAlternativeName([URI]), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key()), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    assert refusal(lambda: verified(Leaf.of(forged), between=(signer, AUTHORITY.issuer))).reason == "UNTRUSTED"


def test_key_identifiers_may_be_absent() -> None:
    bare = Recipe(issuer_reference=False).sign()
    assert authority_key_id(bare) is None
    assert subject_key_id(bare) is None


def test_fingerprints_read_as_people_write_them() -> None:
    text = fingerprint(AUTHORITY.root)
    digest = AUTHORITY.root.fingerprint(hashes.SHA256())
    digits = text.removeprefix("sha256:").upper()
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
    assert parse_fingerprint(text) == parse_fingerprint(digits) == parse_fingerprint(colons) == digest
    for wrong in ("", "sha256:", "zz" * 32, "00" * 31, "00" * 33):
        with pytest.raises(Invalid) as caught:
            parse_fingerprint(wrong)
        assert caught.value.reason == "INVALID_FINGERPRINT"


def test_serials_read_as_people_write_them() -> None:
    assert format_serial(0x0A0B) == "a0b"
    assert parse_serial("0A:0b") == parse_serial("0xa0b") == 0x0A0B
    assert parse_serial(format_serial((1 << 159) - 1)) == (1 << 159) - 1
    for wrong in ("", "0", "-1", "xyz", "f" * 40, "1_0", "1 0"):
        with pytest.raises(Invalid) as caught:
            parse_serial(wrong)
        assert caught.value.reason == "INVALID_SERIAL"
