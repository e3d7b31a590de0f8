"""A trust bundle moves forward only, and may be empty on purpose."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.bundle import TrustBundle
from handfast.errors import Invalid, Refused
from handfast.identity import TrustDomain
from handfast.testing import TestAuthority

AUTHORITY = TestAuthority()
BUNDLE = AUTHORITY.bundle


def refusal(newer: TrustBundle) -> str:
    with pytest.raises(Refused) as caught:
        BUNDLE.check_successor(newer)
    return caught.value.reason


def test_a_higher_sequence_replaces_and_the_same_bundle_does_not() -> None:
    assert BUNDLE.check_successor(replace(BUNDLE, roots=(), sequence=BUNDLE.sequence + 1))
    assert not BUNDLE.check_successor(replace(BUNDLE))


def test_an_older_a_contradicting_and_a_foreign_bundle_are_refused() -> None:
    """D11"""
    assert refusal(replace(BUNDLE, sequence=BUNDLE.sequence - 1)) == "BUNDLE_ROLLBACK"
    assert refusal(replace(BUNDLE, roots=())) == "BUNDLE_EQUIVOCATION"
    assert refusal(replace(BUNDLE, issuers=())) == "BUNDLE_EQUIVOCATION"
    foreign = replace(BUNDLE, trust_domain=TrustDomain("other.example"), sequence=BUNDLE.sequence + 1)
    assert refusal(foreign) == "FOREIGN_TRUST_DOMAIN"


def test_roots_and_issuers_come_back_from_pem_as_what_they_are() -> None:
    back = TrustBundle.from_pem(BUNDLE.trust_domain, BUNDLE.pem, sequence=BUNDLE.sequence)
    assert back.same_contents(BUNDLE)
    assert TrustBundle.from_pem(BUNDLE.trust_domain, BUNDLE.roots_pem).issuers == ()
    found = back.issuer(AUTHORITY.issue().leaf.issuer_key_id)
    assert found == AUTHORITY.issuer
    assert back.issuer(b"nobody") is None


def test_an_empty_text_is_an_empty_bundle_and_rubbish_is_none() -> None:
    """D12: to trust nothing is a statement, to be unreadable is not."""
    assert TrustBundle.from_pem(BUNDLE.trust_domain, b"\n").roots == ()
    with pytest.raises(Invalid) as caught:
        TrustBundle.from_pem(BUNDLE.trust_domain, b"rubbish")
    assert caught.value.reason == "CERTIFICATE_MALFORMED"


def test_a_ca_without_key_identifier_cannot_be_found_and_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(Invalid) as caught:
        TrustBundle(BUNDLE.trust_domain, (certificate,))
    assert caught.value.reason == "BUNDLE_MALFORMED"
