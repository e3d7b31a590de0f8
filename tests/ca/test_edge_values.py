"""Limits, refusals and alarms as values: without a network."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.clock import Clock
from handfast.errors import Exhausted, HandfastError, Invalid
from handfast.testing import ManualClock
from handfast_ca.alarm import ExpiryAlarm
from handfast_ca.audit_trail import AuditValue, MemoryAudit, write_refusal
from handfast_ca.config import load
from handfast_ca.limits import Limits
from handfast_ca.quorum import EVERYBODY, Quorum
from handfast_ca.quotas import DEFAULT_QUOTAS, MOST, Quota, Quotas
from handfast_ca.refusals import MOST_SOURCES, RefusalLog
from handfast_ca.stores.memory import MemoryLedger
from handfast_ca.stores.verdicts import page_size
from handfast_ca.timekeeper import Timekeeper
from tests.ca.core import NOW, Ceremony

CEREMONY = Ceremony()
CONFIG = """
trust_domain: test.example
public_url: http://ca.test.example:7080
issuer: {certificate: issuer.crt, key: issuer.key}
root: {certificate: root.crt, crl: root.crl}
state: state
limits: %s
"""


# --- limits -----------------------------------------------------------------------------------------------------------


def test_addresses_of_one_ipv6_network_are_one_and_of_another_are_not() -> None:
    """H4: whoever has a /64 has 2**64 addresses."""
    limits = Limits(Quotas(requests_per_address=Quota(1, 1)))
    limits.enrolment("2001:db8:0:1::1")
    with pytest.raises(Exhausted):
        limits.enrolment("2001:db8:0:1:ffff::2")
    limits.enrolment("2001:db8:0:2::1")


def test_a_connection_without_an_address_is_not_limited_by_one() -> None:
    limits = Limits(Quotas(requests_per_address=Quota(1, 1), failed_enrolments_per_address=Quota(1, 1)))
    for _ in range(3):
        limits.enrolment("")
        limits.enrolment_failed("")


def test_the_wait_is_as_long_as_the_rate_says() -> None:
    """H4: RetryInfo tells seconds, and no more than the next one takes."""
    limits = Limits(Quotas(renewals_per_identity=Quota(burst=1, per_minute=6)))
    limits.renewal("spiffe://test.example/web", "")
    with pytest.raises(Exhausted) as caught:
        limits.renewal("spiffe://test.example/web", "")
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 10


def test_thousands_of_healthy_agents_behind_one_address_are_served() -> None:
    """H4: a NAT with a thousand agents that all enrol at once, by the default limits."""
    limits = Limits()
    for number in range(1000):
        limits.renewal(f"spiffe://test.example/{number}", "192.0.2.1")


def test_limits_are_read_and_what_is_not_given_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "handfast.yaml"
    path.write_text(CONFIG % f"{{renewals_per_identity: {{burst: 10}}, watchers_per_identity: {MOST}}}")
    read = load(path).limits
    assert read.renewals_per_identity == Quota(burst=10, per_minute=1)
    assert read.watchers_per_identity == MOST
    assert read.requests_per_address == DEFAULT_QUOTAS.requests_per_address


def test_every_mistake_in_the_limits_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "handfast.yaml"
    path.write_text(
        CONFIG % f"{{renewals: 5, renewals_per_identity: {{burst: 0, per_minute: true, per_hour: 1}}, "
        f"requests_per_address: 7, watchers_per_identity: {MOST + 1}}}"
    )
    with pytest.raises(Invalid) as caught:
        load(path)
    assert {violation.field for violation in caught.value.violations} == {
        "limits.renewals",
        "limits.renewals_per_identity.burst",
        "limits.renewals_per_identity.per_minute",
        "limits.renewals_per_identity.per_hour",
        "limits.requests_per_address",
        "limits.watchers_per_identity",
    }


def test_the_quorum_of_a_restore_is_everybody_unless_it_says_otherwise(tmp_path: Path) -> None:
    """J9: and every mistake in it is told with its path."""
    path = tmp_path / "handfast.yaml"
    read = {}
    for text in ("{}", "{quorum: all}", "{quorum: 3, wait: 2h}"):
        path.write_text(CONFIG % "{}" + f"restore: {text}\n")
        read[text] = load(path).quorum
    assert read["{}"] == read["{quorum: all}"] == EVERYBODY
    assert read["{quorum: 3, wait: 2h}"] == Quorum(3, timedelta(hours=2))
    path.write_text(CONFIG % "{}" + "restore: {quorum: 0, wait: soon, who: me}\n")
    with pytest.raises(Invalid) as caught:
        load(path)
    assert {violation.field for violation in caught.value.violations} == {
        "restore.quorum",
        "restore.wait",
        "restore.who",
    }


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_number_of_watchers_has_bounds(count: int) -> None:
    with pytest.raises(Invalid) as caught:
        Quotas(watchers_per_identity=count)
    assert caught.value.reason == "INVALID_LIMIT"


# --- refusals ---------------------------------------------------------------------------------------------------------


class Trail:
    """What a refusal log writes to: a real trail in memory."""

    def __init__(self) -> None:
        self.audit = MemoryAudit(ManualClock(NOW))
        self.log = RefusalLog(self.refuse)

    async def refuse(self, event: str, error: HandfastError, **facts: AuditValue) -> None:
        await write_refusal(self.audit, {"event": event, **facts}, error)

    @property
    def counts(self) -> list[object]:
        return [line.get("count") for line in self.audit.records]


def limit() -> Exhausted:
    return Exhausted("too often", reason="RATE_LIMITED")


async def test_ten_thousand_refusals_are_one_line_and_one_count_a_minute() -> None:
    """H8, H4."""
    trail = Trail()
    for _ in range(10_000):
        await trail.log.note("renew", limit(), source="web", spiffe_id="spiffe://test.example/web")
    assert trail.counts == [None]
    await trail.log.flush()
    assert trail.counts == [None, 9_999]
    assert trail.audit.records[1]["spiffe_id"] == "spiffe://test.example/web"


async def test_a_storm_that_is_over_is_forgotten_and_a_new_one_is_told_at_once() -> None:
    trail = Trail()
    await trail.log.note("renew", limit(), source="web")
    await trail.log.flush()
    assert trail.counts == [None]
    await trail.log.note("renew", limit(), source="web")
    assert trail.counts == [None, None]


async def test_more_sources_than_can_be_kept_apart_share_a_line() -> None:
    """H8: ten thousand addresses are no ten thousand lines."""
    trail = Trail()
    for number in range(10_000):
        await trail.log.note("enrol", limit(), source=str(number), peer_address=f"10.0.{number // 256}.{number % 256}")
    assert len(trail.counts) == MOST_SOURCES + 1
    assert "peer_address" not in trail.audit.records[-1]
    await trail.log.flush()
    assert trail.counts[-1] == 10_000 - MOST_SOURCES - 1


async def test_what_could_not_be_written_is_still_counted() -> None:
    """G4."""
    trail = Trail()
    for _ in range(3):
        await trail.log.note("renew", limit(), source="web")
    trail.audit.broken = True
    with pytest.raises(HandfastError):
        await trail.log.flush()
    trail.audit.broken = False
    await trail.log.flush()
    assert trail.counts == [None, 2]


# --- alarms -----------------------------------------------------------------------------------------------------------


def alarm(clock: Clock) -> ExpiryAlarm:
    return ExpiryAlarm(CEREMONY.issuer, Timekeeper(clock, MemoryLedger()))


def test_the_end_of_the_issuing_ca_is_logged_once_at_each_threshold(caplog: pytest.LogCaptureFixture) -> None:
    """J10: looked at every hour for the whole life of 90 days."""
    clock = ManualClock(NOW)
    looking = alarm(clock)
    for _ in range(91 * 24):
        looking.look()
        clock.advance(timedelta(hours=1))
    assert [(record.levelno, record.message.split(": ", 1)[1].split(";")[0][-4:]) for record in caplog.records] == [
        (logging.WARNING, "50 %"),
        (logging.WARNING, "25 %"),
        (logging.ERROR, "10 %"),
        (logging.ERROR, caplog.records[-1].message.split(";")[0][-4:]),
    ]
    assert "expired at" in caplog.records[-1].message


def test_a_ca_that_starts_late_is_told_where_things_stand_and_only_that(caplog: pytest.LogCaptureFixture) -> None:
    """J10."""
    looking = alarm(ManualClock(NOW + timedelta(days=82)))
    looking.look()
    looking.look()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "10 %" in caplog.text


def test_a_page_is_never_longer_than_500_whatever_is_asked_of_the_ledger() -> None:
    """H7: behind the bound of the edge."""
    assert [page_size(wanted) for wanted in (1, 500, 501, 1 << 31)] == [1, 500, 500, 500]
    with pytest.raises(Invalid):
        page_size(0)
