"""What changed in a list goes from the CA to the agent and from the agent to its services; the list itself is verified at each hop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from handfast.certificates import fingerprint, parse_fingerprint
from handfast.crl_change import ListStep
from handfast.identity import SpiffeId
from handfast.revocation import split_pem
from handfast.sources.socket import SocketSource
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.crls import change_to_wire
from handfast.wire.v1 import workload_pb2
from handfast.wire.v1.workload_pb2_grpc import WorkloadStub
from handfast_agent.acceptance import Wanted
from handfast_agent.config import CaAddress, Config, TrustPin
from handfast_agent.delivery import serve_socket
from handfast_agent.serve import Agent
from handfast_agent.trust import News
from handfast_agent.watch import watch_forever
from tests.peers.authority import TOKEN, PeerAuthority, running
from tests.peers.lists import step_to

HEADER = (("workload.spiffe.io", "true"),)


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority(clock=ManualClock()))) as up:
        yield up


@pytest.fixture
async def agent(peer: PeerAuthority, tmp_path: Path) -> Agent:
    """Enrolled, with a list."""
    (tmp_path / "token").write_text(TOKEN)
    ports = (peer.mtls_port, peer.enrol_port, peer.http_port)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    config = Config(
        ca=CaAddress(addresses[0], addresses[1], f"http://{addresses[2]}"),
        trust_domain=peer.authority.trust_domain,
        pin=TrustPin(parse_fingerprint(fingerprint(peer.authority.root))),
        wanted=Wanted(SpiffeId.parse("spiffe://test.example/web"), ("web.test",)),
        directory=tmp_path / "out",
        state=tmp_path / "state",
        token_file=tmp_path / "token",
    )
    made = Agent(config, peer.authority.clock)
    await made.driver.start()
    await made.driver.tick()
    assert made.look().ready
    return made


async def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def key_id(peer: PeerAuthority) -> bytes:
    return next(key for key, known in peer.authority.revocations.lists.items() if known.der == peer.authority.crl)


def revoke(peer: PeerAuthority, serial: int) -> tuple[bytes, ListStep]:
    """Revokes, and gives the step that tells of it."""
    before = peer.authority.revocations.lists[key_id(peer)]
    peer.authority.revoke(serial)
    return before.issuer_key_id, step_to(peer.authority.crl, before.number, added=1)


def known(agent: Agent, peer: PeerAuthority) -> Any:
    return agent.driver.trust.revocations.lists[key_id(peer)]


async def test_a_change_makes_the_new_list_which_is_written_and_remembered(agent: Agent, peer: PeerAuthority) -> None:
    """H6, D1: the files and the high-water mark are those of the whole list."""
    change = revoke(peer, 4711)
    assert await agent.driver.hear(News(changes=((change[0], (change[1],)),)))
    assert known(agent, peer).der == peer.authority.crl
    assert agent.driver.trust.revoked(change[0], 4711)
    assert peer.authority.crl in split_pem((agent.config.directory / "crl.pem").read_bytes())
    assert agent.driver.trust.marks.lists[change[0]].number == known(agent, peer).number


async def test_a_long_list_is_taken_beside_the_event_loop_and_nothing_that_comes_meanwhile_is_lost(
    agent: Agent, peer: PeerAuthority
) -> None:
    """H6: news that come at once are taken one after the other."""
    peer.authority.revoke_all(range(1 << 100, (1 << 100) + 3_000))
    assert await agent.driver.hear(News(crls=(peer.authority.crl,)))
    changes = [revoke(peer, serial) for serial in (1, 2, 3)]
    news = [
        News(changes=((issuer, (step,)),), announced=((issuer, 90 + at),)) for at, (issuer, step) in enumerate(changes)
    ]
    assert agent.driver.trust.is_long(news[0])
    assert await asyncio.gather(*map(agent.driver.hear, news)) == [True, True, True]
    assert known(agent, peer).der == peer.authority.crl
    assert all(agent.driver.trust.revoked(key_id(peer), serial) for serial in (1, 2, 3, 90, 91, 92, 1 << 100))
    linked = {path.stat().st_nlink for path in (agent.config.directory / "..data").resolve().glob("crl.pem")}
    await agent.driver.hear(News(announced=((key_id(peer), 99),)))
    linked |= {path.stat().st_nlink for path in (agent.config.directory / "..data").resolve().glob("crl.pem")}
    assert max(linked) > 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda step: replace(step, outline=step.outline[:-1] + bytes([step.outline[-1] ^ 1])),
        lambda step: replace(step, removed=(5,)),
        lambda step: replace(step, base_number=step.base_number + 1),
        lambda step: replace(step, outline=b"\x30\x00"),
    ],
)
async def test_a_change_that_proves_nothing_changes_nothing_and_asks_for_the_whole_list(
    agent: Agent, peer: PeerAuthority, spoil: Callable[[ListStep], ListStep]
) -> None:
    """D1, D5: what was announced beside it stays revoked all the same; nothing is ever un-revoked by it."""
    before = known(agent, peer)
    issuer, step = revoke(peer, 4711)
    news = News(changes=((issuer, (spoil(step),)),), announced=((issuer, 5),))
    assert not await agent.driver.hear(news)
    assert known(agent, peer) is before
    assert agent.driver.trust.revoked(issuer, 5)
    assert agent.driver.record.alarms == {"CRL_CHANGE_UNUSABLE": 1}


async def test_a_change_of_an_issuer_that_nobody_knows_asks_for_the_whole_list(
    agent: Agent, peer: PeerAuthority
) -> None:
    """D5, J7."""
    _, step = revoke(peer, 4711)
    assert not await agent.driver.hear(News(changes=((b"somebody else's key", (step,)),)))


async def test_a_stream_with_a_change_that_is_no_good_is_made_good_at_once(agent: Agent, peer: PeerAuthority) -> None:
    """D1: the whole list is asked for by the very agent that could not use the change; the stream goes on."""
    watching = asyncio.create_task(watch_forever(agent.driver, agent.upstream, agent.source, agent.draw))
    try:
        await eventually(lambda: peer.watchers == 1)
        issuer, step = revoke(peer, 4711)
        peer.change = change_to_wire(issuer, [replace(step, removed=(9,))])
        peer.push()
        await eventually(lambda: known(agent, peer).der == peer.authority.crl)
        assert (peer.asked_whole, peer.streams_opened) == (1, 1)
        issuer, step = revoke(peer, 4712)
        peer.change = change_to_wire(issuer, [step])
        peer.push()
        await eventually(lambda: known(agent, peer).der == peer.authority.crl)
        assert (peer.asked_whole, peer.streams_opened) == (1, 1)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@contextlib.asynccontextmanager
async def served(agent: Agent, tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "private" / "agent.sock"
    async with serve_socket(path, agent.source, lambda: agent.driver.generation, agent.look):
        yield path


async def test_a_service_is_sent_what_changed_and_one_that_does_not_say_so_everything(
    agent: Agent, peer: PeerAuthority, tmp_path: Path
) -> None:
    """H6: a list that did not change is not sent at all. A service of before still gets whole snapshots."""
    async with served(agent, tmp_path) as path, grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stub: Any = WorkloadStub(channel)
        asked = workload_pb2.WatchCredentialsRequest
        streams = [aiter(stub.WatchCredentials(asked(crl_changes=new), metadata=HEADER)) for new in (True, False)]
        first = [await anext(stream) for stream in streams]
        assert [len(message.crls) for message in first] == [2, 2]
        issuer, step = revoke(peer, 4711)
        await agent.driver.hear(News(changes=((issuer, (step,)),)))
        new, old = [await anext(stream) for stream in streams]
        assert (len(new.crls), len(new.crl_changes), len(new.kept_crls)) == (0, 1, 1)
        assert (len(old.crls), len(old.crl_changes), len(old.kept_crls)) == (2, 0, 0)
        assert {crl.der for crl in old.crls} == {one.der for one in agent.driver.trust.revocations.lists.values()}
        await agent.driver.hear(News(announced=((issuer, 77),)))
        announced = await anext(streams[0])
        assert (len(announced.crls), len(announced.crl_changes), len(announced.kept_crls)) == (0, 0, 2)
        await agent.driver.hear(News(crls=(whole_list(peer),)))
        whole = await anext(streams[0])
        assert (len(whole.crls), len(whole.crl_changes), len(whole.kept_crls)) == (1, 0, 1)


def whole_list(peer: PeerAuthority) -> bytes:
    """Two lists later: no step leads there."""
    peer.authority.revoke(4712)
    peer.authority.revoke(4713)
    return peer.authority.crl


async def test_a_service_follows_changes_whole_lists_and_a_withdrawal(
    agent: Agent, peer: PeerAuthority, tmp_path: Path
) -> None:
    """H6: the library's source has, at each moment, the very lists that the agent has."""
    async with served(agent, tmp_path) as path:
        source = await asyncio.to_thread(SocketSource, path, clock=agent.clock)
        try:

            def same() -> bool:
                ours, theirs = source.current().revocations, agent.driver.trust.revocations
                return {one.der for one in ours.lists.values()} == {one.der for one in theirs.lists.values()}

            assert same()
            issuer, step = revoke(peer, 4711)
            await agent.driver.hear(News(changes=((issuer, (step,)),)))
            await eventually(lambda: source.current().revocations.revoked(issuer, 4711))
            assert same()
            await agent.driver.hear(News(crls=(whole_list(peer),)))
            await eventually(lambda: source.current().revocations.revoked(issuer, 4713))
            assert same()
            await agent.driver.stop()
            await eventually(lambda: source._holder.peek() is None)
        finally:
            await asyncio.to_thread(source.close)
