"""The template decides, the lint reads: threats A1, A5, A7, A8, A16, A17."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handfast.certificates import Leaf, Usage
from handfast.csr import build_csr, parse_csr
from handfast.errors import Broken
from handfast.identity import SpiffeId
from handfast.keys import PublicKey, generate, key_identifier
from handfast.lifetime import Validity
from handfast.ocsp import ocsp_url
from handfast_ca.admission import admit
from handfast_ca.lint import IssuerFacts, lint
from handfast_ca.profile import Profile
from handfast_ca.template import LeafPlan, LeafTemplate, leaf_access, new_serial
from handfast_ca.urls import PublicUrls
from tests.ca.core import NOW, URLS, WEB, Ceremony, entry

CEREMONY = Ceremony()
FACTS = IssuerFacts.of(CEREMONY.issuing.certificate, URLS)
Mutation = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def _plan(usages: tuple[str, ...] = ()) -> LeafPlan:
    entitled = entry(dns_names=["web.svc"], ip_addresses=["10.0.0.7"], usages=usages)
    admitted = admit(parse_csr(build_csr(generate())), entitled, Profile(), binding=None)
    issuer_end = CEREMONY.issuing.certificate.not_valid_after_utc
    validity = Profile().validity(timedelta(hours=24), now=NOW, issuer_not_after=issuer_end)
    return LeafPlan(new_serial(lambda count: b"\xa5" * count), validity, admitted)


def _builder(plan: LeafPlan) -> x509.CertificateBuilder:
    return LeafTemplate(CEREMONY.issuing.certificate, CEREMONY.issuer.key_id, URLS).builder(plan)


def _rehearsed(builder: x509.CertificateBuilder) -> bytes:
    return CEREMONY.issuer.rehearse(builder).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("usages", [("client",), ("server",), ("client", "server")])
def test_what_the_template_makes_passes_the_lint(usages: tuple[str, ...]) -> None:
    plan = _plan(usages)
    der = _rehearsed(_builder(plan))
    lint(der, plan, FACTS)
    leaf = Leaf.parse(der)
    assert leaf.spiffe_id == WEB
    assert leaf.usages == {Usage(usage) for usage in usages}
    assert len(leaf.certificate.subject.rdns) == 0


async def test_the_rehearsed_bytes_are_the_signed_bytes_and_only_the_issuer_s_key_verifies() -> None:
    plan = _plan()
    builder = _builder(plan)
    rehearsed, signed = CEREMONY.issuer.rehearse(builder), await CEREMONY.issuer.sign(builder)
    assert rehearsed.tbs_certificate_bytes == signed.tbs_certificate_bytes
    signed.verify_directly_issued_by(CEREMONY.issuing.certificate)
    with pytest.raises(InvalidSignature):
        rehearsed.verify_directly_issued_by(CEREMONY.issuing.certificate)


def _replaced(value: x509.ExtensionType, critical: bool) -> Mutation:
    def mutate(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        kept = [extension for extension in builder._extensions if extension.oid != value.oid]
        return _rebuilt(builder, [*kept, x509.Extension(value.oid, critical, value)])

    return mutate


def _without(oid: x509.ObjectIdentifier) -> Mutation:
    return lambda builder: _rebuilt(builder, [known for known in builder._extensions if known.oid != oid])


def _rebuilt(
    builder: x509.CertificateBuilder, extensions: list[x509.Extension[x509.ExtensionType]], **other: object
) -> x509.CertificateBuilder:
    fields: dict[str, object] = {
        "issuer_name": builder._issuer_name,
        "subject_name": builder._subject_name,
        "public_key": builder._public_key,
        "serial_number": builder._serial_number,
        "not_valid_before": builder._not_valid_before,
        "not_valid_after": builder._not_valid_after,
        "extensions": extensions,
    }
    return x509.CertificateBuilder(**{**fields, **other})  # type: ignore[arg-type]


def _with(**other: object) -> Mutation:
    return lambda builder: _rebuilt(builder, builder._extensions, **other)


def _usage(**more: bool) -> x509.KeyUsage:
    flags = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{flag: more.get(flag, flag == "digital_signature") for flag in flags.split()})


def _all_names(
    identity: SpiffeId = WEB, dns_name: str = "web.svc", address: str = "10.0.0.7"
) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(str(identity)),
            x509.DNSName(dns_name),
            x509.IPAddress(ipaddress.ip_address(address)),
        ]
    )


def _key_id(key: PublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier(key_identifier(key))


OTHER_KEY = generate().public_key()
TWO_URIS = x509.SubjectAlternativeName(
    [x509.UniformResourceIdentifier(str(WEB)), x509.UniformResourceIdentifier("spiffe://test.example/db")]
)
OTHER_NAME = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://test.example/db")])


def _with_access(urls: PublicUrls) -> Mutation:
    return _replaced(leaf_access(urls, CEREMONY.issuer.key_id), False)


MUTATIONS: dict[str, Mutation] = {
    "CA:TRUE (A1)": _replaced(x509.BasicConstraints(ca=True, path_length=None), True),
    "keyCertSign (A1)": _replaced(_usage(key_cert_sign=True), True),
    "keyEncipherment": _replaced(_usage(key_encipherment=True), True),
    "key usage not critical": _replaced(_usage(), False),
    "two URIs (A5)": _replaced(TWO_URIS, True),
    "another identity": _replaced(OTHER_NAME, True),
    "names not critical": _replaced(OTHER_NAME, False),
    "code signing": _replaced(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
    "usage less": _replaced(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    "foreign AKI": _replaced(x509.AuthorityKeyIdentifier(b"x" * 20, None, None), False),
    "foreign SKI": _replaced(x509.SubjectKeyIdentifier(b"x" * 20), False),
    "noRevAvail (D15)": _replaced(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00"), False),
    "an extension that nobody knows": _replaced(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00"), False
    ),
    "no SAN": _without(x509.SubjectAlternativeName.oid),
    "no AKI": _without(x509.AuthorityKeyIdentifier.oid),
    "no SKI": _without(x509.SubjectKeyIdentifier.oid),
    "no key usage": _without(x509.KeyUsage.oid),
    "no basic constraints": _without(x509.BasicConstraints.oid),
    "no address of the responder": _with_access(PublicUrls(URLS.base, ocsp=False)),
    "the address of another responder": _with_access(PublicUrls("http://evil.example")),
    "a subject (A8)": _with(subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])),
    "another issuer's name": _with(issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])),
    "a short serial (A17)": _with(serial_number=1),
    "a longer life (A16)": _with(not_valid_after=(NOW + timedelta(days=2)).replace(tzinfo=None)),
    "outliving the issuer (J10)": _with(not_valid_after=(NOW + timedelta(days=91)).replace(tzinfo=None)),
    "another key": _with(public_key=generate().public_key()),
    "another key with its own SKI": lambda builder: _replaced(_key_id(OTHER_KEY), False)(
        _with(public_key=OTHER_KEY)(builder)
    ),
    "another serial (A17)": _with(serial_number=1 << 126),
    "another identity with the same names (A3)": _replaced(
        _all_names(SpiffeId.parse("spiffe://test.example/db")), True
    ),
    "another DNS name (A2)": _replaced(_all_names(dns_name="db.svc"), True),
    "another address (A6)": _replaced(_all_names(address="169.254.169.254"), True),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutated_template_is_blocked_before_the_key_is_touched(mutation: Mutation) -> None:
    """A1, A2, A3, A5, A6, A8, A16, A17, D15: only the throw-away key has signed by then."""
    plan = _plan()
    with pytest.raises(Broken) as refused:
        lint(_rehearsed(mutation(_builder(plan))), plan, FACTS)
    assert refused.value.reason in {"LINT", "NOT_AN_SVID"}
    assert refused.value.violations


def test_where_ocsp_is_off_no_leaf_names_a_responder() -> None:
    off, plan = PublicUrls(URLS.base, ocsp=False), _plan()
    builder = LeafTemplate(CEREMONY.issuing.certificate, CEREMONY.issuer.key_id, off).builder(plan)
    lint(_rehearsed(builder), plan, IssuerFacts.of(CEREMONY.issuing.certificate, off))
    assert ocsp_url(Leaf.parse(_rehearsed(builder)).certificate) is None
    assert ocsp_url(Leaf.parse(_rehearsed(_builder(plan))).certificate) == f"{URLS.base}/ocsp"


def test_a_template_that_keeps_the_decision_passes_with_all_its_names() -> None:
    """The control of the mutations above: with the very names that were decided, nothing is found."""
    plan = _plan()
    lint(_rehearsed(_replaced(_all_names(), True)(_builder(plan))), plan, FACTS)


@pytest.mark.parametrize("decided", ["a short serial (A17)", "a life beyond the issuer's (J10)"])
def test_a_decision_that_no_certificate_may_carry_is_blocked_too(decided: str) -> None:
    """A17, J10: the lint trusts neither the template nor who decided."""
    plan, later = _plan(), NOW + timedelta(days=91)
    wrong = (
        replace(plan, serial=1)
        if decided.startswith("a short")
        else replace(plan, validity=Validity(plan.validity.not_before, later.replace(microsecond=0)))
    )
    with pytest.raises(Broken) as refused:
        lint(_rehearsed(_builder(wrong)), wrong, FACTS)
    assert [violation.reason for violation in refused.value.violations] == ["LINT"]


def test_a_signature_over_an_old_hash_is_blocked() -> None:
    """A10: SHA-224 is what the library still signs with."""
    plan = _plan()
    der = _builder(plan).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA224()).public_bytes(Encoding.DER)
    with pytest.raises(Broken) as refused:
        lint(der, plan, FACTS)
    assert [violation.field for violation in refused.value.violations] == ["signatureAlgorithm"]


def test_bytes_that_are_no_certificate_are_blocked() -> None:
    with pytest.raises(Broken):
        lint(b"\x30\x00", _plan(), FACTS)


def test_serials_are_positive_long_and_have_no_constant_bit() -> None:
    """A17: each of 128 bits is seen set and clear."""
    serials = [new_serial(secrets.token_bytes) for _ in range(2000)]
    ones, zeros = 0, 0
    for serial in serials:
        ones |= serial
        zeros |= ~serial
    every = (1 << 128) - 1
    assert ones & every == zeros & every == every
    assert all(serial > 0 and (serial.bit_length() + 8) // 8 <= 17 for serial in serials)
    assert len(set(serials)) == len(serials)


def test_a_source_of_zeros_is_asked_again() -> None:
    answers = iter([bytes(16), b"\x01" * 16])
    assert new_serial(lambda count: next(answers)) == int.from_bytes(b"\x01" * 16, "big")
