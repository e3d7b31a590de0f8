"""One run: a seed, and everything that follows from it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from handfast_agent.condition import condition
from handfast_ca.profile import Profile
from tests.sim.agent import AgentMachine
from tests.sim.ca import CaMachine
from tests.sim.faults import FAULTS, Faults
from tests.sim.loop import VirtualLoop
from tests.sim.mesh import Mesh
from tests.sim.oracle import Oracle, Violation
from tests.sim.script import Operator, Script
from tests.sim.world import Chance, Timeline

__all__ = ["Outcome", "Size", "simulate"]

NO_FAULTS = Faults()
AT_REST = 110.0
"""Seconds in which everybody is back once all is right: a minute of backoff, a tick, a poll."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is. ``lives``: how many leaf lifetimes it lasts; ``gap``: seconds between two events, on average."""

    agents: int
    lives: float
    gap: float

    def __str__(self) -> str:
        return f"{self.agents},{self.lives},{self.gap}"

    @classmethod
    def parse(cls, text: str) -> Size:
        agents, lives, gap = text.split(",")
        return cls(int(agents), float(lives), float(gap))

    @classmethod
    def of(cls, seed: int) -> Size:
        """A hundred agents in one run of two hundred, a dozen in one of twenty, a few in all others."""
        if seed % 200 == 199:
            return cls(100, 0.9, 6.0)
        return cls(12, 0.7, 6.0) if seed % 20 == 9 else cls(3 + seed % 2, 0.7, 7.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. ``broken`` is empty when every promise held."""

    seed: int
    size: Size
    faults: Faults
    broken: str
    timeline: tuple[str, ...]
    accepted: int
    refused: Counter[str]
    alarms: Counter[str]
    certificates: int
    revocations: int
    seconds: float

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.timeline).encode()).hexdigest()

    def story(self, last: int = 0) -> str:
        """For people: the timeline (its last lines, when there is a limit), what broke, and how to see it again."""
        lines = list(self.timeline[-last:] if last else self.timeline)
        if last and len(self.timeline) > last:
            lines.insert(0, f"... {len(self.timeline) - last} lines before")
        return "\n".join([*lines, f"seed {self.seed}: {self.broken}", f"again: {self.command}"])

    @property
    def command(self) -> str:
        """Repeats exactly this run."""
        fault = next((f" --fault {name}" for name, faults in FAULTS.items() if faults == self.faults), "")
        size = "" if self.size == Size.of(self.seed) else f" --size {self.size}"
        return f"python -m tests.sim {self.seed}{size}{fault}"


def simulate(seed: int, *, size: Size | None = None, faults: Faults = NO_FAULTS, logs: bool = False) -> Outcome:
    """Runs a seed. Two runs of it tell the same story, line by line. Without ``logs`` the parts log nothing meanwhile."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    before = logging.root.manager.disable
    logging.disable(before if logs else logging.CRITICAL)
    try:
        run = _Run(loop, seed, size or Size.of(seed), faults)
        return loop.run_until_complete(run.whole())
    finally:
        logging.disable(before)
        asyncio.set_event_loop(None)
        loop.close()


class _Run:
    def __init__(self, loop: VirtualLoop, seed: int, size: Size, faults: Faults) -> None:
        chance = Chance(seed)
        self._loop, self._seed, self._size, self._faults = loop, seed, size, faults
        self._draws = chance.of("run")
        self.timeline = Timeline(loop)
        life = timedelta(seconds=self._draws.choice([180, 240, 420]))
        validity = life * self._draws.choice([0.5, 0.75, 1.0])
        self._profile = Profile(longest=life, crl_validity=validity, publish_every=validity / 4)
        self.ca = CaMachine(loop, chance, self.timeline, self._profile, faults)
        self.oracle = Oracle(loop, self.ca, self.timeline)
        self.machines = [
            AgentMachine(
                number,
                ca=self.ca,
                loop=loop,
                chance=chance,
                timeline=self.timeline,
                faults=faults,
                told=self._told,
                received=self.oracle.received,
            )
            for number in range(size.agents)
        ]
        self.oracle.machines = self.machines
        self.mesh = Mesh(self.machines, self.oracle, self.timeline, chance.of("mesh"), faults)
        self.operator = Operator(self.ca, self.oracle, self.mesh, self.timeline)
        self.script = Script(self.machines, self.ca, self.operator, self.mesh, self.timeline, chance.of("script"))
        self.ca.numbered = lambda number: self.oracle.number("ca", self.ca.authority.issuer.key_id, number)

    def _told(self, machine: AgentMachine, credentials: object) -> None:
        self.mesh.note(machine)
        self.oracle.told(machine, machine.served)

    async def whole(self) -> Outcome:
        acts = asyncio.ensure_future(self._acts())
        broken = ""
        try:
            await asyncio.wait({acts, self.oracle.broken}, return_when=asyncio.FIRST_COMPLETED)
            self._raise(acts)
        except Violation as violation:
            broken = str(violation)
        finally:
            await self._clear_up()
        return self._outcome(broken)

    def _raise(self, acts: asyncio.Future[None]) -> None:
        if self.oracle.broken.done():
            self.oracle.broken.result()
        acts.result()
        if self._loop.faults:
            raise Violation(f"FAULT: {self._loop.faults[0]}")
        self.oracle.broken.cancel()

    async def _acts(self) -> None:
        await self.ca.start()
        for machine in self.machines:
            await self.operator.admit(machine)
            machine.boot()
        life = self._profile.longest.total_seconds()
        tending = asyncio.ensure_future(self.operator.tend(self.machines, 30.0))
        calling = asyncio.ensure_future(self._call())
        await asyncio.sleep(30.0)
        await self.script.run(self._size.lives * life, self._size.gap)
        self.timeline.add("run", "everything is right again")
        for machine in self.machines:
            await self.operator.admit(machine)
        await asyncio.sleep(AT_REST)
        for task in (tending, calling):
            task.cancel()
        self._check_rest()

    async def _call(self) -> None:
        """Honest calls, an attack now and then, and streams."""
        running: dict[asyncio.Task[None], None] = {}
        while True:
            await asyncio.sleep(self._draws.expovariate(0.25))
            for _ in range(1 + len(self.machines) // 10):
                self.mesh.call_somebody()
            if self._draws.random() < 0.05:
                self.mesh.attack()
            if self._draws.random() < 0.1:
                running[asyncio.ensure_future(self.mesh.stream(self._draws.uniform(5, 60)))] = None

    def _check_rest(self) -> None:
        for machine in self.machines:
            found = condition(machine.driver, machine.clock.now())
            if not found.ready:
                failed = "; ".join(f"{check.name}: {check.detail}" for check in found.checks if not check.ok)
                raise Violation(f"RETURN: {machine.name} is not back: {failed}, last: {found.last_failure}")
        self.oracle.check_end()
        if self.oracle.broken.done():
            self.oracle.broken.result()

    async def _clear_up(self) -> None:
        for machine in self.machines:
            machine.process.kill()
        self.ca.process.kill()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _outcome(self, broken: str) -> Outcome:
        alarms: Counter[str] = Counter()
        for machine in self.machines:
            if hasattr(machine, "driver"):
                alarms.update(machine.driver.record.alarms)
        return Outcome(
            self._seed,
            self._size,
            self._faults,
            broken,
            tuple(self.timeline.lines),
            self.oracle.accepted,
            self.mesh.refused,
            alarms,
            len(self.oracle.records()),
            len(self.oracle.revoked),
            self._loop.time(),
        )
