"""Policies answer, an empty one is invalid, and one judgement serves every call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.access import (
    AccessPolicy,
    UnsafeAnyIdentity,
    all_of,
    allow,
    any_of,
    good_until,
    in_trust_domain,
    judge,
    judge_credentials,
)
from handfast.credentials import Credentials
from handfast.errors import Invalid
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import EMPTY, FreshnessPolicy, Revocations
from handfast.testing import ManualClock, TestAuthority

WEB, METHOD = "spiffe://test.example/ns/shop/web", "/shop.v1.Orders/Place"
YES, NO = UnsafeAnyIdentity(), in_trust_domain("other.example")


@pytest.mark.parametrize(
    ("policy", "permitted"),
    [
        (allow(WEB), True),
        (allow(SpiffeId.parse(WEB)), True),
        (allow("spiffe://test.example/ns/shop/*"), True),
        (allow("spiffe://test.example/ns/*/web"), True),
        (allow("spiffe://test.example/ns/shop/we"), False),
        (allow("spiffe://test.example/ns/shop/web2"), False),
        (allow("spiffe://other.example/ns/shop/web"), False),
        (allow(WEB, methods=[METHOD]), True),
        (allow(WEB, methods=["/shop.v1.Orders/*"]), True),
        (allow(WEB, methods=["/shop.v1.Orders/Cancel"]), False),
        (in_trust_domain("test.example"), True),
        (in_trust_domain(TrustDomain("other.example")), False),
        (any_of(NO, YES), True),
        (any_of(NO, NO), False),
        (all_of(YES, NO), False),
        (all_of(YES, YES), True),
    ],
)
def test_a_policy_answers(policy: AccessPolicy, permitted: bool) -> None:
    assert policy.permits(SpiffeId.parse(WEB), METHOD) is permitted


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: allow(), "EMPTY_POLICY"),
        (lambda: any_of(), "EMPTY_POLICY"),
        (lambda: all_of(), "EMPTY_POLICY"),
        (lambda: allow("spiffe://*/web"), "INVALID_POLICY"),
        (lambda: allow("spiffe://test.example/w?b"), "INVALID_POLICY"),
        (lambda: allow("spiffe://test.example/[a]"), "INVALID_POLICY"),
        (lambda: allow("web"), "INVALID_SPIFFE_ID"),
        (lambda: allow(WEB, methods=["Place"]), "INVALID_POLICY"),
        (lambda: allow(WEB, methods=["/Place"]), "INVALID_POLICY"),
    ],
)
def test_an_empty_or_wrong_policy_cannot_be_made(make: Callable[[], AccessPolicy], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.reason == reason


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority(clock: ManualClock) -> TestAuthority:
    return TestAuthority(clock=clock, list_validity=timedelta(minutes=30))


def verdict(
    peer: Credentials,
    clock: ManualClock,
    revocations: Revocations,
    policy: AccessPolicy = YES,
    domain: str = "test.example",
) -> tuple[str, bool]:
    found = judge(
        peer.leaf,
        METHOD,
        policy=policy,
        trust_domain=TrustDomain(domain),
        revocations=revocations,
        now=clock.now(),
        freshness=FreshnessPolicy(refresh=timedelta(minutes=10)),
    )
    assert found.allowed == (found.reason in {"OK", "STALE"})
    return found.reason, found.authenticated


def test_a_good_caller_passes_also_while_the_list_is_stale(authority: TestAuthority, clock: ManualClock) -> None:
    """D2: STALE is served."""
    web = authority.issue(WEB)
    known = web.revocations
    assert verdict(web, clock, known) == ("OK", True)
    clock.advance(timedelta(minutes=25))
    assert verdict(web, clock, known) == ("STALE", True)


def test_each_refusal_has_its_reason(authority: TestAuthority, clock: ManualClock) -> None:
    """C6, D2, D6"""
    web, other = authority.issue(WEB), authority.issue("/other", lifetime=timedelta(hours=4))
    known = other.revocations
    authority.revoke(web)
    assert verdict(web, clock, authority.revocations) == ("REVOKED", False)
    assert verdict(other, clock, authority.revocations, NO) == ("NOT_ALLOWED", True)
    assert verdict(other, clock, known, domain="other.example") == ("FOREIGN_TRUST_DOMAIN", False)
    assert verdict(other, clock, EMPTY) == ("UNKNOWN_REVOCATIONS", False)
    clock.advance(timedelta(minutes=31))
    assert verdict(other, clock, known) == ("STALE_REVOCATIONS", False)
    clock.advance(timedelta(hours=4))
    assert verdict(other, clock, known) == ("EXPIRED", False)
    clock.advance(-timedelta(hours=9))
    assert verdict(other, clock, known) == ("NOT_YET_VALID", False)


def test_a_revocation_outlives_the_list_that_said_it(authority: TestAuthority, clock: ManualClock) -> None:
    """D2: what was revoked stays so, however old the list."""
    web = authority.issue(WEB, lifetime=timedelta(hours=4))
    authority.revoke(web)
    known = authority.revocations
    clock.advance(timedelta(hours=2))
    assert verdict(web, clock, known) == ("REVOKED", False)


_SHARED = TestAuthority(clock=ManualClock(datetime(2026, 6, 1, tzinfo=UTC)))


@given(
    lifetime=st.integers(60, 14 * 3600),
    refresh=st.integers(60, 7 * 3600),
    share=st.floats(0, 1, exclude_max=True, allow_nan=False),
)
@example(lifetime=14 * 3600, refresh=7 * 3600, share=0.999)
def test_nothing_but_time_is_looked_at_until_time_alone_could_change_a_verdict(
    lifetime: int, refresh: int, share: float
) -> None:
    """C2, D2: whoever is good stays good from notBefore until before that moment, and not after it."""
    leaf = _SHARED.issue(WEB, lifetime=timedelta(seconds=lifetime)).leaf
    revocations, policy = _SHARED.revocations, FreshnessPolicy(timedelta(seconds=refresh))
    begin, until = leaf.validity.not_before, good_until(leaf, revocations, policy)
    within = begin + (until - begin) * share
    assert judge_credentials(leaf, revocations, min(within, until - timedelta(microseconds=1)), policy).reason == "OK"
    assert judge_credentials(leaf, revocations, until + timedelta(microseconds=1), policy).reason != "OK"
