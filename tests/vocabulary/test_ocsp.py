"""OCSP answers: what a reader believes, and what it does not. The answers are made by the library, not by our responder."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from handfast.certificates import Leaf
from handfast.errors import HandfastError, Invalid, Refused, Unavailable
from handfast.ocsp import CertificateStatus, OcspAnswer, build_request, issuer_hashes, ocsp_url
from handfast.revocation import Reason
from handfast.testing import ManualClock, TestAuthority

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUTHORITY = TestAuthority(clock=ManualClock(NOW))
LEAF = AUTHORITY.issue("/web").leaf
NONCE = bytes(range(32))
UNKNOWN_CRITICAL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def delegate(
    *,
    usages: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
    nocheck: bool = True,
    signs: bool = True,
    begins: datetime = NOW - timedelta(minutes=1),
    ends: datetime = NOW + timedelta(hours=24),
    issuer: x509.Certificate = AUTHORITY.issuer,
    issuer_key: ec.EllipticCurvePrivateKey = AUTHORITY.issuer_key,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A signer of answers; each argument is a way to make it none."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(signs, not signs, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(secrets.randbits(127) | 1)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(usage, critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    if nocheck:
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


@dataclass
class Answering:
    """What a responder says; each attribute can be made wrong."""

    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    serial: int = LEAF.serial
    issuer: x509.Certificate = AUTHORITY.issuer
    signer: tuple[x509.Certificate, Any] = (AUTHORITY.issuer, AUTHORITY.issuer_key)
    sent: tuple[x509.Certificate, ...] = ()
    begins: datetime = NOW
    ends: datetime | None = NOW + timedelta(minutes=10)
    nonce: bytes = b""
    extension: x509.ExtensionType | None = None
    by: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH
    algorithm: hashes.HashAlgorithm | None = field(default_factory=hashes.SHA256)
    named: hashes.HashAlgorithm = field(default_factory=hashes.SHA1)

    @property
    def der(self) -> bytes:
        name, key = issuer_hashes(self.issuer, self.named)
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            name,
            key,
            self.serial,
            self.named,
            self.status,
            self.begins,
            self.ends,
            NOW - timedelta(hours=1) if revoked else None,
            x509.ReasonFlags.key_compromise if revoked else None,
        )
        builder = builder.responder_id(self.by, self.signer[0])
        if self.signer[0] != AUTHORITY.issuer or self.sent:
            builder = builder.certificates(self.sent or (self.signer[0],))
        if self.nonce:
            builder = builder.add_extension(x509.OCSPNonce(self.nonce), critical=False)
        if self.extension is not None:
            builder = builder.add_extension(self.extension, critical=True)
        return builder.sign(self.signer[1], self.algorithm).public_bytes(Encoding.DER)


def read(der: bytes, **how: Any) -> OcspAnswer:
    return OcspAnswer.verify(der, **{"serial": LEAF.serial, "issuer": AUTHORITY.issuer, "now": NOW, **how})


def refusal(der: bytes, **how: Any) -> str:
    with pytest.raises(HandfastError) as caught:
        read(der, **how)
    return caught.value.reason


@pytest.mark.parametrize("by", list(ocsp.OCSPResponderEncoding))
def test_an_answer_of_the_issuer_and_of_its_delegate_is_believed(by: ocsp.OCSPResponderEncoding) -> None:
    for signer in (Answering().signer, delegate()):
        answer = read(Answering(signer=signer, by=by).der)
        assert (answer.status, answer.serial) == (CertificateStatus.GOOD, LEAF.serial)
        assert (answer.this_update, answer.until) == (NOW, NOW + timedelta(minutes=10))
        assert answer.half_life == NOW + timedelta(minutes=5)
        assert answer.issuer_key_id == LEAF.issuer_key_id
        answer.require_good()


@pytest.mark.parametrize("named", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_the_issuer_may_be_named_by_any_hash(named: hashes.HashAlgorithm) -> None:
    assert read(Answering(named=named).der).status is CertificateStatus.GOOD


def test_a_revoked_one_says_when_and_why() -> None:
    answer = read(Answering(status=ocsp.OCSPCertStatus.REVOKED).der)
    assert (answer.status, answer.reason) == (CertificateStatus.REVOKED, Reason.KEY_COMPROMISE)
    assert answer.revoked_at == NOW - timedelta(hours=1)
    with pytest.raises(Refused) as caught:
        answer.require_good()
    assert caught.value.reason == "REVOKED"


def test_an_unknown_one_is_not_good() -> None:
    """D9, as a reader."""
    answer = read(Answering(status=ocsp.OCSPCertStatus.UNKNOWN).der)
    with pytest.raises(Refused) as caught:
        answer.require_good()
    assert (answer.status, caught.value.reason) == (CertificateStatus.UNKNOWN, "OCSP_UNKNOWN")


def test_who_asked_with_a_nonce_takes_no_answer_without_it() -> None:
    """D8: an old answer told again, with none and with another's nonce."""
    assert read(Answering(nonce=NONCE).der, nonce=NONCE).status is CertificateStatus.GOOD
    assert read(Answering(nonce=NONCE).der).status is CertificateStatus.GOOD
    assert refusal(Answering().der, nonce=NONCE) == "OCSP_NONCE"
    assert refusal(Answering(nonce=NONCE[::-1]).der, nonce=NONCE) == "OCSP_NONCE"
    assert refusal(Answering(nonce=NONCE[:31]).der, nonce=NONCE) == "OCSP_NONCE"


