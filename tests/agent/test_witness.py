"""What an agent tells the CA of what the CA once published, over a real connection (threat J9)."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta

from handfast.certificates import subject_key_id
from handfast.testing import ManualClock
from handfast_agent.config import Config
from handfast_agent.serve import Agent
from handfast_agent.trust import ListMark, Trust
from handfast_agent.watch import poll_once
from handfast_agent.witness import PART_BYTES, checkpoint, parts
from tests.agent.conftest import enrolled
from tests.peers.authority import PeerAuthority


def issuer_of(peer: PeerAuthority) -> bytes:
    return subject_key_id(peer.authority.issuer) or b""


async def connected(agent: Agent) -> None:
    """As the trust stream does, up to its first message."""
    assert agent.driver.present is not None
    async with aclosing(agent.upstream.watch_trust(agent.driver.present, agent.driver.trust)) as news:
        await anext(news)


async def test_it_offers_its_newest_list_and_sends_it_when_it_is_asked(
    peer: PeerAuthority, config: Config, clock: ManualClock
) -> None:
    """J9: at every connection of the stream, and at every poll."""
    agent = await enrolled(config, clock)
    issuer = issuer_of(peer)
    known = agent.driver.trust.revocations.lists[issuer]
    await connected(agent)
    said = {one.issuer_key_id: one for one in peer.checkpoints[-1].lists}[issuer]
    assert int.from_bytes(said.number, "big") == known.number
    assert (said.sha256, said.held) == (hashlib.sha256(known.der).digest(), True)
    assert peer.checkpoints[-1].bundle_sequence == peer.authority.bundle.sequence
    assert peer.offered == []
    peer.wants_lists = True
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert known.der in peer.offered


async def test_it_keeps_to_what_it_knows_and_still_tells_a_ca_that_went_back(
    peer: PeerAuthority, config: Config, clock: ManualClock
) -> None:
    """J9, R7, D1: the older list is refused and alarmed, and the newer one offered."""
    agent = await enrolled(config, clock)
    older = peer.authority.revocations.lists[issuer_of(peer)].der
    clock.advance(timedelta(minutes=1))
    peer.authority.revoke(4711)
    await poll_once(agent.driver, agent.upstream, agent.source)
    newest = agent.driver.trust.revocations.lists[issuer_of(peer)]
    peer.old_list, peer.wants_lists = older, True
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert agent.driver.record.alarms["CRL_ROLLBACK"] == 1
    assert newest.der in peer.offered
    assert agent.driver.trust.revoked(issuer_of(peer), 4711)


def test_a_mark_whose_list_is_gone_is_said_and_not_promised() -> None:
    """J9."""
    trust = Trust()
    mark = ListMark(7, ManualClock().now(), hashlib.sha256(b"gone").hexdigest())
    trust = replace(trust, marks=replace(trust.marks, lists={b"issuer": mark}))
    (one,) = checkpoint(trust).lists
    assert (one.held, int.from_bytes(one.number, "big")) == (False, 7)
    many = replace(trust, marks=replace(trust.marks, lists={bytes([key]): mark for key in range(20)}))
    assert len(checkpoint(many).lists) == 8


def test_a_list_is_sent_in_parts_that_fit_into_a_message() -> None:
    """J9."""
    octets = bytes(range(256)) * 1000
    sent = [part.der for part in parts(octets)]
    assert b"".join(sent) == octets
    assert max(map(len, sent)) <= PART_BYTES
