"""A snapshot is checked when it is made, so that a broken one is never published."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handfast.bundle import TrustBundle
from handfast.certificates import Usage, load_certificates
from handfast.credentials import Credentials
from handfast.errors import Refused
from handfast.identity import TrustDomain
from handfast.keys import generate, load_private_key
from handfast.testing import ManualClock, TestAuthority

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUTHORITY = TestAuthority(clock=ManualClock(START))
WEB = AUTHORITY.issue("/web")


def build(**changed: Any) -> Credentials:
    parts: dict[str, Any] = {
        "key": WEB.key,
        "chain": WEB.chain,
        "bundle": AUTHORITY.bundle,
        "crls": [AUTHORITY.crl],
        "announced": [(WEB.leaf.issuer_key_id, 5)],
        "generation": 3,
        "now": START,
    }
    return Credentials.build(**{**parts, **changed})


def test_a_right_set_becomes_a_snapshot() -> None:
    made = build()
    assert (made.spiffe_id, made.generation) == (WEB.spiffe_id, 3)
    assert made.revocations.revoked(WEB.leaf.issuer_key_id, 5)
    assert load_certificates(made.chain_pem) == WEB.chain
    assert load_private_key(made.key_pem).public_key() == WEB.leaf.certificate.public_key()


def test_the_key_never_shows_in_a_repr() -> None:
    """G2"""
    assert "key" not in repr(build()).replace("issuer_key_id", "")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"chain": ()}, "UNTRUSTED"),
        ({"chain": WEB.chain[:1]}, "UNTRUSTED"),
        ({"key": generate()}, "KEY_MISMATCH"),
        ({"bundle": TrustBundle(TrustDomain("other.example"), AUTHORITY.bundle.roots)}, "FOREIGN_TRUST_DOMAIN"),
        ({"bundle": TrustBundle(AUTHORITY.trust_domain, ())}, "UNTRUSTED"),
        ({"crls": [TestAuthority(clock=ManualClock(START)).crl]}, "CRL_FOREIGN_ISSUER"),
        ({"now": START + timedelta(hours=2)}, "EXPIRED"),
    ],
)
def test_a_broken_set_is_refused(changed: dict[str, Any], reason: str) -> None:
    """E, D5, D12: parts of different generations never meet."""
    with pytest.raises(Refused) as caught:
        build(**changed)
    assert caught.value.reason == reason


def test_a_server_only_leaf_makes_credentials_too() -> None:
    server = AUTHORITY.issue("/server", usages=[Usage.SERVER])
    assert build(key=server.key, chain=server.chain).leaf.usages == {Usage.SERVER}
