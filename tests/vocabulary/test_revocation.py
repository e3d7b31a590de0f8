"""Revocation lists only move forward, and only from those who may sign them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import univ
from pyasn1_alt_modules import rfc5280

from handfast.bundle import TrustBundle
from handfast.certificates import subject_key_id
from handfast.errors import HandfastError, Invalid, Refused
from handfast.revocation import EMPTY, Freshness, FreshnessPolicy, Reason, RevocationList, Revocations, split_pem
from handfast.testing import ManualClock, TestAuthority

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
IDP = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
INDIRECT = x509.IssuingDistributionPoint(None, None, False, False, None, True, False)
SOME_REASONS = x509.IssuingDistributionPoint(
    None, None, False, False, frozenset({x509.ReasonFlags.key_compromise}), False, False
)
DELTA = x509.DeltaCRLIndicator(1)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority(clock=ManualClock(START))


def crl(
    authority: TestAuthority,
    *,
    number: int | None = 7,
    this_update: datetime = START,
    next_update: datetime = START + HOUR,
    signer: ec.EllipticCurvePrivateKey | None = None,
    issuer: x509.Name | None = None,
    key_id: bytes | None = None,
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    entry_extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:
    """A list that is right in everything that is not named."""
    entry = x509.RevokedCertificateBuilder(4711, START.replace(tzinfo=None))
    for extension, critical in entry_extra:
        entry = entry.add_extension(extension, critical)
    builder = x509.CertificateRevocationListBuilder(
        issuer or authority.issuer.subject,
        this_update.replace(tzinfo=None),
        next_update.replace(tzinfo=None),
        revoked_certificates=[entry.build()],
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier(key_id or subject_key_id(authority.issuer), None, None), critical=False
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer or authority.issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read(authority: TestAuthority, der: bytes, now: datetime = START) -> RevocationList:
    return RevocationList.verify(der, authority.bundle, now=now)


def reason_of(authority: TestAuthority, der: bytes, now: datetime = START) -> str:
    with pytest.raises(HandfastError) as caught:
        read(authority, der, now)
    return caught.value.reason


def test_a_list_is_read_with_all_that_it_says(authority: TestAuthority) -> None:
    known = read(authority, crl(authority, entry_extra=((x509.CRLReason(x509.ReasonFlags.key_compromise), False),)))
    assert (known.number, known.this_update, known.next_update) == (7, START, START + HOUR)
    assert known.serials == {4711}
    assert split_pem(known.pem()) == (known.der,)


def test_an_older_list_never_replaces_a_newer_one(authority: TestAuthority) -> None:
    """D1: lower number, or a higher number of an earlier time."""
    present = EMPTY.with_list(read(authority, crl(authority)))
    for older in (
        crl(authority, number=6),
        crl(authority, number=6, this_update=START + timedelta(seconds=2)),
        crl(authority, number=8, this_update=START - timedelta(seconds=1)),
    ):
        with pytest.raises(Refused) as caught:
            present.with_list(read(authority, older))
        assert caught.value.reason == "CRL_ROLLBACK"
        assert present.revoked(*pair(authority))


def test_two_lists_with_one_number_are_an_equivocation(authority: TestAuthority) -> None:
    """D1"""
    present = EMPTY.with_list(read(authority, crl(authority)))
    with pytest.raises(Refused) as caught:
        present.with_list(read(authority, crl(authority, next_update=START + 2 * HOUR)))
    assert caught.value.reason == "CRL_EQUIVOCATION"


def test_the_same_list_again_changes_nothing_and_a_newer_one_replaces(authority: TestAuthority) -> None:
    der = crl(authority)
    present = EMPTY.with_list(read(authority, der))
    assert present.with_list(read(authority, der)) is present
    newer = present.with_list(read(authority, crl(authority, number=8, this_update=START + timedelta(seconds=1))))
    assert next(iter(newer.lists.values())).number == 8


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (timedelta(), Freshness.FRESH),
        (timedelta(minutes=20), Freshness.FRESH),
        (timedelta(minutes=20, seconds=1), Freshness.STALE),
        (timedelta(minutes=59, seconds=59), Freshness.STALE),
        (HOUR, Freshness.EXPIRED),
    ],
)
def test_a_list_goes_stale_before_it_expires(authority: TestAuthority, age: timedelta, state: Freshness) -> None:
    """D2: the bounds of threats, 2.3, to the second."""
    known = EMPTY.with_list(read(authority, crl(authority)))
    policy = FreshnessPolicy(refresh=timedelta(minutes=10))
    assert known.freshness(pair(authority)[0], START + age, policy) is state
    assert known.revoked(*pair(authority))


def test_without_a_list_nothing_is_known(authority: TestAuthority) -> None:
    """D6"""
    assert EMPTY.freshness(pair(authority)[0], START) is Freshness.UNKNOWN


def test_an_expired_list_is_kept_for_what_it_revokes(authority: TestAuthority) -> None:
    """D2: its news stay true."""
    known = read(authority, crl(authority), START + 9 * HOUR)
    assert known.serials == {4711}
    assert EMPTY.with_list(known).revoked(*pair(authority))


def test_a_list_of_the_future_is_refused(authority: TestAuthority) -> None:
    """D2: five seconds of skew are allowed, no more."""
    read(authority, crl(authority, this_update=START + timedelta(seconds=5)))
    ahead = crl(authority, this_update=START + timedelta(seconds=6))
    assert reason_of(authority, ahead) == "CRL_FUTURE"


def test_a_list_must_be_of_a_ca_in_the_bundle(authority: TestAuthority) -> None:
    """D5: other authority, other name under our key identifier, other key under our name."""
    stranger = TestAuthority(clock=ManualClock(START))
    assert reason_of(authority, crl(stranger)) == "CRL_FOREIGN_ISSUER"
    assert reason_of(authority, crl(authority, issuer=stranger.issuer.subject)) == "CRL_FOREIGN_ISSUER"
    assert reason_of(authority, crl(authority, key_id=b"nobody")) == "CRL_FOREIGN_ISSUER"
    assert reason_of(authority, crl(authority, signer=stranger.issuer_key)) == "CRL_BAD_SIGNATURE"


def test_a_ca_without_crl_sign_signs_no_list(authority: TestAuthority) -> None:
    """D5"""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    own_id = x509.SubjectKeyIdentifier(b"no crl sign")
    certificate = (
        x509.CertificateBuilder(authority.issuer.subject, authority.issuer.subject, key.public_key(), 1)
        .not_valid_before(START)
        .not_valid_after(START + HOUR)
        .add_extension(usage, critical=True)
        .add_extension(own_id, critical=False)
        .sign(key, hashes.SHA256())
    )
    bundle = TrustBundle(authority.trust_domain, (certificate,))
    with pytest.raises(Refused) as caught:
        RevocationList.verify(crl(authority, signer=key, key_id=b"no crl sign"), bundle, now=START)
    assert caught.value.reason == "CRL_FOREIGN_ISSUER"


@pytest.mark.parametrize(
    "extra",
    [
        (IDP, True),
        (DELTA, True),
        (INDIRECT, True),
        (SOME_REASONS, True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),
        (IDP, False),
        (DELTA, False),
        (INDIRECT, False),
    ],
    ids=[
        "users only",
        "delta",
        "indirect",
        "some reasons",
        "unknown",
        "users only, not critical",
        "delta, not critical",
        "indirect, not critical",
    ],
)
def test_an_unknown_critical_extension_refuses_the_whole_list(
    authority: TestAuthority, extra: tuple[x509.ExtensionType, bool]
) -> None:
    """D7: partial, delta and indirect lists say less than they seem to."""
    assert reason_of(authority, crl(authority, extra=(extra,))) == "CRL_UNKNOWN_CRITICAL"


def test_an_extension_that_is_neither_critical_nor_limits_the_list_is_passed_over(authority: TestAuthority) -> None:
    """D7: the bound, from the other side (RFC 5280, 5.2)."""
    harmless = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
    assert read(authority, crl(authority, extra=((harmless, False),))).serials == {4711}


def without_next_update(authority: TestAuthority) -> bytes:
    """As no builder makes it: nextUpdate, which RFC 5280 demands and X.509 does not, is taken out."""
    signed = x509.load_der_x509_crl(crl(authority))
    info, _ = decoder.decode(signed.tbs_certlist_bytes, asn1Spec=rfc5280.TBSCertList())
    bare = rfc5280.TBSCertList()
    for field in info:
        if field != "nextUpdate" and info[field].isValue:
            bare[field] = info[field]
    return signed_again(authority, signed, bare)


def signed_again(authority: TestAuthority, signed: x509.CertificateRevocationList, bare: object) -> bytes:
    """The list with this in place of what it said, rightly signed."""
    tbs = encoder.encode(bare)
    whole, _ = decoder.decode(signed.public_bytes(serialization.Encoding.DER), asn1Spec=rfc5280.CertificateList())
    again = rfc5280.CertificateList()
    again["tbsCertList"] = bare
    again["signatureAlgorithm"] = whole["signatureAlgorithm"]
    signature = authority.issuer_key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    again["signature"] = univ.BitString.fromOctetString(signature)
    return bytes(encoder.encode(again))


def with_next_update_of_this_update(authority: TestAuthority) -> bytes:
    """No builder makes this either: a list that is over in the moment it begins."""
    signed = x509.load_der_x509_crl(crl(authority))
    info, _ = decoder.decode(signed.tbs_certlist_bytes, asn1Spec=rfc5280.TBSCertList())
    info["nextUpdate"] = info["thisUpdate"]
    return signed_again(authority, signed, info)


def test_a_list_without_a_usable_next_update_is_malformed(authority: TestAuthority) -> None:
    """D2: it would never expire."""
    assert reason_of(authority, without_next_update(authority)) == "CRL_MALFORMED"
    assert reason_of(authority, with_next_update_of_this_update(authority)) == "CRL_MALFORMED"


def test_an_unknown_critical_entry_extension_refuses_the_whole_list(authority: TestAuthority) -> None:
    """D7: certificateIssuer makes an indirect CRL."""
    issuer = x509.CertificateIssuer([x509.DirectoryName(authority.root.subject)])
    assert reason_of(authority, crl(authority, entry_extra=((issuer, True),))) == "CRL_UNKNOWN_CRITICAL"


@pytest.mark.parametrize("der", [b"", b"\x30\x03\x02\x01\x01", b"-----BEGIN X509 CRL-----"])
def test_what_is_no_list_is_malformed(authority: TestAuthority, der: bytes) -> None:
    """A20"""
    assert reason_of(authority, der) == "CRL_MALFORMED"


def test_a_list_without_a_number_is_malformed(authority: TestAuthority) -> None:
    """D1: there would be no order."""
    assert reason_of(authority, crl(authority, number=None)) == "CRL_MALFORMED"


def test_pem_texts_are_split_and_rubbish_is_refused(authority: TestAuthority) -> None:
    known = EMPTY.with_list(read(authority, crl(authority)))
    assert split_pem(b" \n") == ()
    assert len(split_pem(known.pem * 2)) == 2
    for rubbish in (b"rubbish", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"):
        with pytest.raises(Invalid) as caught:
            split_pem(rubbish)
        assert caught.value.reason == "CRL_MALFORMED"


def test_an_announced_revocation_counts_before_its_list_and_goes_with_it(authority: TestAuthority) -> None:
    """D3: the push is ahead of the CRL."""
    key_id, serial = pair(authority)
    foreign = (b"other issuer", serial)
    announced = EMPTY.announce([(key_id, serial), (key_id, 5), foreign])
    assert announced.revoked(key_id, serial)
    listed = announced.with_list(read(authority, crl(authority)))
    assert listed.announced == {(key_id, 5), foreign}
    assert listed.revoked(key_id, serial)
    assert listed.announce([(key_id, serial)]) is listed
    assert not Revocations().revoked(key_id, serial)


def test_every_reason_has_its_flag() -> None:
    """C8: there is no certificateHold, which could be taken back."""
    assert {reason.flag for reason in Reason} == set(x509.ReasonFlags) - {
        x509.ReasonFlags.certificate_hold,
        x509.ReasonFlags.remove_from_crl,
        x509.ReasonFlags.aa_compromise,
    }


def pair(authority: TestAuthority) -> tuple[bytes, int]:
    key_id = subject_key_id(authority.issuer)
    assert key_id is not None
    return key_id, 4711


def test_the_test_kit_s_authority_signs_any_number_of_lists_in_one_second_and_none_of_the_future() -> None:
    """D2, D3: two hundred revocations while the clock stands; every member takes each list after the one before."""
    clock = ManualClock(START)
    authority = TestAuthority(clock=clock)
    known = authority.revocations
    for serial in range(1, 201):
        authority.revoke(serial)
        known = known.with_list(RevocationList.verify(authority.crl, authority.bundle, now=clock.now()))
    issuer = subject_key_id(authority.issuer) or b""
    assert all(known.revoked(issuer, serial) for serial in range(1, 201))
    assert known.lists[issuer].this_update <= clock.now()
    clock.advance(timedelta(hours=1))
    authority.revoke(201)
    assert authority.revocations.lists[issuer].this_update == clock.now() - timedelta(seconds=30)
