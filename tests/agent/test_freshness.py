"""What an agent says about the age of its revocation list: in its readiness, its metrics, its status and its log."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.certificates import fingerprint, parse_fingerprint
from handfast.identity import SpiffeId
from handfast.revocation import EMPTY, Freshness
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.acceptance import Wanted
from handfast_agent.config import CaAddress, Config, TrustPin
from handfast_agent.freshness import FreshnessAlarm
from handfast_agent.health import serve_health
from handfast_agent.serve import Agent
from handfast_agent.trust import News
from tests.peers.authority import TOKEN, PeerAuthority, running

HOUR = timedelta(hours=1)


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    authority = TestAuthority(clock=ManualClock(), list_validity=12 * HOUR)
    async with running(PeerAuthority(authority)) as up:
        up.lifetime = 24 * HOUR
        yield up


@pytest.fixture
async def agent(peer: PeerAuthority, tmp_path: Path) -> Agent:
    (tmp_path / "token").write_text(TOKEN)
    mtls, enrol, http = (f"127.0.0.1:{port}" for port in (peer.mtls_port, peer.enrol_port, peer.http_port))
    clock = ManualClock(peer.authority.clock.now())
    made = Agent(
        Config(
            ca=CaAddress(mtls, enrol, f"http://{http}"),
            trust_domain=peer.authority.trust_domain,
            pin=TrustPin(parse_fingerprint(fingerprint(peer.authority.root))),
            wanted=Wanted(SpiffeId.parse("spiffe://test.example/web"), ("web.test",)),
            directory=tmp_path / "out",
            state=tmp_path / "state",
            token_file=tmp_path / "token",
        ),
        clock,
    )
    await made.driver.start()
    await made.driver.tick()
    return made


def advance(agent: Agent, by: timedelta) -> None:
    assert isinstance(agent.clock, ManualClock)
    agent.clock.advance(by)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_readiness_metrics_and_log_follow_the_list_from_fresh_to_expired_and_back(
    agent: Agent, peer: PeerAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """D2: STALE is ready with an alarm, EXPIRED is not ready; each is said once."""
    alarm = FreshnessAlarm(agent.look, agent.driver.record)
    with serve_health("127.0.0.1", 0, agent.look, dict) as port:
        for passed, state, ready in (
            (timedelta(), Freshness.FRESH, True),
            (3 * HOUR, Freshness.STALE, True),
            (9 * HOUR, Freshness.EXPIRED, False),
        ):
            advance(agent, passed)
            for _ in range(3):
                await alarm.step()
            status, body = get(port, "/readyz")
            assert (status, json.loads(body)["freshness"]) == (200 if ready else 503, state.value)
            lines = get(port, "/metrics")[1].splitlines()
            shown = {line for line in lines if line.startswith("handfast_agent_freshness{")}
            assert shown == {f'handfast_agent_freshness{{state="{one}"}} {float(one is state)}' for one in Freshness}
        assert agent.driver.record.alarms == {"CRL_STALE": 1, "CRL_EXPIRED": 1}
        assert isinstance(peer.authority.clock, ManualClock)
        peer.authority.clock.advance(12 * HOUR)
        peer.authority.refresh_list()
        await agent.driver.hear(News(crls=(peer.authority.crl,)))
        await alarm.step()
        assert get(port, "/readyz")[0] == 200
    said = [record.levelname for record in caplog.records if "revocation list" in record.message]
    assert said[:2] == ["WARNING", "ERROR"]


async def test_an_agent_without_a_list_is_not_ready(agent: Agent) -> None:
    """D6: fail closed until the first valid list."""
    assert agent.look().ready
    agent.driver.trust = replace(agent.driver.trust, revocations=EMPTY)
    await FreshnessAlarm(agent.look, agent.driver.record).step()
    now = agent.look()
    assert (now.freshness, now.ready) == (Freshness.UNKNOWN, False)
    assert agent.driver.record.alarms == {"CRL_UNKNOWN": 1}
