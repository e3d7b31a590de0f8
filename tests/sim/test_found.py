"""What the simulation found once, as scenarios of their own; and the parts that it stands on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from handfast.revocation import Reason
from handfast_agent.lifecycle import State
from handfast_ca.profile import Profile
from tests.sim.agent import AgentMachine
from tests.sim.ca import CaMachine
from tests.sim.faults import Faults
from tests.sim.loop import Process, VirtualLoop
from tests.sim.oracle import SETTLE
from tests.sim.world import Chance, Timeline

LIFE = timedelta(minutes=10)


def on_virtual_time(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario(loop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        assert loop.faults == []
    finally:
        loop.close()


async def mesh_of_one(loop: VirtualLoop) -> tuple[CaMachine, AgentMachine]:
    """A CA and one agent that serves."""
    chance, timeline = Chance(1), Timeline(loop)
    ca = CaMachine(loop, chance, timeline, Profile(longest=LIFE, crl_validity=LIFE, publish_every=LIFE / 4), Faults())
    await ca.start()
    machine = AgentMachine(
        0, ca=ca, loop=loop, chance=chance, timeline=timeline, faults=Faults(),
        told=lambda *_: None, received=lambda *_: None,
    )  # fmt: skip
    await ca.process.spawn(ca.authority.add_entry(str(machine.spiffe_id), by="test"))
    created = await ca.process.spawn(ca.authority.create_token(machine.spiffe_id, by="test"))
    machine.token.text = created.token.text
    machine.boot()
    await asyncio.sleep(2.0)
    assert machine.driver.plan.state is State.SERVING
    return ca, machine


def test_an_agent_that_was_away_when_it_was_revoked_withdraws_when_it_is_back() -> None:
    """Threat C1: its stream and its polls are refused as REVOKED, so no list will ever tell it; the refusal does."""

    async def scenario(loop: VirtualLoop) -> None:
        ca, machine = await mesh_of_one(loop)
        machine.link.part()
        await asyncio.sleep(20.0)
        revoke = ca.authority.revoke_identity
        await ca.process.spawn(revoke(machine.spiffe_id, Reason.UNSPECIFIED, by="test"))
        machine.link.heal()
        await asyncio.sleep(SETTLE)
        assert machine.driver.plan.state is State.REVOKED
        assert machine.served is None

    on_virtual_time(scenario)


def test_a_ca_that_could_not_renew_its_own_certificate_tries_again_before_that_ends() -> None:
    """Threat J8: its clock was wrong for a while, just when half of its certificate's life was over."""

    async def scenario(loop: VirtualLoop) -> None:
        ca, _ = await mesh_of_one(loop)
        ca.step_clock(-90.0)
        await asyncio.sleep(LIFE.total_seconds() / 2 + 60)
        ca.step_clock(0.0)
        await asyncio.sleep(LIFE.total_seconds() / 20 + 1)
        assert ca.source.current().leaf.validity.not_after - ca.clock.now() > LIFE / 2

    on_virtual_time(scenario)


def test_time_jumps_to_what_is_due_and_nothing_waits() -> None:
    """A day passes at once."""

    async def scenario(loop: VirtualLoop) -> None:
        await asyncio.sleep(86_400)
        assert loop.time() == pytest.approx(86_400)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        assert await asyncio.to_thread(lambda: 7) == 7

    on_virtual_time(scenario)


def test_a_loop_on_which_nothing_can_happen_any_more_says_so() -> None:
    """It would wait for ever."""

    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    waiting = loop.create_task(for_ever())
    with pytest.raises(RuntimeError, match="nothing is left"):
        loop.run_until_complete(waiting)
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()


def test_a_frozen_process_does_nothing_until_it_is_thawed_and_a_killed_one_nothing_more() -> None:
    """What came due meanwhile happens late, in its order."""

    async def scenario(loop: VirtualLoop) -> None:
        seen: list[tuple[int, float]] = []

        async def count(step: Callable[[float], Awaitable[None]]) -> None:
            for number in range(6):
                await step(1.0)
                seen.append((number, loop.time()))

        process = Process("frozen")
        process.spawn(count(asyncio.sleep))
        await asyncio.sleep(1.5)
        process.freeze()
        await asyncio.sleep(10)
        assert len(seen) == 1
        process.thaw()
        await asyncio.sleep(1.2)
        assert [round(at, 1) for _, at in seen] == [1.0, 11.5, 12.5]
        process.kill()
        await asyncio.sleep(10)
        assert len(seen) == 3

    on_virtual_time(scenario)
