"""Calls and streams between services, each judged at both ends, and those that an attacker makes with old credentials."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random

from handfast.access import judge_credentials
from handfast.errors import HandfastError
from tests.sim.agent import AgentMachine
from tests.sim.ca import Call, Presented
from tests.sim.faults import Faults
from tests.sim.oracle import Oracle
from tests.sim.world import Timeline

__all__ = ["Mesh"]

METHOD = "/shop.v1.Orders/Place"
LONGEST_SLEEP = 1.0
"""``handfast.rpc.streams.LONGEST_SLEEP``."""
KEPT = 12
"""Credentials of one identity that an attacker keeps: the newest."""


@dataclass(eq=False, slots=True)
class _Stream:
    server: AgentMachine
    presented: Presented
    ended: str = ""

    def runs(self) -> bool:
        return not self.ended


class Mesh:
    """Who calls whom. Machines that are suspended neither call nor answer."""

    def __init__(
        self, machines: list[AgentMachine], oracle: Oracle, timeline: Timeline, chance: Random, faults: Faults
    ):
        self.machines = machines
        self.refused: Counter[str] = Counter()
        self._oracle = oracle
        self._timeline = timeline
        self._chance = chance
        self._faults = faults
        self._stolen: dict[str, list[Presented]] = {machine.name: [] for machine in machines}

    def note(self, machine: AgentMachine) -> None:
        """The attacker keeps whatever a machine ever served with."""
        served, kept = machine.served, self._stolen[machine.name]
        if served is not None and (not kept or kept[-1].leaf.serial != served.leaf.serial):
            kept.append(Presented.of(served))
            del kept[:-KEPT]

    # --- one call ---------------------------------------------------------------------------------------------------

    def call_somebody(self) -> None:
        """An honest call: both ends judge the other's certificate."""
        client, server = self._chance.sample(self.machines, 2)
        mine, theirs = client.served, server.served
        if mine is None or theirs is None or client.asleep:
            return
        if self.asks(client, Presented.of(theirs)):
            self.admits(server, Presented.of(mine))

    def asks(self, client: AgentMachine, server: Presented) -> bool:
        """Whether the client goes on with a server that shows this, as its tunnel decides."""
        snapshot = client.served
        if snapshot is None or client.asleep:
            return False
        verdict = judge_credentials(server.leaf, snapshot.revocations, client.clock.now(), client.freshness)
        if verdict.allowed:
            self._oracle.took(client, server.leaf, "a server's answer")
        else:
            self._refuse(client, server, verdict.reason)
        return verdict.allowed

    def admits(self, server: AgentMachine, caller: Presented) -> bool:
        """Whether the server's guard lets a call in."""
        if server.asleep:
            return False
        try:
            server.judge.admit(Call(caller), METHOD)
        except HandfastError as error:
            self._refuse(server, caller, error.reason)
            return False
        self._oracle.took(server, caller.leaf, "a call")
        return True

    def _refuse(self, who: AgentMachine, peer: Presented, reason: str) -> None:
        self.refused[reason] += 1

    # --- the attacker -----------------------------------------------------------------------------------------------

    def attack(self, victim: str = "") -> None:
        """Everything that was ever held by one machine, tried on some others in both directions."""
        name = victim or self._chance.choice(self.machines).name
        targets = self._chance.sample(self.machines, min(4, len(self.machines)))
        for presented in self._stolen[name]:
            for target in targets:
                self.admits(target, presented)
                self.asks(target, presented)

    # --- streams ----------------------------------------------------------------------------------------------------

    async def stream(self, seconds: float) -> None:
        """Opens one with a present or an old credential, and lives until it is ended or over."""
        server, client = self._chance.sample(self.machines, 2)
        if not self._stolen[client.name]:
            return
        stream = _Stream(server, self._chance.choice(self._stolen[client.name][-2:]))
        if not self.admits(server, stream.presented):
            return
        watching = asyncio.ensure_future(self._watch(stream))
        try:
            until = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < until and stream.runs():
                await asyncio.sleep(1.5)
                if stream.runs() and not server.asleep:
                    self._oracle.took(server, stream.presented.leaf, "a stream", stream=True)
        finally:
            watching.cancel()

    async def _watch(self, stream: _Stream) -> None:
        """As ``handfast.rpc.streams`` does in a thread: at every change, at the next expiry, and once a second."""
        if not self._faults.streams_are_watched:
            return
        server, stirred = stream.server, asyncio.Event()
        unsubscribe = server.service.subscribe(lambda _credentials: stirred.set())
        try:
            while True:
                stirred.clear()
                bad = server.judge.still_good(stream.presented.leaf, stream.presented.intermediates, METHOD)
                if bad is not None and not server.asleep:
                    stream.ended = bad.reason
                    self._timeline.add(
                        server.name, f"ends a stream of {stream.presented.leaf.spiffe_id.path}: {bad.reason}"
                    )
                    return
                left = stream.presented.leaf.expires_at - server.clock.now().timestamp()
                try:
                    async with asyncio.timeout(min(max(left, 0.0) + 0.001, LONGEST_SLEEP)):
                        await stirred.wait()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
