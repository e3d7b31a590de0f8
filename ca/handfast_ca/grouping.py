"""Collects what comes while others are being served, so that many share what would cost each of them a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["AT_ONCE", "MOST", "Groups"]

T = TypeVar("T")

AT_ONCE = 2
"""Groups under way: one waits for the disk while the other computes. A third would only make all of them smaller."""

MOST = 32
"""In one group. What is computed for all of them without a pause holds the event loop up for some milliseconds."""


class Groups(Generic[T]):
    """Runs groups of what was put in, in order. Used from one event loop. ``run`` must not raise."""

    def __init__(self, run: Callable[[Sequence[T]], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._waiting: list[T] = []
        self._running: set[asyncio.Task[None]] = set()
        self._beginning = False

    def put(self, item: T) -> None:
        self._waiting.append(item)
        self._arrange()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    async def idle(self) -> None:
        """Returns when nobody waits and nothing runs."""
        while self.busy:
            await (asyncio.wait(self._running) if self._running else asyncio.sleep(0))

    def _arrange(self) -> None:
        if self._waiting and not self._beginning and len(self._running) < AT_ONCE:
            self._beginning = True
            # Not now: what arrives in the same turn of the loop comes along.
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._beginning = False
        group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        task = asyncio.get_running_loop().create_task(self._run(group))
        self._running.add(task)
        task.add_done_callback(self._ended)
        self._arrange()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._arrange()
