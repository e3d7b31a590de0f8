"""The recurring steps of the agent as jobs of APScheduler.

Each job is one call into the driver, which returns in how many seconds it wants to be called again; there is one job for each
step, dated by what the last call said, and it never runs beside itself. APScheduler holds run dates against the wall clock
whenever it wakes, so a reconciler compares that clock with the monotonic one, and brings the jobs forward that a clock which
was set, or a machine which slept, has put off (:mod:`reconcile`, threat J8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from handfast.clock import Clock
from handfast.errors import HandfastError
from handfast_agent.reconcile import LOOK_SECONDS, TOLERANCE, Reading, set_by, to_run_now

__all__ = ["Schedule", "Step"]

_log = logging.getLogger(__name__)
AFTER_A_FAULT = 5.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
Step = Callable[[], Awaitable[float]]
"""One call into the driver. Returns seconds."""


class Schedule:
    """Runs named steps again and again. A ``HandfastError`` is logged, and the step is called again after five seconds.

    ``clock`` must tell the machine's wall time, which APScheduler reads for itself; a clock that tells another time is put
    right by the reconciler as if somebody had set it.
    """

    def __init__(self, steps: Mapping[str, Step], clock: Clock, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._steps = dict(steps)
        self._look_seconds = look_seconds
        self._clock = clock
        self._due: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[object]] = {}
        self._again: set[str] = set()
        self._ended = False
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            jobstores={"default": MemoryJobStore()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._plan_next, EVENT_JOB_EXECUTED)

    async def run(self) -> None:
        """Calls every step at once, and runs until it is cancelled. Raises what a step raises that is no ``HandfastError``."""
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reconciling = asyncio.ensure_future(self._reconcile())
        self._scheduler.start()
        try:
            for name in self._steps:
                self._plan(name, 0.0)
            done, _ = await asyncio.wait({self._fault, reconciling}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            self._ended = True
            waiting = (reconciling, *self._running.values())
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            self._scheduler.shutdown(wait=False)

    def run_now(self, name: str) -> None:
        """Brings the job forward to now; when it runs already, it runs once more after that."""
        if name in self._running:
            self._again.add(name)
        elif not self._ended:
            self._plan(name, 0.0)

    def _plan(self, name: str, seconds: float) -> None:
        """Replaces the job. What is to run now is dated so that it is due whatever the clock says."""
        self._due[name] = self._clock.monotonic() + seconds
        self._scheduler.add_job(
            self._call,
            DateTrigger(self._clock.now() + timedelta(seconds=seconds) if seconds > 0 else _LONG_AGO, UTC),
            args=(name,),
            id=name,
            name=name,
            replace_existing=True,
        )

    async def _call(self, name: str) -> float:
        """The job. Keeps what it raises from APScheduler, which would log it and forget the job."""
        task = asyncio.current_task()
        assert task is not None
        self._due.pop(name, None)
        self._running[name] = task
        try:
            return await self._steps[name]()
        except HandfastError as error:
            _log.error("step %s failed: %s (%s)", name, error.message, error.reason)
        except BaseException as error:  # noqa: BLE001 - a fault of ours ends the agent: see run
            if not self._ended and not self._fault.done():
                self._fault.set_exception(error)
        return AFTER_A_FAULT

    def _plan_next(self, event: JobExecutionEvent) -> None:
        """APScheduler tells it when the job has ended and may run again."""
        self._running.pop(event.job_id, None)
        if not self._ended:
            again = event.job_id in self._again
            self._again.discard(event.job_id)
            self._plan(event.job_id, 0.0 if again else event.retval)

    async def _reconcile(self) -> None:
        before = Reading.of(self._clock)
        while True:
            await asyncio.sleep(self._look_seconds)
            now = Reading.of(self._clock)
            put_off = to_run_now(self._due, before, now)
            if put_off:
                moved = set_by(before, now)
                why = f"the clock was set by {moved:.1f} s" if abs(moved) > TOLERANCE else "this process stood still"
                _log.warning("planned anew: %s (%s)", ", ".join(put_off), why)
            for name in put_off:
                self._plan(name, 0.0)
            before = now
