"""Trusted material only moves forward, and what was seen once is remembered longer than what is held (D1, D11, D12)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.bundle import TrustBundle
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.trust import News, Trust

CLOCK = ManualClock()


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority(clock=CLOCK)


def heard(trust: Trust, *crls: bytes, bundle: TrustBundle | None = None) -> tuple[Trust, list[str]]:
    after, alarms = trust.accept(News(bundle, crls), CLOCK.now())
    return after, [alarm.reason for alarm in alarms]


def forgotten(trust: Trust) -> Trust:
    """As after a restart that found no files but the marks."""
    return Trust(marks=trust.marks)


def twin_of(der: bytes, authority: TestAuthority) -> bytes:
    """Another list of the same number and time, rightly signed."""
    known = x509.load_der_x509_crl(der)
    revoked = x509.RevokedCertificateBuilder(4711, known.last_update_utc.replace(tzinfo=None)).build()
    builder = x509.CertificateRevocationListBuilder(
        known.issuer,
        known.last_update_utc.replace(tzinfo=None),
        (known.last_update_utc + timedelta(hours=1)).replace(tzinfo=None),
        list(known.extensions),
        [revoked],
    )
    return builder.sign(authority.issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_list_before_any_bundle_is_refused(authority: TestAuthority) -> None:
    """D5: nobody could have verified it."""
    assert heard(Trust(), authority.crl) == (Trust(), ["CRL_FOREIGN_ISSUER"])


def test_an_older_list_is_refused_though_nothing_but_its_mark_is_left(authority: TestAuthority) -> None:
    """D1: also the list of the same number with other octets."""
    older = authority.crl
    authority.refresh_list()
    trust, alarms = heard(Trust(), authority.crl, bundle=authority.bundle)
    assert alarms == []
    after, alarms = heard(forgotten(trust), older, bundle=authority.bundle)
    assert alarms == ["CRL_ROLLBACK"]
    assert not after.revocations.lists
    forged = twin_of(authority.crl, authority)
    after, alarms = heard(forgotten(trust), forged, bundle=authority.bundle)
    assert alarms == ["CRL_EQUIVOCATION"]
    assert not after.revocations.lists


def test_the_same_list_and_the_same_bundle_again_are_no_news(authority: TestAuthority) -> None:
    """D1, D11."""
    trust, _ = heard(Trust(), authority.crl, bundle=authority.bundle)
    assert heard(trust, authority.crl, bundle=authority.bundle) == (trust, [])
    restarted, alarms = heard(forgotten(trust), authority.crl, bundle=authority.bundle)
    assert (restarted.revocations, alarms) == (trust.revocations, [])


def test_what_was_overtaken_on_its_way_is_passed_over_and_what_was_old_when_it_was_asked_is_not(
    authority: TestAuthority,
) -> None:
    """D1, D11."""
    oldest = authority.crl
    authority.refresh_list()
    asked, _ = heard(Trust(), authority.crl, bundle=authority.bundle)
    late = authority.crl
    authority.refresh_list()
    authority.set_roots((authority.root,), (authority.issuer,))
    between, sequence = authority.crl, authority.bundle
    authority.refresh_list()
    now, _ = heard(asked, authority.crl, bundle=replace(authority.bundle, sequence=authority.bundle.sequence + 1))

    def answered(*crls: bytes, bundle: TrustBundle | None = None) -> list[str]:
        after, alarms = now.accept(News(bundle, crls), CLOCK.now(), asked.marks)
        assert after == now
        return [alarm.reason for alarm in alarms]

    assert answered(late, between, bundle=sequence) == []
    assert answered(late, bundle=asked.bundle) == []
    assert answered(oldest) == ["CRL_ROLLBACK"]
    assert answered(twin_of(late, authority)) == ["CRL_EQUIVOCATION"]
    assert answered(twin_of(authority.crl, authority)) == ["CRL_EQUIVOCATION"]
    assert answered(bundle=replace(sequence, sequence=0)) == ["BUNDLE_ROLLBACK"]
    assert answered(bundle=replace(sequence, sequence=1, roots=())) == ["BUNDLE_EQUIVOCATION"]


def test_an_older_or_contradicting_bundle_is_refused_though_nothing_but_its_mark_is_left(
    authority: TestAuthority,
) -> None:
    """D11: a root that was there may not vanish under the number that had it."""
    newer = replace(authority.bundle, sequence=5)
    trust, _ = heard(Trust(), bundle=newer)
    after, alarms = heard(forgotten(trust), bundle=replace(newer, sequence=4))
    assert (after.bundle, alarms) == (None, ["BUNDLE_ROLLBACK"])
    after, alarms = heard(forgotten(trust), bundle=replace(newer, roots=()))
    assert (after.bundle, alarms) == (None, ["BUNDLE_EQUIVOCATION"])
    assert heard(trust, bundle=replace(newer, roots=()))[1] == ["BUNDLE_EQUIVOCATION"]


def test_an_empty_bundle_is_taken_and_the_lists_of_its_issuers_go_with_them(authority: TestAuthority) -> None:
    """D12: it means that nothing is trusted; the old one is not kept."""
    trust, _ = heard(Trust(), authority.crl, bundle=authority.bundle)
    after, alarms = heard(trust, bundle=TrustBundle(authority.trust_domain, (), (), authority.bundle.sequence + 1))
    assert alarms == []
    assert after.distrusts_everything()
    assert not after.revocations.lists
    assert not Trust().distrusts_everything()


def test_a_broken_list_does_not_hold_up_the_announcement_beside_it(authority: TestAuthority) -> None:
    """D1, D7: each part is judged by itself."""
    trust, _ = heard(Trust(), authority.crl, bundle=authority.bundle)
    after, alarms = trust.accept(News(None, (b"rubbish",), announced=((b"issuer", 7),)), CLOCK.now())
    assert [alarm.reason for alarm in alarms] == ["CRL_MALFORMED"]
    assert after.revoked(b"issuer", 7)
