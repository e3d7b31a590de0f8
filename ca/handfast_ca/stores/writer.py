"""One thread that writes: whatever waits becomes one transaction, one commit, one fsync (group commit).

A step looks before it writes: a domain error therefore leaves nothing behind, and its neighbours commit. Any other
error rolls the whole batch back, and each step is tried again alone.

Where syncing is fast, a batch would be over before a second step came. After a batch of many, the thread therefore
waits a moment for more; a lone step never waits (docs/adr/0003-storage.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from sqlalchemy import Engine

from handfast.errors import HandfastError, Unavailable
from handfast_ca.stores.prepared import Transaction
from handfast_ca.stores.reserve import Reserve
from handfast_ca.stores.trouble import TROUBLE, disk_full, is_busy, is_full, translated

__all__ = ["Step", "Writer"]

T = TypeVar("T")
Step = Callable[[Transaction], T]
MAX_BATCH = 256
COMPANY = 2
"""Steps in a batch that are no crowd: issuing brings its requests in groups already (:mod:`handfast_ca.grouping`)."""
LINGER = 0.002
"""Seconds that a batch waits for more, when the last one had more than :data:`COMPANY`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    step: Step[Any]
    essential: bool
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Writer:
    """On a full disk ``essential`` steps (revocations, CRLs) may use the reserve, others are refused (threat J4)."""

    def __init__(self, engine: Engine, reserve: Reserve) -> None:
        self._engine = engine
        self._reserve = reserve
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._last_batch = 0
        self._thread = Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    async def write(self, step: Step[T], *, essential: bool = False) -> T:
        """Returns when the step is durable. A caller that is cancelled meanwhile does not undo it."""
        if self._closed:
            raise Unavailable("the ledger is closed", reason="LEDGER_CLOSED")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(step, essential, loop, answer))
        return await answer

    async def close(self) -> None:
        """Commits what waits, then ends the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        closing = False
        while not closing:
            batch, closing = self._gather()
            self._last_batch = len(batch)
            if batch:
                _tell(batch, self._run(batch))

    def _gather(self) -> tuple[list[_Job], bool]:
        job = self._queue.get()
        if self._last_batch > COMPANY:
            time.sleep(LINGER)
        batch: list[_Job] = []
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _run(self, batch: Sequence[_Job]) -> list[_Outcome]:
        if not self._reserve.refill():
            return [self._alone(job) for job in batch]
        try:
            return self._together(batch)
        except Exception as error:  # noqa: BLE001 - whose it is shows when each runs alone
            if isinstance(error, TROUBLE) and is_busy(error):
                return [_Outcome(error=translated(error))] * len(batch)
            return [self._alone(job) for job in batch]

    def _together(self, batch: Sequence[_Job]) -> list[_Outcome]:
        with self._engine.begin() as connection:
            transaction = Transaction(connection)
            return [_attempt(transaction, job) for job in batch]

    def _alone(self, job: _Job) -> _Outcome:
        if not job.essential and not self._reserve.is_held:
            return _Outcome(error=_full())
        try:
            return self._together([job])[0]
        except TROUBLE as error:
            if not is_full(error):
                return _Outcome(error=translated(error))
            self._reserve.release()
            return self._from_reserve(job) if job.essential else _Outcome(error=translated(error))
        except Exception as error:  # noqa: BLE001 - handed to the one who asked
            return _Outcome(error=error)

    def _from_reserve(self, job: _Job) -> _Outcome:
        try:
            return self._together([job])[0]
        except TROUBLE as error:
            return _Outcome(error=translated(error))


def _full() -> HandfastError:
    return disk_full("the disk of the ledger is full: only revocations are accepted")


def _attempt(transaction: Transaction, job: _Job) -> _Outcome:
    try:
        return _Outcome(job.step(transaction))
    except HandfastError as error:
        return _Outcome(error=error)


def _tell(batch: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
    """One wake-up for each event loop, whatever the size of the batch."""
    told: defaultdict[asyncio.AbstractEventLoop, list[tuple[_Job, _Outcome]]] = defaultdict(list)
    for job, outcome in zip(batch, outcomes, strict=True):
        told[job.loop].append((job, outcome))
    for loop, answers in told.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Sequence[tuple[_Job, _Outcome]]) -> None:
    for job, outcome in answers:
        if job.answer.done():
            continue
        if outcome.error is not None:
            job.answer.set_exception(outcome.error)
        else:
            job.answer.set_result(outcome.value)
