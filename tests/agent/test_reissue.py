"""An order to renew: who obeys it, when, and that nothing is lost on the way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from handfast.lifetime import Validity
from handfast.testing import ManualClock
from handfast.wire import codec
from handfast.wire.v1 import trust_pb2
from handfast_agent.config import Config
from handfast_agent.lifecycle import Event
from handfast_agent.order import Order
from handfast_agent.plan import LATEST_SPREAD, Plan, hurried
from handfast_agent.upstream import read_news
from handfast_agent.watch import poll_once
from tests.agent.conftest import enrolled
from tests.peers.authority import PeerAuthority

MINUTE = timedelta(minutes=1)
NOW = ManualClock().now()
LIFE = Validity(NOW - timedelta(seconds=30), NOW + timedelta(hours=1))
SERVING = Plan().certified(Event.ENROLLED, LIFE, NOW + timedelta(minutes=30))


def order(**changes: Any) -> Order:
    given: dict[str, Any] = {
        "tainted_at": NOW,
        "window": 10 * MINUTE,
        "left": 10 * MINUTE,
        "backdate": timedelta(seconds=30),
    }
    return Order(**{**given, **changes})


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_the_moment_is_drawn_inside_of_the_window_with_room_for_another_attempt(draw: float) -> None:
    plan = hurried(SERVING, order(), NOW, draw)
    assert plan.renew_at is not None
    assert NOW <= plan.renew_at <= NOW + 9 * MINUTE


def test_the_moment_is_drawn_once_however_often_the_order_is_heard() -> None:
    """H8: a poll every few minutes repeats it."""
    first = hurried(SERVING, order(), NOW, 0.8)
    for minute in range(7):
        later = NOW + minute * MINUTE
        assert hurried(first, order(left=(10 - minute) * MINUTE), later, 0.1) is first


def test_a_certificate_that_is_newer_has_nothing_to_do() -> None:
    assert hurried(SERVING, order(tainted_at=NOW - timedelta(seconds=1)), NOW, 0.5) is SERVING


def test_a_short_certificate_is_dated_by_its_own_backdate() -> None:
    """Those that live less than five minutes begin a tenth of their life before they are issued."""
    life = Validity(NOW - timedelta(seconds=6), NOW + timedelta(seconds=53))
    plan = Plan().certified(Event.ENROLLED, life, NOW + timedelta(seconds=27))
    tainted = order(left=timedelta(seconds=10), window=timedelta(seconds=10))
    assert hurried(plan, tainted, NOW, 0.5).renew_at != plan.renew_at
    newer = order(tainted_at=NOW - timedelta(seconds=2), left=timedelta(seconds=10))
    assert hurried(plan, newer, NOW, 0.5) is plan


def test_who_comes_back_when_the_time_is_over_spreads_over_a_minute_at_most() -> None:
    """H8: an outage that ends for ten thousand agents at once is no herd at the CA's door."""
    late = hurried(SERVING, order(left=-5 * MINUTE), NOW, 1.0)
    assert late.renew_at is not None
    assert NOW < late.renew_at <= NOW + LATEST_SPREAD
    short = hurried(SERVING, order(left=timedelta(), window=timedelta(seconds=10)), NOW, 1.0)
    assert short.renew_at is not None
    assert short.renew_at <= NOW + timedelta(seconds=10)


def test_before_the_first_certificate_there_is_nothing_to_renew() -> None:
    assert hurried(Plan(), order(), NOW, 0.5) == Plan()


def test_the_end_counts_from_the_clock_of_the_ca() -> None:
    """J8: an agent whose clock is ten minutes wrong renews inside of the window all the same."""
    ca = NOW + 10 * MINUTE
    update = trust_pb2.TrustUpdate(sent_at=codec.time_to_wire(ca + MINUTE))
    update.reissue.tainted_at.CopyFrom(codec.time_to_wire(ca))
    update.reissue.renew_before.CopyFrom(codec.time_to_wire(ca + 10 * MINUTE))
    heard = read_news(update).order
    assert heard is not None
    assert (heard.left, heard.window) == (9 * MINUTE, 10 * MINUTE)


def test_an_order_without_the_clock_of_the_ca_is_none() -> None:
    """Nobody could say when it ends."""
    update = trust_pb2.TrustUpdate()
    update.reissue.tainted_at.CopyFrom(codec.time_to_wire(NOW))
    assert read_news(update).order is None


def ordered(peer: PeerAuthority, clock: ManualClock, window: timedelta = 10 * MINUTE) -> None:
    now = clock.now()
    peer.order = trust_pb2.Reissue(
        tainted_at=codec.time_to_wire(now),
        renew_before=codec.time_to_wire(now + window),
        backdate=codec.duration_to_wire(timedelta()),
    )
    peer.clock = clock


async def test_an_agent_renews_inside_of_the_window_and_once(
    config: Config, peer: PeerAuthority, clock: ManualClock
) -> None:
    """Told over the real stream; its tick is asked for at once."""
    agent = await enrolled(config, clock)
    hurry = asyncio.Event()
    agent.driver.on_hurry = hurry.set
    ordered(peer, clock)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert hurry.is_set()
    renew_at = agent.driver.plan.renew_at
    assert renew_at is not None
    assert renew_at <= clock.now() + 9 * MINUTE
    clock.advance(renew_at - clock.now() + timedelta(seconds=1))
    await agent.driver.tick()
    assert len(peer.renewals) == 1
    for _ in range(3):
        await poll_once(agent.driver, agent.upstream, agent.source)
        await agent.driver.tick()
    assert len(peer.renewals) == 1
    assert agent.look().ready


async def test_the_moment_outlives_a_restart(config: Config, peer: PeerAuthority, clock: ManualClock) -> None:
    """Drawn once: a crash in the middle of a drill draws no second time."""
    agent = await enrolled(config, clock)
    ordered(peer, clock)
    await poll_once(agent.driver, agent.upstream, agent.source)
    drawn = agent.driver.plan.renew_at
    await agent.driver.stop()
    again = type(agent)(config, clock)
    await again.driver.start()
    assert again.driver.plan.renew_at == drawn
    await poll_once(again.driver, again.upstream, again.source)
    assert again.driver.plan.renew_at == drawn


async def test_an_agent_that_was_away_learns_of_it_when_it_comes_back(
    config: Config, peer: PeerAuthority, clock: ManualClock
) -> None:
    """In the whole state, after the window too."""
    agent = await enrolled(config, clock)
    ordered(peer, clock, window=MINUTE)
    clock.advance(5 * MINUTE)
    await poll_once(agent.driver, agent.upstream, agent.source)
    clock.advance(LATEST_SPREAD)
    await agent.driver.tick()
    assert len(peer.renewals) == 1
