"""Files a moment behind the news: an announcement and the list that proves it become one generation, and one run of the hooks.

What an announcement says stands in no file that a program reads, the list that follows does; writing for both would cost two syncs of
everything and two reloads, at the very moment at which everybody else who shares the disk writes as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from handfast_agent.driver import Driver

__all__ = ["SETTLE", "UNPROVEN", "WriteBehind"]

SETTLE = 0.05
"""Seconds until what came is written; up to twice of it, so that agents of one machine do not all write at once."""
UNPROVEN = 0.5
"""Seconds until an announcement is written whose list has not come."""


class WriteBehind:
    """Used from one event loop. The socket's readers do not wait for it, nor does a withdrawal, which is written at once."""

    def __init__(self, driver: Driver, draw: Callable[[], float]) -> None:
        self._driver = driver
        self._draw = draw
        self._sooner = asyncio.Event()
        self._due = math.inf

    def want(self, *, proven: bool) -> None:
        """Something was taken. ``proven``: not only announcements."""
        after = SETTLE * (1 + self._draw()) if proven else UNPROVEN
        self._due = min(self._due, asyncio.get_running_loop().time() + after)
        self._sooner.set()

    async def run(self) -> None:
        """Until it is cancelled; what was not written then is what :meth:`Driver.stop` writes."""
        while True:
            await self._until_due()
            self._due = math.inf
            await self._driver.write()

    async def _until_due(self) -> None:
        while (left := self._due - asyncio.get_running_loop().time()) > 0:
            self._sooner.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._due == math.inf else left):
                    await self._sooner.wait()
