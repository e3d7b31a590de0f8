"""An asyncio loop on virtual time: it never waits, and jumps to the next moment at which something is due.

Nothing here asks the machine for the time, a thread or a socket, so that a run depends on its seed alone. What a process of
the simulation starts belongs to it: :meth:`Process.kill` ends all of it between two steps, and a frozen one does nothing,
while time goes on, until it is thawed.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["DISK_SECONDS", "Process", "VirtualLoop"]

T = TypeVar("T")
DISK_SECONDS = 0.003
"""How long a call that a real process hands to a thread takes: all of them write files."""


class Process:
    """One process of the simulation: its tasks, and whether its machine sleeps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.failed: BaseException | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._parked: list[_Step] | None = None

    @classmethod
    def current(cls) -> Process | None:
        return _PROCESS.get()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs ``work`` inside of this process. What it raises, and nobody takes, is kept in ``failed``."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def kill(self) -> None:
        """As ``kill -9``: nothing of it goes on, and nothing of it is told."""
        self.alive = False
        self.thaw()
        for task in tuple(self._tasks):
            task.cancel()

    def freeze(self) -> None:
        self._parked = [] if self._parked is None else self._parked

    def thaw(self) -> None:
        """What came due meanwhile runs now, in its order."""
        parked, self._parked = self._parked or [], None
        for step in parked:
            step.again()

    def own(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def park(self, step: _Step) -> bool:
        if self._parked is None:
            return False
        self._parked.append(step)
        return True

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Step:
    """One callback of the loop, which a frozen process keeps for later."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "process")

    def __init__(
        self, loop: VirtualLoop, process: Process, callback: Callable[..., Any], args: Any, context: Any
    ) -> None:
        self.loop, self.process, self.callback, self.args, self.context = loop, process, callback, args, context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if not self.process.park(self):
            self.callback(*self.args)

    def again(self) -> None:
        assert self.handle is not None
        if not self.handle.cancelled():
            self.loop.call_soon(self.callback, *self.args, context=self.context)


class _Jumping(selectors.SelectSelector):
    """Where a loop would wait, time passes instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left that could ever happen")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0. Threads are not there: what is handed to one runs on the loop, and takes its time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.set_task_factory(_make_task)
        self.faults: list[str] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._jumping.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        step = self._step(callback, args, context)
        if step is None:
            return super().call_soon(callback, *args, context=context)
        step.handle = super().call_soon(step, context=context)
        return step.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        step = self._step(callback, args, context)
        if step is None:
            return super().call_at(when, callback, *args, context=context)
        handle = super().call_at(when, step, context=context)
        step.handle = handle
        return handle

    def _step(self, callback: Callable[..., Any], args: Any, context: contextvars.Context | None) -> _Step | None:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        return None if process is None else _Step(self, process, callback, args, context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = self.create_future()
        self.call_later(DISK_SECONDS, _settle, done, func, args)
        return done

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught is a fault of the code under test, or of the simulation."""
        self.faults.append(f"{context['message']}: {context.get('exception')!r}")


def _settle(done: asyncio.Future[T], func: Callable[..., T], args: Any) -> None:
    if done.done():
        return
    try:
        done.set_result(func(*args))
    except Exception as error:
        done.set_exception(error)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    process = _PROCESS.get() if context is None else context.get(_PROCESS)
    if process is not None:
        process.own(task)
        if not process.alive:
            task.cancel()
    return task
