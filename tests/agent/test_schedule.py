"""APScheduler in the agent: each step is called when it asked to be, whatever is done to the clocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.clock import Clock, SystemClock
from handfast.errors import Unavailable
from handfast_agent.plan import LONGEST_WAIT
from handfast_agent.reconcile import LATE, LOOK_SECONDS, TOLERANCE, Reading, set_by, to_run_now
from handfast_agent.schedule import Schedule

seconds = st.floats(-1e7, 1e7)


class OffsetClock(SystemClock):
    """The machine's clock, read with an error that a test sets: as if somebody set the clock."""

    def __init__(self, wall: timedelta = timedelta(), slept: float = 0.0) -> None:
        self.wall, self.slept = wall, slept

    def now(self) -> datetime:
        return super().now() + self.wall

    def monotonic(self) -> float:
        return super().monotonic() + self.slept


class Counted:
    """A step that wants to be called again after ``wait`` seconds, and counts."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.calls = 0
        self.called = asyncio.Event()

    async def __call__(self) -> float:
        self.calls += 1
        self.called.set()
        return self.wait

    async def until(self, calls: int) -> None:
        async with asyncio.timeout(10):
            while self.calls < calls:
                self.called.clear()
                await self.called.wait()


async def planned() -> None:
    """Turns of the loop in which APScheduler hears of the end of a step, and is given its next date."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(
    steps: Mapping[str, Callable[[], Awaitable[float]]], clock: Clock | None = None, *, look_seconds: float = 0.02
) -> AsyncIterator[Schedule]:
    schedule = Schedule(steps, clock or SystemClock(), look_seconds=look_seconds)
    task = asyncio.create_task(schedule.run())
    try:
        yield schedule
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_clocks_are_compared_at_least_as_often_as_the_longest_wait() -> None:
    assert LOOK_SECONDS <= LONGEST_WAIT


@given(seconds, seconds, st.floats(0, 1e6), st.floats(-TOLERANCE, TOLERANCE))
def test_time_that_passes_is_no_clock_that_was_set(wall: float, monotonic: float, passed: float, slewed: float) -> None:
    before, now = Reading(wall, monotonic), Reading(wall + passed + slewed * 0.99, monotonic + passed)
    assert to_run_now({"rotation": monotonic + passed + 1}, before, now) == ()


@given(seconds, seconds, st.floats(0, LONGEST_WAIT), st.floats(1, 1e8), st.booleans(), st.floats(0, 1e8))
def test_a_clock_that_was_set_either_way_runs_every_waiting_job_now(
    wall: float, monotonic: float, passed: float, jump: float, back: bool, wait: float
) -> None:
    """Threat J8."""
    before = Reading(wall, monotonic)
    now = Reading(wall + passed + (-jump if back else jump), monotonic + passed)
    assert set_by(before, now) == pytest.approx(-jump if back else jump, abs=1e-3)
    assert to_run_now({"rotation": now.monotonic + wait, "poll": now.monotonic + wait}, before, now) == (
        "rotation",
        "poll",
    )


def test_a_machine_that_slept_runs_what_came_due_meanwhile_and_nothing_else() -> None:
    """Threat J8: both clocks go on in a suspended machine, and the timer of the loop does not."""
    before, now = Reading(0.0, 0.0), Reading(8 * 3600.0, 8 * 3600.0)
    due = {"rotation": 15.0, "poll": 8 * 3600.0 + 5}
    assert to_run_now(due, before, now) == ("rotation",)
    assert to_run_now({"rotation": now.monotonic - LATE / 2}, before, now) == ()


async def test_a_step_is_called_at_once_and_again_when_it_said() -> None:
    step = Counted(0.01)
    async with running({"rotation": step}):
        await step.until(5)


