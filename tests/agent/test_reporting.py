"""What the agent tells the CA about itself and the services at its socket, over the watch that is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from handfast.errors import Invalid, Unavailable
from handfast.testing import ManualClock
from handfast.wire.v1 import report_pb2
from handfast_agent.config import Config
from handfast_agent.reporting import SERVICE_LIFETIME, Reporting
from handfast_agent.serve import Agent
from handfast_agent.watch import watch_forever
from tests.agent.conftest import enrolled
from tests.peers.authority import PeerAuthority


@pytest.fixture
async def agent(config: Config, peer: PeerAuthority, clock: ManualClock) -> Agent:
    return await enrolled(config, clock)


@pytest.fixture
def reporting(agent: Agent, clock: ManualClock) -> Reporting:
    return Reporting(agent.driver, agent.upstream, agent.source, lambda: 0.0, clock.monotonic)


@pytest.fixture
async def running(agent: Agent, reporting: Reporting) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(reporting.run()),
        asyncio.create_task(watch_forever(agent.driver, agent.upstream, agent.source, lambda: 0.0)),
    ]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def service(name: str = "s", number: str = "1") -> report_pb2.ServiceReport:
    return report_pb2.ServiceReport(
        instance=name,
        policies=[report_pb2.Policy(trust_domain="test.example")],
        lists=[report_pb2.HeldList(issuer_key_id=b"i", number=number)],
    )


async def heard(peer: PeerAuthority, services: int) -> report_pb2.StatusReport:
    async with asyncio.timeout(20):
        while not peer.reports or len(peer.reports[-1].services) != services:
            await asyncio.sleep(0.01)
    return peer.reports[-1]


@pytest.mark.usefixtures("running")
async def test_it_tells_which_lists_it_enforces_and_what_its_services_said(
    agent: Agent, peer: PeerAuthority, reporting: Reporting
) -> None:
    """Once the watch is open, and again whenever a service says something new."""
    first = await heard(peer, 0)
    numbers = {key: str(known.number) for key, known in agent.driver.trust.revocations.lists.items()}
    assert {bytes(one.issuer_key_id): one.number for one in first.lists} == numbers
    reporting.take(service())
    second = await heard(peer, 1)
    assert second.instance == first.instance
    assert list(second.services) == [service()]


@pytest.mark.usefixtures("running")
async def test_a_new_list_is_confirmed_when_it_is_in_force(agent: Agent, peer: PeerAuthority) -> None:
    """C9: the number that an operator waits for."""
    before = max(int(one.number) for one in (await heard(peer, 0)).lists)
    peer.authority.revoke_all([7])
    peer.push()
    async with asyncio.timeout(20):
        while max(int(one.number) for one in peer.reports[-1].lists) <= before:
            await asyncio.sleep(0.01)
    newest = max(known.number for known in agent.driver.trust.revocations.lists.values())
    assert max(int(one.number) for one in peer.reports[-1].lists) == newest


@pytest.mark.usefixtures("running")
async def test_a_report_that_is_on_its_way_when_the_watch_ends_is_sent_again_over_the_next_one(
    peer: PeerAuthority,
) -> None:
    """gRPC cancels it, as if somebody had ended the agent."""
    peer.answers_reports.clear()
    await heard(peer, 0)
    peer.answers_reports, unanswered = asyncio.Event(), peer.answers_reports
    peer.answers_reports.set()
    sent = len(peer.reports)
    peer.hang_up()
    async with asyncio.timeout(20):
        while len(peer.reports) == sent:
            await asyncio.sleep(0.01)
    assert not unanswered.is_set()
    assert peer.streams_opened == 2


async def test_without_a_watch_nothing_is_said(reporting: Reporting, agent: Agent, peer: PeerAuthority) -> None:
    """No connection is made for it."""
    with pytest.raises(Unavailable) as caught:
        await agent.upstream.report(reporting.report())
    assert caught.value.reason == "NOT_CONNECTED"
    assert peer.reports == []


def test_a_service_s_last_word_takes_the_place_of_the_one_before(reporting: Reporting) -> None:
    reporting.take(service(number="1"))
    reporting.take(service(number="2"))
    assert [one.lists[0].number for one in reporting.report().services] == ["2"]


def test_a_service_that_is_gone_is_forgotten(reporting: Reporting, clock: ManualClock) -> None:
    reporting.take(service())
    clock.advance(timedelta(seconds=SERVICE_LIFETIME))
    assert not reporting.report().services


def test_a_hostile_service_is_refused_and_takes_nobody_s_place(reporting: Reporting) -> None:
    """H4: more services than there is room for, and reports without sense."""
    for number in range(16):
        reporting.take(service(f"s{number}"))
    for hostile in (service("one more"), report_pb2.ServiceReport(), service("s1", "none")):
        with pytest.raises(Invalid) as caught:
            reporting.take(hostile)
        assert caught.value.reason == "INVALID_REPORT"
    assert len(reporting.report().services) == 16


def test_a_report_is_never_larger_than_the_ca_takes(reporting: Reporting) -> None:
    """H4: as many services as there is room for."""
    long = report_pb2.Policy(allow=report_pb2.Policy.Allow(identities=[f"spiffe://test.example/{'x' * 150}"] * 45))
    for number in range(16):
        reporting.take(report_pb2.ServiceReport(instance=f"s{number}", policies=[long]))
    made = reporting.report()
    assert 1 < len(made.services) < 16
    assert made.ByteSize() <= 32 * 1024
