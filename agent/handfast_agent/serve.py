"""Puts the parts together and runs them: :func:`run` until a signal, :func:`once` for init containers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sys
from collections.abc import Iterator

from handfast.clock import Clock, SystemClock
from handfast.errors import HandfastError, Unauthenticated
from handfast.sources.static import StaticSource
from handfast_agent.condition import Condition, condition
from handfast_agent.config import Config
from handfast_agent.delivery import serve_socket
from handfast_agent.driver import Driver
from handfast_agent.freshness import FreshnessAlarm
from handfast_agent.hooks import run_hooks
from handfast_agent.lifecycle import State
from handfast_agent.memory import Memory, Outputs
from handfast_agent.ocsp_http import ask_ocsp
from handfast_agent.process import forbid_core_dumps
from handfast_agent.proofs.join_token import MAX_TOKEN_BYTES, JoinToken
from handfast_agent.reporting import Reporting
from handfast_agent.stapling import Stapler
from handfast_agent.storage import Directory
from handfast_agent.upstream import GrpcUpstream
from handfast_agent.watch import poll_once, watch_forever

__all__ = ["Agent", "once", "run"]

_log = logging.getLogger(__name__)
POLL_SECONDS = 300.0


class Agent:
    """The driver with the ports of a real machine."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.source = StaticSource()
        self.draw = random.SystemRandom().random
        self.upstream = GrpcUpstream(config.ca, config.trust_domain, config.pin, self.clock)
        given = sys.stdin.read(MAX_TOKEN_BYTES + 1) if config.token_stdin else None
        self.driver = Driver(
            config.wanted,
            upstream=self.upstream,
            outputs=Outputs(Directory(config.directory, config.ownership), config.trust_domain),
            memory=Memory(config.state),
            proof=JoinToken(config.token_file, given),
            source=self.source,
            clock=self.clock,
            draw=self.draw,
            on_files=self._run_hooks,
        )
        self.stapler = Stapler(self.driver, ask_ocsp, clock=self.clock, draw=self.draw)

    def look(self) -> Condition:
        return condition(self.driver, self.clock.now())

    def failures(self) -> dict[str, int]:
        """How often each reason was given since the start. Safe to call from another thread."""
        return dict(self.driver.record.alarms)

    async def _run_hooks(self) -> None:
        await run_hooks(self.config.hooks, self.config.directory)

    async def poll(self) -> float:
        """The safety net of the trust stream. Returns the seconds until the next poll."""
        await poll_once(self.driver, self.upstream, self.source)
        bundle = self.driver.trust.bundle
        every = bundle.refresh_hint_seconds if bundle else POLL_SECONDS
        return max(float(every), 1.0) * (0.9 + 0.2 * self.draw())


async def run(config: Config) -> None:
    """Runs until SIGTERM or SIGINT.

    SIGHUP looks at once, for example at a join token that was just written; SIGUSR1 renews at once.
    """
    forbid_core_dumps()
    with _alone(config):
        await _run(config)
    _log.info("ended")


async def _run(config: Config) -> None:
    from handfast_agent.schedule import Schedule  # what `once` needs no part of

    agent = Agent(config)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    freshness = FreshnessAlarm(agent.look, agent.driver.record)
    steps = {"rotation": agent.driver.tick, "poll": agent.poll, "freshness": freshness.step}
    if config.stapling:
        steps["stapling"] = agent.stapler.look
    schedule = Schedule(steps, agent.clock)

    def renew_at_once() -> None:
        agent.driver.demand_renewal()
        schedule.run_now("rotation")

    agent.driver.on_hurry = lambda: schedule.run_now("rotation")
    loop.add_signal_handler(signal.SIGHUP, schedule.run_now, "rotation")
    loop.add_signal_handler(signal.SIGUSR1, renew_at_once)
    reporting = Reporting(agent.driver, agent.upstream, agent.source, agent.draw, agent.clock.monotonic)
    async with contextlib.AsyncExitStack() as stack:
        await agent.driver.start()
        if config.socket is not None:
            await stack.enter_async_context(
                serve_socket(config.socket, agent.source, lambda: agent.driver.generation, agent.look, reporting.take)
            )
        if config.health is not None:
            from handfast_agent.health import serve_health

            stack.enter_context(serve_health(*config.health, agent.look, agent.failures))
        watching = watch_forever(agent.driver, agent.upstream, agent.source, agent.draw)
        tasks = [asyncio.create_task(work) for work in (schedule.run(), watching, reporting.run())]
        await _until(ended, tasks)
        await agent.driver.stop()


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Two agents on one set of files would take turns at undoing each other, and at the workload's socket."""
    with Directory(config.directory, config.ownership).held(), Directory(config.state).held(mode=0o700):
        yield


async def _until(ended: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Waits for the signal; a loop that dies of a fault of ours ends the agent, so that its supervisor sees it."""
    waiting = asyncio.create_task(ended.wait())
    try:
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)


async def once(config: Config) -> Condition:
    """Enrols, or renews when it is due, writes the files and returns. Raises the error of the attempt that failed, and
    ``Conflict`` (``AGENT_RUNNING``) beside an agent that runs.
    """
    forbid_core_dumps()
    with _alone(config):
        return await _once(config)


async def _once(config: Config) -> Condition:
    agent = Agent(config)
    await agent.driver.start()
    await agent.driver.tick()
    now = agent.look()
    if now.state is not State.SERVING:
        raise agent.driver.last_error or Unauthenticated(
            "there is no certificate and no usable join token",
            reason="NO_PROOF",
            hint="`handfast token create` makes a join token; put it into the file that join_token.file names",
        )
    if not now.ready:
        raise HandfastError("; ".join(f"{c.name}: {c.detail}" for c in now.checks if not c.ok), reason="NOT_READY")
    return now
