"""A workload's machine: the real driver behind the simulated network, and a service that judges by its snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from handfast.access import in_trust_domain
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Unauthenticated
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy
from handfast.sources.static import StaticSource
from handfast.wire.crls import reader_to_wire
from handfast.wire.v1 import authority_pb2, trust_pb2
from handfast_agent.acceptance import Answer, Wanted
from handfast_agent.driver import Driver
from handfast_agent.memory import Outputs
from handfast_agent.trust import News, Trust
from handfast_agent.upstream import read_answer, read_news
from handfast_agent.watch import poll_once, watch_forever
from tests.sim.ca import TRUST_DOMAIN, CaMachine, Presented
from tests.sim.disk import AgentFiles, AgentState
from tests.sim.faults import Faults
from tests.sim.loop import Process
from tests.sim.network import Link
from tests.sim.world import Chance, MachineClock, Timeline, Trouble

__all__ = ["AgentMachine", "SimUpstream"]

AFTER_A_FAULT = 5.0
Told = Callable[["AgentMachine", Credentials | None], None]
Received = Callable[["AgentMachine", Answer, str], None]


class SimUpstream:
    """:class:`handfast_agent.upstream.Upstream` over a link, with the real messages in their encoded form.

    Not modelled: what agents offer to a CA that was restored, and their reports.
    """

    def __init__(self, ca: CaMachine, link: Link, clock: MachineClock, received: Callable[[Answer, str], None]) -> None:
        self._ca = ca
        self._link = link
        self._clock = clock
        self._received = received

    async def enrol(self, token: str, csr: bytes, spiffe_id: SpiffeId, trust: Trust) -> Answer:
        self._handshake()
        raw = await self._link.call(self._ca.process, lambda: self._ca.enrol(token, csr, str(spiffe_id)))
        return self._read(raw, token)

    async def renew(self, present: Credentials, csr: bytes) -> Answer:
        self._handshake()
        presented, reader = Presented.of(present), reader_to_wire(present.revocations)
        return self._read(await self._link.call(self._ca.process, lambda: self._ca.renew(presented, csr, reader)), "")

    async def get_trust(self, present: Credentials, _trust: Trust, *, whole: bool = False) -> News:
        self._handshake()
        presented, reader = Presented.of(present), None if whole else reader_to_wire(present.revocations)
        raw = await self._link.call(self._ca.process, lambda: self._ca.get_trust(presented, reader))
        return read_news(trust_pb2.TrustUpdate.FromString(raw))

    async def watch_trust(self, present: Credentials, _trust: Trust) -> AsyncIterator[News]:
        self._handshake()
        presented, reader = Presented.of(present), reader_to_wire(present.revocations)
        async for raw in self._link.stream(
            self._ca.process, lambda pipe: self._ca.watch_trust(presented, reader, pipe)
        ):
            yield read_news(trust_pb2.TrustUpdate.FromString(raw))

    async def report(self, report: object) -> None:
        self._handshake()

    def _read(self, raw: bytes, token: str) -> Answer:
        answer = read_answer(authority_pb2.IssuedCredentials.FromString(raw))
        self._received(answer, token)
        return answer

    def _handshake(self) -> None:
        """What the agent's tunnel verifies of the CA that time can change."""
        if not self._ca.serving:
            return
        server = self._ca.source.peek()
        if server is not None and not server.leaf.validity.contains(self._clock.now()):
            raise Unauthenticated("the CA's certificate is not valid now", reason="EXPIRED")


class _Token:
    """Where the driver's join token lies. Without one, None."""

    def __init__(self) -> None:
        self.text: str | None = None

    def read(self) -> str | None:
        return self.text


