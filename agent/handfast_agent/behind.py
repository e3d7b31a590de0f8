"""Files a moment behind the news: an announcement and the list that proves it become one generation, and one run of the hooks.

What an announcement says stands in no file that a program reads, the list that follows does; writing for both would cost two syncs of
everything and two reloads, at the very moment at which everybody else who shares the disk writes as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handfast_agent.driver import Driver

__all__ = ["SETTLE", "WriteBehind"]

SETTLE = 0.1
"""Seconds until what came is written; up to twice of it, so that agents of one machine do not all write at once."""


class WriteBehind:
    """Used from one event loop. The socket's readers do not wait for it, nor does a withdrawal, which is written at once."""

    def __init__(self, driver: Driver, draw: Callable[[], float]) -> None:
        self._driver = driver
        self._draw = draw
        self._wanted = asyncio.Event()

    def want(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled; what was not written then is what :meth:`Driver.stop` writes."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(SETTLE * (1 + self._draw()))
            self._wanted.clear()
            await self._driver.write()