def test_an_answer_about_something_else_is_none() -> None:
    other = TestAuthority(clock=ManualClock(NOW))
    assert refusal(Answering(serial=LEAF.serial + 1).der) == "OCSP_OTHER_CERTIFICATE"
    assert refusal(Answering(issuer=other.issuer).der) == "OCSP_OTHER_CERTIFICATE"
    assert refusal(Answering(issuer=AUTHORITY.root).der) == "OCSP_OTHER_CERTIFICATE"


def _elsewhere() -> dict[str, Any]:
    other = TestAuthority(clock=ManualClock(NOW))
    return {"issuer": other.issuer, "issuer_key": other.issuer_key}


@pytest.mark.parametrize(
    "made",
    [
        {"usages": ()},
        {"usages": (ExtendedKeyUsageOID.SERVER_AUTH,)},
        {"usages": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)},
        {"nocheck": False},
        {"signs": False},
        {"begins": NOW + timedelta(hours=1)},
        {"issuer": AUTHORITY.root, "issuer_key": AUTHORITY.root_key},
        _elsewhere(),
    ],
)
def test_only_whom_the_issuer_itself_made_a_signer_signs(made: dict[str, Any]) -> None:
    """RFC 6960, 4.2.2.2: the usage, no need to ask about it, issued directly; the root's own delegate is not it."""
    assert refusal(Answering(signer=delegate(**made)).der) == "OCSP_FOREIGN_SIGNER"


def test_an_answer_of_an_expired_signer_is_none() -> None:
    """D10: the answer itself would be good for another five minutes."""
    signer = delegate(ends=NOW + timedelta(minutes=4))
    der = Answering(signer=signer).der
    assert read(der).until == NOW + timedelta(minutes=4)
    assert refusal(der, now=NOW + timedelta(minutes=4)) == "OCSP_EXPIRED"
    assert refusal(der, now=NOW + timedelta(minutes=5)) == "OCSP_FOREIGN_SIGNER"


def test_a_workload_signs_no_answers() -> None:
    web = AUTHORITY.issue("/web")
    assert refusal(Answering(signer=(web.leaf.certificate, web.key)).der) == "OCSP_FOREIGN_SIGNER"


def test_a_signer_that_is_not_sent_along_is_not_found() -> None:
    one, another = delegate(), delegate()
    assert refusal(Answering(signer=one, sent=(another[0],)).der) == "OCSP_FOREIGN_SIGNER"


def test_a_changed_answer_has_a_wrong_signature() -> None:
    der = bytearray(Answering().der)
    at = bytes(der).index(b"\x80\x00\x18\x0f")  # good, before thisUpdate
    der[at] = 0x82  # unknown
    assert refusal(bytes(der)) == "OCSP_BAD_SIGNATURE"


