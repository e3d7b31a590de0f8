"""The watch of trust over a change of certificates: one stream ends when the next has begun, and no news fall between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from handfast.errors import Unavailable
from handfast.testing import ManualClock
from handfast_agent.config import Config
from handfast_agent.serve import Agent
from handfast_agent.watch import watch_forever
from tests.agent.conftest import enrolled
from tests.peers.authority import PeerAuthority

LONGEST = 60.0


@pytest.fixture
async def agent(config: Config, clock: ManualClock) -> Agent:
    return await enrolled(config, clock)


async def until(true: Callable[[], bool], said: Callable[[], object]) -> None:
    """Nobody tells of what is looked at here. Raises with what there is after a minute."""
    try:
        async with asyncio.timeout(LONGEST):
            while not true():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not come: {said()}") from None


@asynccontextmanager
async def watching(agent: Agent, peer: PeerAuthority, draw: float = 1.0) -> AsyncIterator[None]:
    """With one stream open. ``draw`` 1.0: whoever waits before a connection waits as long as it may."""
    task = asyncio.create_task(watch_forever(agent.driver, agent.upstream, agent.source, lambda: draw))
    try:
        await until(lambda: agent.driver.record.connected, lambda: agent.driver.record)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def renew(agent: Agent) -> None:
    before = agent.source.current().leaf
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.source.current().leaf != before


async def told(agent: Agent, peer: PeerAuthority, serial: int) -> None:
    """It is announced, and the agent's readers have it."""
    issuer = agent.source.current().leaf.issuer_key_id
    peer.announced = (*peer.announced, (issuer, serial))
    peer.push()
    await until(
        lambda: agent.source.current().revocations.revoked(issuer, serial),
        lambda: (peer.streams_opened, peer.watchers, agent.driver.record),
    )


async def test_a_revocation_in_the_moment_of_the_change_comes_over_the_stream_before(
    agent: Agent, peer: PeerAuthority
) -> None:
    """C6: the next stream is open and has said nothing yet; nobody waits for it."""
    async with watching(agent, peer):
        peer.hold = asyncio.Event()
        await renew(agent)
        await until(lambda: peer.watchers == 2, lambda: peer.watchers)
        await told(agent, peer, 4711)
        assert not peer.hold.is_set()
        peer.hold.set()
        await until(lambda: peer.watchers == 1, lambda: peer.watchers)
        await told(agent, peer, 4712)
        assert peer.streams_opened == 2
        assert agent.driver.record.connected


async def test_a_stream_that_ends_with_its_certificate_is_missed_by_nobody(agent: Agent, peer: PeerAuthority) -> None:
    """C6: what is revoked after its end comes with the state that the next one begins with, without a pause between."""
    async with watching(agent, peer):
        peer.hold = asyncio.Event()
        await renew(agent)
        await until(lambda: peer.watchers == 2, lambda: peer.watchers)
        peer.hang_up()
        await until(lambda: peer.watchers == 1, lambda: peer.watchers)
        issuer = agent.source.current().leaf.issuer_key_id
        peer.announced = ((issuer, 4711),)
        peer.hold.set()
        await until(
            lambda: agent.source.current().revocations.revoked(issuer, 4711),
            lambda: (peer.streams_opened, peer.watchers),
        )
        assert peer.streams_opened == 2
        await told(agent, peer, 4712)


async def test_while_the_next_stream_is_refused_the_one_before_goes_on(agent: Agent, peer: PeerAuthority) -> None:
    """C6."""
    async with watching(agent, peer, draw=0.0):
        peer.turned_away = Unavailable("not now", reason="NOT_NOW")
        await renew(agent)
        await told(agent, peer, 4711)
        assert (peer.streams_opened, peer.watchers) == (1, 1)
        assert agent.driver.record.connected
        peer.turned_away = None
        await until(
            lambda: (peer.streams_opened, peer.watchers) == (2, 1), lambda: (peer.streams_opened, peer.watchers)
        )
        await told(agent, peer, 4712)


async def test_what_a_watch_brings_is_written_soon_and_an_announcement_with_its_list(
    agent: Agent, peer: PeerAuthority
) -> None:
    """C6: the readers of the socket have it before; the files follow by themselves, as one generation."""
    async with watching(agent, peer):
        await told(agent, peer, 4711)
        issuer = agent.source.current().leaf.issuer_key_id
        peer.authority.revoke(4711)
        peer.push()

        def written() -> bytes:
            files = agent.driver._outputs.read(agent.clock.now(), agent.driver.trust.marks)
            return files.trust.revocations.lists[issuer].der

        newest = peer.authority.crl
        await until(lambda: written() == newest, lambda: agent.driver.record)
        assert agent.source.current().revocations.lists[issuer].der == newest


async def test_an_agent_that_is_stopped_writes_what_it_was_told_before(agent: Agent, peer: PeerAuthority) -> None:
    """C6: a moment behind is not lost."""
    async with watching(agent, peer):
        await told(agent, peer, 4711)
        key = (agent.source.current().leaf.issuer_key_id, 4711)
    await agent.driver.stop()
    files = agent.driver._outputs.read(agent.clock.now(), agent.driver.trust.marks)
    assert files.trust.revoked(*key)
