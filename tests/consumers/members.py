"""An agent of these tests: the real one with its real files and hooks, told by the test when to renew and when to listen."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from handfast.certificates import Leaf, load_certificates
from handfast.credentials import Credentials
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.config import load
from handfast_agent.memory import Outputs
from handfast_agent.serve import Agent
from handfast_agent.storage import Directory
from handfast_agent.trust import Trust
from handfast_agent.watch import poll_once
from tests.agent.running import configuration
from tests.consumers.programs import LONGEST_WAIT
from tests.peers.authority import TOKEN, PeerAuthority

TRUST_DOMAIN = "prod.example"


class Member:
    """A workload's agent. What a program reads is in ``directory``."""

    def __init__(self, agent: Agent, peer: PeerAuthority) -> None:
        self.agent = agent
        self.peer = peer

    @classmethod
    async def enrol(cls, home: Path, peer: PeerAuthority, settings: str) -> Member:
        """``settings`` is the part of ``agent.yaml`` that a page shows: identity, directory, hooks."""
        wanted: dict[str, Any] = yaml.safe_load(settings)
        home.mkdir(exist_ok=True)
        peer.tokens[TOKEN] = wanted["identity"]
        file = configuration(home, peer, **{"trust_domain": TRUST_DOMAIN, "dns_names": ["localhost"], **wanted})
        member = cls(Agent(load(file)), peer)
        await member.agent.driver.start()
        await member.agent.driver.tick()
        assert member.agent.look().ready, member.agent.driver.last_error
        return member

    @property
    def directory(self) -> Path:
        return self.agent.config.directory

    @property
    def present(self) -> Credentials:
        present = self.agent.driver.present
        assert present is not None
        return present

    @property
    def serial(self) -> int:
        """Of the certificate that lies in the files."""
        return Leaf.of(load_certificates((self.directory / "tls.crt").read_bytes())[0]).serial

    async def rotate(self) -> int:
        """A new key and certificate, written and told by the hooks. Returns the serial."""
        before = self.serial
        self.agent.driver.demand_renewal()
        await self.agent.driver.tick()
        assert self.serial != before
        await self.told()
        return self.serial

    async def listen(self, *, told: bool = True) -> None:
        """Takes the CA's news: a new list is written and, unless a test says otherwise, told by the hooks when this returns."""
        await poll_once(self.agent.driver, self.agent.upstream, self.agent.source)
        if told:
            await self.told()

    async def told(self) -> None:
        """Returns when no hook fails any more, as the agent's schedule repeats them: a program that is busy hears later."""
        hooks = self.agent.hooks
        async with asyncio.timeout(LONGEST_WAIT):
            while hooks.failing:
                wait = await hooks.repeat()
                if hooks.failing:
                    await asyncio.sleep(wait)

    async def reload(self) -> None:
        """The hooks, as after every generation. An agent that starts runs them before its program is there."""
        await self.agent.hooks.run()
        await self.told()


def stale_files(directory: Path) -> Credentials:
    """What an agent would leave that heard nothing for a day: a valid pair, and lists that ended an hour ago.

    Returns credentials of a client of the same trust domain, valid too.
    """
    clock = ManualClock()
    clock.advance(timedelta(hours=-13))
    authority = TestAuthority(TRUST_DOMAIN, clock=clock)
    made = Directory(directory)
    made.prepare()
    server = authority.issue("/web", lifetime=timedelta(hours=24))
    trust = Trust(authority.bundle, authority.revocations)
    Outputs(made, authority.trust_domain).write(server, trust, None, 1)
    return authority.issue("/client", lifetime=timedelta(hours=24))
