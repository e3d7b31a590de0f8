"""An agent in this process beside a peer that answers over real TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handfast.certificates import fingerprint, parse_fingerprint
from handfast.identity import SpiffeId
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.acceptance import Wanted
from handfast_agent.config import CaAddress, Config, TrustPin
from handfast_agent.serve import Agent
from tests.peers.authority import TOKEN, PeerAuthority, running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def peer(clock: ManualClock) -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority(clock=clock))) as up:
        yield up


@pytest.fixture
def config(tmp_path: Path, peer: PeerAuthority) -> Config:
    (tmp_path / "token").write_text(TOKEN)
    return Config(
        ca=CaAddress(
            f"127.0.0.1:{peer.mtls_port}", f"127.0.0.1:{peer.enrol_port}", f"http://127.0.0.1:{peer.http_port}"
        ),
        trust_domain=peer.authority.trust_domain,
        pin=TrustPin(parse_fingerprint(fingerprint(peer.authority.root))),
        wanted=Wanted(SpiffeId.parse("spiffe://test.example/web")),
        directory=tmp_path / "out",
        state=tmp_path / "state",
        token_file=tmp_path / "token",
    )


async def enrolled(config: Config, clock: ManualClock) -> Agent:
    agent = Agent(config, clock)
    await agent.driver.start()
    await agent.driver.tick()
    return agent
