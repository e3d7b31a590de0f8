"""Agents of a CA that runs in the same process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from handfast_agent.acceptance import Wanted
from handfast_agent.config import CaAddress, Config, TrustPin
from handfast_agent.schedule import Schedule
from handfast_agent.serve import Agent
from handfast_agent.watch import watch_forever
from tests.ca_edges.running import RunningCa

__all__ = ["Mesh"]


class Mesh:
    """Agents of one CA in this process, each with the schedule and the stream that `handfast agent run` has."""

    def __init__(self, ca: RunningCa, directory: Path) -> None:
        self.ca = ca
        self.agents: list[Agent] = []
        self._directory = directory
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}

    async def join(self, name: str) -> Agent:
        entry = await self.ca.authority.add_entry(f"spiffe://test.example/{name}", by="admin", dns_names=["localhost"])
        token = await self.ca.authority.create_token(entry.spiffe_id, by="admin")
        home = self._directory / name
        home.mkdir()
        (home / "token").write_text(token.token.text)
        address, enrol = (where.replace("localhost", "127.0.0.1") for where in (self.ca.address, self.ca.enrol_address))
        config = Config(
            ca=CaAddress(address, enrol, "http://127.0.0.1:1"),
            trust_domain=entry.spiffe_id.trust_domain,
            pin=TrustPin(None, self._root()),
            wanted=Wanted(entry.spiffe_id, ("localhost",)),
            directory=home / "out",
            state=home / "state",
            token_file=home / "token",
        )
        agent = Agent(config)
        await agent.driver.start()
        await agent.driver.tick()
        assert agent.driver.record.last_failure == ""
        self.agents.append(agent)
        self.connect(agent)
        return agent

    def _root(self) -> Path:
        file = self._directory / "root.pem"
        file.write_bytes(self.ca.authority.trust().bundle.roots_pem)
        return file

    def connect(self, agent: Agent) -> None:
        schedule = Schedule({"rotation": agent.driver.tick}, agent.clock)
        agent.driver.on_hurry = lambda: schedule.run_now("rotation")
        watching = watch_forever(agent.driver, agent.upstream, agent.source, agent.draw)
        self._tasks[id(agent)] = [asyncio.create_task(schedule.run()), asyncio.create_task(watching)]

    def disconnect(self, agent: Agent) -> None:
        """As if the network between it and the CA were gone."""
        for task in self._tasks.pop(id(agent)):
            task.cancel()

    async def close(self) -> None:
        tasks = [task for own in self._tasks.values() for task in own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for agent in self.agents:
            await agent.driver.stop()
