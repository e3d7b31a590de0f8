"""What goes wrong, when, and what operators do: drawn from the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from handfast.certificates import format_serial
from handfast.errors import HandfastError, Unavailable
from handfast.revocation import Reason
from handfast_agent.lifecycle import State
from handfast_ca.revoker import Revoked
from tests.sim.agent import AgentMachine
from tests.sim.ca import CaMachine
from tests.sim.mesh import Mesh
from tests.sim.oracle import BOUND, POLLED, Oracle
from tests.sim.world import Timeline

__all__ = ["Operator", "Script"]

T = TypeVar("T")
NEEDY = (State.UNENROLLED, State.EXPIRED, State.REVOKED)


class Operator:
    """The one at the CA's own machine: entries, tokens, revocations. What a crash interrupts is not acknowledged."""

    def __init__(self, ca: CaMachine, oracle: Oracle, mesh: Mesh, timeline: Timeline) -> None:
        self._ca = ca
        self._oracle = oracle
        self._mesh = mesh
        self._timeline = timeline

    async def _ask(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        if not self._ca.process.alive:
            return None
        task = self._ca.process.spawn(_caught(work()))
        await asyncio.wait({task})
        answer = None if task.cancelled() else task.result()
        if isinstance(answer, HandfastError):
            self._timeline.add("operator", f"{what}: {answer.reason}")
            return None
        return answer

    async def admit(self, machine: AgentMachine) -> None:
        """An entry, if there is none, and a token."""
        authority = self._ca.authority
        name = str(machine.spiffe_id)
        await self._ask(f"entry {machine.name}", lambda: authority.add_entry(name, by="operator"))
        created = await self._ask("token", lambda: authority.create_token(machine.spiffe_id, by="operator"))
        if created is not None:
            machine.token.text = created.token.text
            self._timeline.add("operator", f"a token for {machine.name}")

    async def remove(self, machine: AgentMachine) -> None:
        self._timeline.add("operator", f"removes the entry of {machine.name}")
        await self._ask("remove", lambda: self._ca.authority.remove_entry(machine.spiffe_id, by="operator"))

    async def revoke_serial(self, machine: AgentMachine, serial: int) -> None:
        self._timeline.add("operator", f"revokes {format_serial(serial)[:12]} of {machine.name}")
        revoke = self._ca.authority.revoke_serial
        self._done(machine, await self._ask("revoke", lambda: revoke(serial, Reason.UNSPECIFIED, by="operator")))

    async def revoke_identity(self, machine: AgentMachine, reason: Reason) -> None:
        self._timeline.add("operator", f"revokes {machine.name}: {reason}")
        revoke = self._ca.authority.revoke_identity
        self._done(machine, await self._ask("revoke", lambda: revoke(machine.spiffe_id, reason, by="operator")))

    def _done(self, machine: AgentMachine, revoked: Revoked | None) -> None:
        if revoked is None:
            return
        serials = [format_serial(serial)[:12] for serial in revoked.serials]
        self._timeline.add("operator", f"revoked with CRL {revoked.crl_number}: {', '.join(serials) or 'nothing'}")
        self._oracle.acknowledged(revoked.serials, self._ca.authority.issuer.key_id)
        loop = asyncio.get_running_loop()
        for seconds in (BOUND + 0.01, BOUND + 5.0, POLLED + 0.01):
            loop.call_later(seconds, self._mesh.attack, machine.name)

    async def tend(self, machines: list[AgentMachine], patience: float) -> None:
        """Brings back who has no certificate, after a while."""
        while True:
            await asyncio.sleep(patience)
            for machine in machines:
                if machine.running and machine.driver.plan.state in NEEDY:
                    await self.admit(machine)


async def _caught(work: Coroutine[Any, Any, T]) -> T | HandfastError:
    try:
        return await work
    except HandfastError as error:
        return error


class Script:
    """One event after another; each undoes itself after a while."""

    def __init__(
        self,
        machines: list[AgentMachine],
        ca: CaMachine,
        operator: Operator,
        mesh: Mesh,
        timeline: Timeline,
        chance: Random,
    ) -> None:
        self._machines = machines
        self._ca = ca
        self._operator = operator
        self._mesh = mesh
        self._timeline = timeline
        self._chance = chance
        self._life = ca.profile.longest.total_seconds()
        self._running: dict[asyncio.Task[None], None] = {}
        self._events: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (5, self._revoke_serial),
            (5, self._revoke_identity),
            (2, self._remove_entry),
            (5, self._part),
            (1, self._part_everybody),
            (4, self._lose),
            (2, self._double),
            (3, self._slow_reader),
            (3, self._stall),
            (2, self._reset),
            (3, self._kill_agent),
            (3, self._suspend),
            (3, self._set_clock),
            (2, self._crash_ca),
            (1, self._long_outage),
            (1, self._set_ca_clock),
            (3, self._renew_now),
        ]

    async def run(self, seconds: float, gap: float) -> None:
        """Ends when everything that was begun has ended."""
        until = asyncio.get_running_loop().time() + seconds
        weights = [weight for weight, _ in self._events]
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self._chance.expovariate(1 / gap))
            event = self._chance.choices(self._events, weights)[0][1]
            task = asyncio.ensure_future(event())
            self._running[task] = None
        await asyncio.gather(*self._running)

    def _one(self) -> AgentMachine:
        return self._chance.choice(self._machines)

    def _some(self) -> list[AgentMachine]:
        return self._chance.sample(self._machines, self._chance.randint(1, max(1, len(self._machines) // 3)))

    async def _pause(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self._chance.uniform(shortest, longest))

    # --- operators --------------------------------------------------------------------------------------------------

    async def _revoke_serial(self) -> None:
        machine = self._one()
        if machine.served is not None:
            await self._operator.revoke_serial(machine, machine.served.leaf.serial)

    async def _revoke_identity(self) -> None:
        """Perhaps in the very moment of a renewal (threat C4)."""
        machine = self._one()
        if machine.running and self._chance.random() < 0.5:
            machine.driver.demand_renewal()
            await self._pause(0.0, 15.5)
        reason = self._chance.choice([Reason.UNSPECIFIED, Reason.KEY_COMPROMISE])
        await self._operator.revoke_identity(machine, reason)

    async def _remove_entry(self) -> None:
        machine = self._one()
        await self._operator.remove(machine)
        await self._pause(5, self._life)
        await self._operator.admit(machine)

    async def _renew_now(self) -> None:
        for machine in self._some():
            if machine.running:
                machine.driver.demand_renewal()

    # --- the network ------------------------------------------------------------------------------------------------

    async def _part(self) -> None:
        await self._part_from(self._some(), self._chance.choice([5.0, 30.0, self._life * 0.8]))

    async def _part_everybody(self) -> None:
        await self._part_from(self._machines, 60.0)

    async def _part_from(self, machines: list[AgentMachine], longest: float) -> None:
        names = "everybody" if machines is self._machines else ", ".join(machine.name for machine in machines)
        self._timeline.add("network", f"parts {names} from the CA")
        for machine in machines:
            machine.link.part()
        await self._pause(0.5, longest)
        self._timeline.add("network", f"is whole again for {names}")
        for machine in machines:
            machine.link.heal()

    async def _lose(self) -> None:
        machine, share = self._one(), self._chance.uniform(0.1, 0.7)
        self._timeline.add("network", f"loses {share:.0%} of what {machine.name} says and hears")
        machine.link.loss = share
        await self._pause(10, 90)
        machine.link.loss = 0.0

    async def _double(self) -> None:
        machine = self._one()
        machine.link.doubling = 0.8
        if machine.running:
            machine.driver.demand_renewal()
        await self._pause(20, 60)
        machine.link.doubling = 0.0

    async def _slow_reader(self) -> None:
        machine, slowness = self._one(), self._chance.uniform(1, 8)
        self._timeline.add("network", f"{machine.name} reads slowly: {slowness:.1f} s a message")
        machine.link.trouble.begin()
        machine.link.slowness = slowness
        await self._pause(10, 60)
        machine.link.slowness = 0.0
        machine.link.trouble.end()

    async def _stall(self) -> None:
        machine = self._one()
        self._timeline.add("network", f"a proxy stalls the streams of {machine.name}")
        pipes = machine.link.stall()
        await self._pause(1, 15)
        await self._revoke_serial()
        await asyncio.sleep(POLLED + 5)
        for pipe in pipes:
            pipe.cut(Unavailable("the proxy gave up"))

    async def _reset(self) -> None:
        for machine in self._some():
            machine.link.reset()

    # --- machines ---------------------------------------------------------------------------------------------------

    async def _kill_agent(self) -> None:
        machine = self._one()
        if machine.running:
            machine.kill()
            await self._pause(0.1, 60)
            machine.boot()

    async def _suspend(self) -> None:
        machine = self._one()
        if machine.running and not machine.asleep:
            machine.sleep()
            await self._pause(5, self._life * 0.7)
            machine.wake()

    async def _set_clock(self) -> None:
        """Threat J8."""
        machine = self._one()
        if abs(machine.clock.offset) > 1:
            return
        right, wrong = machine.clock.offset, self._chance.choice([-3600.0, -120.0, -40.0, 8.0, 90.0, 3600.0])
        machine.trouble.begin()
        machine.clock.set(right + wrong)
        self._timeline.add(machine.name, f"the clock is set: {wrong:+.0f} s")
        await self._pause(10, 120)
        machine.clock.set(right)
        self._timeline.add(machine.name, "the clock is right again")
        await asyncio.sleep(POLLED)  # a list that seemed to be of the future is asked for at the next poll
        machine.trouble.end()

    async def _crash_ca(self) -> None:
        await self._ca_down(0.1, 30)

    async def _long_outage(self) -> None:
        await self._ca_down(0.4 * self._life, 0.7 * self._life)

    async def _ca_down(self, shortest: float, longest: float) -> None:
        if self._ca.serving:
            self._ca.crash()
            await self._pause(shortest, longest)
            await self._ca.start()

    async def _set_ca_clock(self) -> None:
        """Threat J8: within what it bears, or so far back that it signs nothing."""
        if self._ca.clock.offset or not self._ca.serving:
            return
        self._ca.trouble.begin()
        self._ca.step_clock(self._chance.choice([-300.0, -90.0, -20.0, 4.0]))
        await self._pause(5, 60)
        self._ca.step_clock(0.0)
        await asyncio.sleep(POLLED)
        self._ca.trouble.end()