def test_the_dates_of_an_answer_bind() -> None:
    """RFC 6960, 4.2.2.1; a clock that is 5 s behind the CA's is no reason to refuse."""
    der = Answering().der
    assert refusal(der, now=NOW + timedelta(minutes=10)) == "OCSP_EXPIRED"
    assert refusal(der, now=NOW - timedelta(seconds=6)) == "OCSP_FUTURE"
    assert read(der, now=NOW - timedelta(seconds=5)).status is CertificateStatus.GOOD
    assert refusal(Answering(ends=None).der) == "OCSP_MALFORMED"
    week = Answering(ends=NOW + timedelta(days=7)).der
    assert refusal(week) == "OCSP_LIFE"
    assert read(week, longest=timedelta(days=7)).status is CertificateStatus.GOOD


def test_an_unknown_critical_extension_refuses_the_answer() -> None:
    assert refusal(Answering(extension=UNKNOWN_CRITICAL).der) == "OCSP_UNKNOWN_CRITICAL"


@pytest.mark.parametrize("status", [one for one in ocsp.OCSPResponseStatus if one.value])
def test_an_error_is_no_answer_and_never_good(status: ocsp.OCSPResponseStatus) -> None:
    """D9: errors are not signed; anybody can send one (RFC 6960, 2.3)."""
    der = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    with pytest.raises(Unavailable) as caught:
        read(der)
    assert caught.value.reason == "OCSP_NO_ANSWER"


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30\x80", Answering().der[:-1], Answering().der + b"\0", b"\x30" * 70_000],
    ids=["nothing", "begun", "cut off", "more", "deep"],
)
def test_what_cannot_be_read_is_malformed(der: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        read(der)
    assert caught.value.reason == "OCSP_MALFORMED"


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "p384"])
def test_issuers_with_other_keys_are_read_too(kind: str) -> None:
    """Other CAs' answers: RSA with PKCS #1 v1.5, EdDSA, larger curves."""
    keys: dict[str, Any] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    key = keys[kind]()
    hashed = None if kind == "ed25519" else hashes.SHA384()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another CA")])
    issuer = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, NOW.replace(tzinfo=None), datetime(2027, 1, 1))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashed)
    )
    der = Answering(issuer=issuer, signer=(issuer, key), algorithm=hashed).der
    assert read(der, issuer=issuer).status is CertificateStatus.GOOD


def test_a_question_names_the_certificate_and_carries_the_nonce() -> None:
    request = ocsp.load_der_ocsp_request(build_request(LEAF.serial, AUTHORITY.issuer, nonce=NONCE))
    asked = request.serial_number, request.issuer_name_hash, request.issuer_key_hash
    assert asked == (LEAF.serial, *issuer_hashes(AUTHORITY.issuer, hashes.SHA1()))
    assert request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == NONCE
    assert not ocsp.load_der_ocsp_request(build_request(LEAF.serial, AUTHORITY.issuer)).extensions


def test_the_issuer_is_hashed_as_the_library_hashes_it_for_a_leaf() -> None:
    """RFC 6960, 4.1.1: over the name in the leaf's issuer field, which is the issuer's subject."""
    for one in (hashes.SHA1(), hashes.SHA256()):
        made = ocsp.OCSPRequestBuilder().add_certificate(LEAF.certificate, AUTHORITY.issuer, one).build()
        assert issuer_hashes(AUTHORITY.issuer, one) == (made.issuer_name_hash, made.issuer_key_hash)


def test_a_certificate_without_an_address_to_ask_has_none() -> None:
    assert ocsp_url(LEAF.certificate) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_bytes_come_they_are_refused_or_say_what_was_signed(data: st.DataObject) -> None:
    """Fuzz: each byte may change, go or come; only what nobody signed may differ in what is still believed."""
    der = bytearray(GOOD_ANSWER)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        match data.draw(st.sampled_from("xdi")):
            case "x":
                der[at] = data.draw(st.integers(0, 255))
            case "d":
                del der[at]
            case _:
                der.insert(at, data.draw(st.integers(0, 255)))
    try:
        answer = read(bytes(der), nonce=NONCE)
    except HandfastError:
        return
    assert replace(answer, der=GOOD_ANSWER) == read(GOOD_ANSWER, nonce=NONCE)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_noise_is_an_answer(noise: bytes) -> None:
    with pytest.raises(HandfastError):
        read(noise)


GOOD_ANSWER = Answering(signer=delegate(), nonce=NONCE).der


def test_a_leaf_of_a_signer_is_no_workload() -> None:
    """What may sign answers is nobody in the mesh."""
    with pytest.raises(Refused):
        Leaf.of(delegate()[0])
