"""The agent's Unix socket: one snapshot, for its owner alone, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import grpc
import grpc.aio
import pytest

from handfast.errors import Refused
from handfast.keys import matches
from handfast.testing import ManualClock
from handfast.wire import codec
from handfast.wire.v1 import workload_pb2
from handfast.wire.v1.workload_pb2_grpc import WorkloadStub
from handfast_agent.config import Config
from handfast_agent.delivery import serve_socket
from handfast_agent.serve import Agent
from tests.agent.conftest import enrolled
from tests.peers.authority import PeerAuthority

HEADER = (("workload.spiffe.io", "true"),)


async def test_the_socket_gives_key_chain_bundle_and_revocations_of_one_moment(
    config: Config, peer: PeerAuthority, clock: ManualClock, tmp_path: Path
) -> None:
    agent = await enrolled(config, clock)
    path = tmp_path / "private" / "s"
    async with (
        serve_socket(path, agent.source, lambda: agent.driver.generation, agent.look),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        stream = WorkloadStub(channel).WatchCredentials(workload_pb2.WatchCredentialsRequest(), metadata=HEADER)
        for _ in range(3):
            snapshot = codec.snapshot_from_wire(await stream.read(), now=clock.now())
            assert snapshot is not None
            assert matches(snapshot.key, snapshot.leaf.certificate.public_key())
            assert snapshot.leaf == agent.source.current().leaf
            assert snapshot.revocations.lists.keys() == agent.driver.trust.revocations.lists.keys()
            agent.driver.demand_renewal()
            await agent.driver.tick()
        stream.cancel()


async def test_ten_thousand_connections_leave_no_descriptor_behind(
    config: Config, clock: ManualClock, tmp_path: Path
) -> None:
    """Threat E10."""
    agent = await enrolled(config, clock)
    path = tmp_path / "private" / "s"
    async with serve_socket(path, agent.source, lambda: agent.driver.generation, agent.look):
        await connect(path, 200)
        before = await settled_descriptors(most=10_000)
        await connect(path, 10_000)
        assert await settled_descriptors(most=before + 5) <= before + 5


@pytest.mark.parametrize("planted", ["file", "link"])
async def test_a_socket_is_never_bound_over_what_somebody_put_there(
    config: Config, clock: ManualClock, tmp_path: Path, planted: str
) -> None:
    """Threat E8."""
    agent = await enrolled(config, clock)
    victim, path = tmp_path / "victim", tmp_path / "private" / "s"
    victim.write_text("untouched")
    path.parent.mkdir(mode=0o700)
    if planted == "file":
        path.write_text("untouched")
    else:
        path.symlink_to(victim)
    with pytest.raises(Refused) as refused:
        async with serve_socket(path, agent.source, lambda: 0, agent.look):
            raise AssertionError("served")
    assert refused.value.reason == "SOCKET_IN_USE"
    assert path.read_text() == "untouched"


async def test_a_socket_that_somebody_serves_is_left_to_him(config: Config, clock: ManualClock, tmp_path: Path) -> None:
    """Threat E8: gRPC would take its place without a word. One that was left behind is taken."""
    agent = await enrolled(config, clock)
    path = tmp_path / "private" / "s"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(os.fspath(path))
        first.listen()
        before = path.stat().st_ino
        with pytest.raises(Refused) as refused:
            async with serve_socket(path, agent.source, lambda: 0, agent.look):
                raise AssertionError("served")
        assert (refused.value.reason, path.stat().st_ino) == ("SOCKET_IN_USE", before)
    async with serve_socket(path, agent.source, lambda: 0, agent.look):
        await connect(path, 1)


async def test_another_user_cannot_reach_the_socket(config: Config, clock: ManualClock) -> None:
    """Threat E8: its directory lets nobody but their owner in. Only root can ask as somebody else, and does so here."""
    agent = await enrolled(config, clock)
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        path = Path(public) / "private" / "s"
        async with serve_socket(path, agent.source, lambda: 0, agent.look):
            assert path.parent.stat().st_mode & 0o077 == 0
            assert path.stat().st_mode & 0o177 == 0
            if os.geteuid() == 0:
                seen = [subprocess.run(["test", "-e", one], user=65534).returncode == 0 for one in (public, path)]
                assert seen == [True, False]


async def connect(path: Path, times: int) -> None:
    for number in range(times):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(os.fspath(path))
        if number % 50 == 0:
            await asyncio.sleep(0)


async def settled_descriptors(most: int) -> int:
    """Open descriptors of this process, which gRPC closes a moment after their peers have gone."""
    last = -1
    async with asyncio.timeout(30):
        while (now := len(os.listdir("/proc/self/fd"))) != last or now > most:
            last = now
            await asyncio.sleep(0.2)
    return now


async def test_a_socket_directory_that_is_a_link_is_refused(config: Config, clock: ManualClock, tmp_path: Path) -> None:
    """Threat E8: who made the link chooses where the key can be had."""
    agent = Agent(config, clock)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(Refused) as refused:
        async with serve_socket(tmp_path / "link" / "s", agent.source, lambda: 0, agent.look):
            pass
    assert refused.value.reason == "UNSAFE_DIRECTORY"
    assert list((tmp_path / "real").iterdir()) == []