class AgentMachine:
    """One machine with one agent and one service. It outlives its processes."""

    def __init__(
        self,
        number: int,
        *,
        ca: CaMachine,
        loop: asyncio.AbstractEventLoop,
        chance: Chance,
        timeline: Timeline,
        faults: Faults,
        told: Told,
        received: Received,
    ) -> None:
        self.name = f"agent-{number:03d}"
        self.spiffe_id = SpiffeId(TRUST_DOMAIN, f"/{self.name}")
        self.token = _Token()
        self.trouble = Trouble()
        self.process = Process(self.name)
        self.process.kill()
        self.trouble.begin()
        self.driver: Driver
        self.service = StaticSource()
        self._draws = chance.of(self.name)
        self.clock = MachineClock(loop, self._draws.uniform(-1.0, 1.0), self._draws.uniform(0, 1e6))
        self.link = Link(self.name, chance.of(f"{self.name}-link"), timeline)
        self._ca = ca
        self.freshness = FreshnessPolicy(ca.profile.crl_validity / 4)
        self.judge = faults.judge(
            self.service,
            in_trust_domain(TRUST_DOMAIN),
            clock=self.clock,
            freshness=self.freshness,
            open_methods=frozenset(),
            observer=None,
        )
        self.asleep = False
        self._files, self._state = AgentFiles(), AgentState()
        self._timeline = timeline
        self._faults = faults
        self._told = told
        self._received = received

    def boot(self) -> None:
        """A new process over what the one before wrote."""
        self.trouble.end()
        self._timeline.add(self.name, "starts")
        if not self._faults.marks_are_kept:
            self._files, self._state = AgentFiles(), AgentState()
        self.process = Process(self.name)
        source = StaticSource()
        upstream = SimUpstream(self._ca, self.link, self.clock, self._note)
        self.driver = Driver(
            Wanted(self.spiffe_id),
            upstream=upstream,
            outputs=Outputs(self._files, TRUST_DOMAIN),
            memory=self._state,
            proof=self.token,
            source=source,
            clock=self.clock,
            draw=self._draws.random,
            on_files=self._on_files,
        )
        source.subscribe(self._publish)
        self.process.spawn(self._run(upstream, source))

    def kill(self) -> None:
        """The service goes on with what it has, as with the files of an agent that is gone."""
        self.trouble.begin()
        self._timeline.add(self.name, "is killed")
        self.wake()
        self.process.kill()

    def sleep(self) -> None:
        """The machine is suspended, with all that runs on it."""
        self.trouble.begin()
        self._timeline.add(self.name, "is suspended")
        self.asleep = True
        self.process.freeze()

    def wake(self) -> None:
        if self.asleep:
            self.trouble.end()
            self._timeline.add(self.name, "wakes")
            self.asleep = False
            self.process.thaw()

    def _publish(self, credentials: Credentials | None) -> None:
        self.service.publish(credentials)
        self._told(self, credentials)

    @property
    def running(self) -> bool:
        return self.process.alive

    @property
    def served(self) -> Credentials | None:
        return self.service.peek()

    def _note(self, answer: Answer, token: str) -> None:
        self._received(self, answer, token)

    async def _on_files(self) -> None:
        """No hooks."""

    async def _run(self, upstream: SimUpstream, source: StaticSource) -> None:
        await self.driver.start()
        self.process.spawn(self._repeat(self._tick))
        self.process.spawn(watch_forever(self.driver, upstream, source, self._draws.random))
        if self._faults.agents_poll:
            self.process.spawn(self._repeat(lambda: self._poll(upstream, source)))

    async def _repeat(self, step: Callable[[], Awaitable[float]]) -> None:
        """As ``handfast_agent.schedule`` does with a job. No wait is longer than a step asks for, so nothing needs bringing
        forward.
        """
        while True:
            try:
                seconds = await step()
            except HandfastError as error:
                self._timeline.add(self.name, f"a step fails: {error.reason}")
                seconds = AFTER_A_FAULT
            await asyncio.sleep(seconds)

    async def _tick(self) -> float:
        return await self.driver.tick() * self._faults.agents_dawdle

    async def _poll(self, upstream: SimUpstream, source: StaticSource) -> float:
        await poll_once(self.driver, upstream, source)
        bundle = self.driver.trust.bundle
        every = bundle.refresh_hint_seconds if bundle else 60
        return max(float(every), 1.0) * (0.9 + 0.2 * self._draws.random())
