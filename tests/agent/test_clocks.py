"""A whole agent whose wall clock is set, whose machine sleeps, and whose CA answers meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from handfast.certificates import Leaf
from handfast.clock import SystemClock
from handfast.testing import TestAuthority
from tests.agent.running import RunningAgent, configuration
from tests.peers.authority import PeerAuthority, running


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority())) as up:
        yield up


def under_a_false_clock(offset: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is off by what ``offset`` says, and whose monotonic clock is right."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    assert found is not None, "libfaketime is missing: tests/system-packages.sh installs it"
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_by(agent: RunningAgent, seconds: str) -> bool:
    """It noticed, and has dated its jobs anew by the clock as it is now."""
    return any(f"the clock was set by {seconds}" in message for message in agent.messages)


async def test_a_process_whose_clock_is_set_ahead_withdraws_and_set_back_restores_at_once(
    tmp_path: Path, peer: PeerAuthority
) -> None:
    """Threat J8: what was dated under the wrong clock lies a day ahead when the clock is right again."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    with RunningAgent(configuration(tmp_path, peer), under_a_false_clock(offset)) as agent:
        await asyncio.to_thread(agent.wait_until, agent.key.exists)
        first = agent.leaf()
        offset.write_text("+1d")
        await asyncio.to_thread(agent.wait_until, lambda: not agent.key.exists())
        await asyncio.to_thread(agent.wait_until, lambda: set_by(agent, "86400."))
        offset.write_text("+0")
        await asyncio.to_thread(agent.wait_until, agent.key.exists)
        assert agent.leaf() == first
        await asyncio.to_thread(agent.wait_until, lambda: set_by(agent, "-86400."))
    assert peer.enrolments == ["hft_" + "A" * 43]


async def test_a_process_that_was_stopped_past_the_end_withdraws_when_it_goes_on(
    tmp_path: Path, peer: PeerAuthority
) -> None:
    """Threat J8, 2.2: a suspended machine. It may not renew what ended, and has no token that was not used."""
    now = SystemClock().now()
    peer.lifetime, peer.window = timedelta(seconds=8), (now + timedelta(seconds=7), now + timedelta(seconds=7))
    with RunningAgent(configuration(tmp_path, peer)) as agent:
        await asyncio.to_thread(agent.wait_until, agent.key.exists)
        agent.tell(signal.SIGSTOP)
        await past(leaf_of(agent).validity.not_after)
        agent.tell(signal.SIGCONT)
        await asyncio.to_thread(agent.wait_until, lambda: not agent.key.exists())
        assert any("expired" in message for message in agent.messages)
    assert peer.renewals == []


async def test_a_process_that_was_stopped_for_a_while_renews_what_came_due_meanwhile(
    tmp_path: Path, peer: PeerAuthority
) -> None:
    """Threat J8."""
    moment = SystemClock().now() + timedelta(seconds=5)
    peer.window = (moment, moment)
    with RunningAgent(configuration(tmp_path, peer)) as agent:
        await asyncio.to_thread(agent.wait_until, agent.key.exists)
        agent.tell(signal.SIGSTOP)
        leaf = leaf_of(agent)
        await past(moment)
        assert peer.renewals == []
        peer.window = None
        agent.tell(signal.SIGCONT)
        await asyncio.to_thread(agent.wait_until, lambda: agent.leaf() != leaf)
    assert len(peer.keys) == 2


def leaf_of(agent: RunningAgent) -> Leaf:
    leaf = agent.leaf()
    assert leaf is not None
    return leaf


async def past(moment: datetime) -> None:
    while SystemClock().now() <= moment:
        await asyncio.sleep(0.05)
