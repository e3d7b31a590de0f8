"""What an agent remembers of what it has seen, and what it never sends: also when somebody helped it to forget."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Broken, Invalid
from handfast.identity import SpiffeId
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.config import Config
from handfast_agent.lifecycle import State
from handfast_agent.memory import Memory, Outputs, Remembered
from handfast_agent.proofs.join_token import JoinToken
from handfast_agent.serve import Agent
from handfast_agent.storage import Directory
from handfast_agent.trust import News, Trust
from tests.agent.conftest import enrolled

CLOCK = ManualClock()


def seen() -> Trust:
    authority = TestAuthority(clock=CLOCK)
    trust, alarms = Trust().accept(News(authority.bundle, (authority.crl,)), CLOCK.now())
    assert alarms == ()
    return trust


def begun(place: Path) -> Memory:
    memory = Memory(place / "state")
    assert memory.load() == Remembered()
    return memory


def test_what_was_seen_is_known_after_a_restart_that_finds_no_files(tmp_path: Path) -> None:
    """D1, D11: the marks are kept apart from the lists and the bundle."""
    trust = seen()
    begun(tmp_path).save(Remembered(trust.marks, 7, "digest"))
    assert Memory(tmp_path / "state").load() == Remembered(trust.marks, 7, "digest")


def test_a_damaged_memory_is_no_fresh_start(tmp_path: Path) -> None:
    """D1: who could empty it could play back an older list."""
    begun(tmp_path).save(Remembered(seen().marks))
    (tmp_path / "state" / "state.json").write_text("{}")
    with pytest.raises(Broken) as refused:
        Memory(tmp_path / "state").load()
    assert refused.value.reason == "STATE_DAMAGED"


def test_the_memory_is_for_its_owner(tmp_path: Path) -> None:
    """E1: the digest of a token stands in it."""
    begun(tmp_path).save(Remembered())
    assert (tmp_path / "state" / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_secret_of_another_kind_in_the_token_file_is_not_sent(tmp_path: Path) -> None:
    """B2: nor repeated."""
    (tmp_path / "token").write_text("correct horse battery staple")
    with pytest.raises(Invalid) as refused:
        JoinToken(tmp_path / "token").read()
    assert refused.value.reason == "TOKEN_MALFORMED"
    assert "horse" not in refused.value.message + refused.value.hint


async def test_files_of_another_identity_are_not_served(config: Config, clock: ManualClock) -> None:
    """A3: a directory that was used for somebody else."""
    await enrolled(config, clock)
    other = replace(config.wanted, spiffe_id=SpiffeId.parse("spiffe://test.example/db"))
    agent = Agent(replace(config, wanted=other), clock)
    await agent.driver.start()
    assert agent.source.peek() is None
    assert agent.look().state is State.UNENROLLED


async def test_an_expired_certificate_is_not_served_for_a_moment_at_the_start(
    config: Config, clock: ManualClock
) -> None:
    """C2: not even before the first step."""
    await enrolled(config, clock)
    clock.advance(timedelta(hours=2))
    again = Agent(config, clock)
    await again.driver.start()
    assert again.source.peek() is None
    assert again.look().state is State.EXPIRED
    assert not (config.directory / "tls.key").exists()


async def test_an_agent_that_finds_its_certificate_revoked_at_the_start_does_not_serve_it(
    config: Config, clock: ManualClock
) -> None:
    """C1: the process ended after it had heard of it, and before it took its files away."""
    agent = await enrolled(config, clock)
    present = agent.driver.present
    assert present is not None
    own = (present.leaf.issuer_key_id, present.leaf.serial)
    trust, _ = agent.driver.trust.accept(News(announced=(own,)), clock.now())
    outputs = Outputs(Directory(config.directory), config.trust_domain)
    outputs.write(present, trust, agent.driver.plan.renew_at, agent.driver.generation + 1)
    again = Agent(config, clock)
    await again.driver.start()
    assert again.source.peek() is None
    assert again.look().state is State.REVOKED
    assert not (config.directory / "tls.key").exists()
