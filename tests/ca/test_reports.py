"""What agents say: kept for a while, bounded, and of themselves alone."""

from __future__ import annotations

from typing import Any

import pytest

from handfast.access import AccessPolicy, all_of, allow, any_of, in_trust_domain
from handfast.errors import Exhausted
from handfast.identity import SpiffeId
from handfast.wire.reports import UnsafeOpaque, is_opaque
from handfast_ca.reports import LIFETIME, MAX_INSTANCES, MAX_REPORTS, AgentReport, Held, Reached, Reports, ServiceSays
from tests.ca.core import DB, WEB

ISSUER = b"issuer"


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def reports(time: Time) -> Reports:
    return Reports(time)


def report(identity: SpiffeId = DB, instance: str = "a", number: int = 7, *policies: AccessPolicy) -> AgentReport:
    services = (ServiceSays(f"{instance}-1", policies, {ISSUER: number - 1}),) if policies else ()
    return AgentReport(identity, instance, {ISSUER: number}, services)


def test_an_agent_s_last_word_counts_until_its_time_is_over(reports: Reports, time: Time) -> None:
    reports.take(report(number=7))
    reports.take(report(number=8, instance="b"))
    time.now = LIFETIME / 2
    reports.take(report(number=9))
    assert [one.lists[ISSUER] for one in reports.present()] == [8, 9]
    time.now = LIFETIME
    assert [one.lists[ISSUER] for one in reports.present()] == [9]
    time.now = LIFETIME * 2
    assert reports.present() == ()


def test_one_identity_fills_its_own_room_and_nobody_else_s(reports: Reports, time: Time) -> None:
    """H4: refused with a reason when it has too many; those it has go on."""
    for number in range(MAX_INSTANCES):
        reports.take(report(WEB, str(number)))
    with pytest.raises(Exhausted) as caught:
        reports.take(report(WEB, "one more"))
    assert caught.value.reason == "TOO_MANY_INSTANCES"
    reports.take(report(WEB, "3"))
    reports.take(report(DB))
    assert len(reports.present()) == MAX_INSTANCES + 1
    time.now = LIFETIME
    reports.take(report(WEB, "one more"))
    assert len(reports.present()) == 1


def test_of_too_many_the_oldest_go(reports: Reports) -> None:
    """H4."""
    for number in range(MAX_REPORTS + 5):
        reports.take(report(SpiffeId.parse(f"spiffe://test.example/{number}")))
    present = reports.present()
    assert len(present) == MAX_REPORTS
    assert str(present[0].spiffe_id) == "spiffe://test.example/5"


def test_agents_and_services_are_told_apart_by_how_far_they_are(reports: Reports) -> None:
    reports.take(report(DB, "a", 7, allow(WEB)))
    assert list(reports.held(ISSUER)) == [Held(str(DB), "a", "agent", 7), Held(str(DB), "a-1", "service", 6)]
    assert [one.number for one in reports.held(b"another")] == [None, None]


def test_reach_is_read_from_the_policies_of_both_sides(reports: Reports) -> None:
    orders = allow(WEB, methods=["/shop.v1.Orders/*"])
    reports.take(report(DB, "a", 7, orders))
    reports.take(report(WEB, "w", 7, in_trust_domain("test.example")))
    assert reports.callees(WEB, is_opaque) == [
        Reached(str(DB), ("/shop.v1.Orders/*",), unknown=False),
        Reached(str(WEB), ("*",), unknown=False),
    ]
    assert [one.spiffe_id for one in reports.callees(DB, is_opaque)] == [str(WEB)]
    known = [str(WEB), str(DB), "spiffe://test.example/other"]
    assert reports.callers(DB, known, is_opaque) == [Reached(str(WEB), ("/shop.v1.Orders/*",), unknown=False)]
    assert len(reports.callers(WEB, known, is_opaque)) == 3


@pytest.mark.parametrize(
    ("policy", "methods", "unknown"),
    [
        (any_of(allow(WEB, methods=["/a.B/C"]), allow(WEB, methods=["/a.B/D"])), ("/a.B/C", "/a.B/D"), False),
        (any_of(allow(WEB, methods=["/a.B/C"]), allow(WEB)), ("*",), False),
        (all_of(in_trust_domain("test.example"), allow(WEB, methods=["/a.B/C"])), ("/a.B/C",), False),
        (UnsafeOpaque("Mine"), ("*",), True),
        (all_of(allow(WEB, methods=["/a.B/C"]), UnsafeOpaque("Mine")), ("/a.B/C",), True),
    ],
)
def test_a_reach_is_never_shown_smaller_than_it_may_be(
    reports: Reports, policy: Any, methods: tuple[str, ...], unknown: bool
) -> None:
    reports.take(report(DB, "a", 7, policy))
    assert reports.callees(WEB, is_opaque) == [Reached(str(DB), methods, unknown)]


def test_who_is_let_in_by_nobody_reaches_nothing(reports: Reports) -> None:
    closed = all_of(in_trust_domain("test.example"), allow(DB))
    reports.take(report(DB, "a", 7, closed, allow("spiffe://test.example/x")))
    assert reports.callees(WEB, is_opaque) == []