async def test_a_clock_that_is_set_back_by_a_day_delays_nothing() -> None:
    """Threat J8. A job is dated by a clock that is a day ahead, which is then put right. To APScheduler, which reads the
    machine's own, that is a clock that was set back by a day."""
    clock, step = OffsetClock(timedelta(days=1)), Counted(60.0)
    async with running({"rotation": step}, clock):
        await step.until(1)
        await planned()
        clock.wall = timedelta()
        await step.until(2)


async def test_without_the_reconciler_apscheduler_would_wait_for_the_day() -> None:
    """Threat J8, the control: the same clock and nobody who looks. What another runs thirty times is not called again."""
    stuck, other = Counted(0.005), Counted(0.005)
    clock = OffsetClock(timedelta(days=1))
    async with running({"stuck": stuck}, clock, look_seconds=86_400.0), running({"other": other}):
        await stuck.until(1)
        await planned()
        clock.wall = timedelta()
        await other.until(30)
    assert stuck.calls == 1


async def test_a_clock_that_is_set_ahead_is_noticed_before_the_wait_is_over() -> None:
    """Threat J8: what was planned for in an hour is looked at now, since a certificate may have ended."""
    clock, step = OffsetClock(), Counted(3600.0)
    async with running({"rotation": step}, clock):
        await step.until(1)
        await planned()
        clock.wall = timedelta(days=365)
        await step.until(2)


async def test_after_a_suspended_machine_wakes_what_is_overdue_runs() -> None:
    """Threat J8: eight hours pass on both clocks, and none on the timer that waits."""
    clock, step = OffsetClock(), Counted(3600.0)
    async with running({"rotation": step}, clock):
        await step.until(1)
        await planned()
        clock.wall, clock.slept = timedelta(hours=8), 8 * 3600.0
        await step.until(2)


async def test_a_job_that_is_told_to_run_now_does_and_keeps_its_place_after_that() -> None:
    step = Counted(3600.0)
    async with running({"rotation": step}) as schedule:
        await step.until(1)
        schedule.run_now("rotation")
        await step.until(2)


async def test_a_step_never_runs_beside_itself_and_a_call_meanwhile_is_not_lost() -> None:
    inside, most, calls = 0, 0, 0
    begun, go_on, third = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> float:
        nonlocal inside, most, calls
        inside, calls = inside + 1, calls + 1
        most = max(most, inside)
        begun.set()
        await go_on.wait()
        inside -= 1
        if calls == 2:
            third.set()
        return 3600.0

    async with running({"rotation": slow}) as schedule, asyncio.timeout(10):
        await begun.wait()
        for _ in range(3):
            schedule.run_now("rotation")
            await asyncio.sleep(0)
        go_on.set()
        await third.wait()
    assert (most, calls) == (1, 2)


async def test_a_step_that_hangs_does_not_hold_up_the_other() -> None:
    other = Counted(0.005)

    async def hangs() -> float:
        await asyncio.Event().wait()
        return 0.0

    async with running({"rotation": hangs, "poll": other}):
        await other.until(3)


async def test_a_refusal_is_logged_and_the_step_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    async def refuses() -> float:
        raise Unavailable("the CA is away")

    async with running({"rotation": refuses}) as schedule, asyncio.timeout(10):
        while len(caplog.records) < 2:
            schedule.run_now("rotation")
            await asyncio.sleep(0.001)
    assert {record.getMessage() for record in caplog.records} == {"step rotation failed: the CA is away (UNAVAILABLE)"}


async def test_a_fault_of_ours_ends_the_schedule_with_itself() -> None:
    """The supervisor restarts a process that ended; one that goes on with half its jobs it would not."""

    async def broken() -> float:
        raise ZeroDivisionError("ours")

    other = Counted(0.005)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(10):
            await Schedule({"rotation": broken, "poll": other}, SystemClock()).run()


async def test_the_end_cancels_a_running_step_and_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    begun, undone = asyncio.Event(), False

    async def slow() -> float:
        nonlocal undone
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            undone = True
        return 0.0

    async with running({"rotation": slow}), asyncio.timeout(10):
        await begun.wait()
    assert undone
    assert caplog.records == []
