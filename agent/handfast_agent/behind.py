"""Files behind the news, so that no news wait for a disk or a hook; and an announcement is written with the list that proves it.

What an announcement says stands in no file that a program reads, the list that follows does. Writing for both would cost two syncs of
everything and two runs of the hooks, at the very moment at which everybody else who shares the disk writes as well. What it costs: an agent
that is killed in the half second between has only the CA to hear of it again, which it asks first when it starts. A list is written at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

from handfast_agent.driver import Driver

__all__ = ["UNPROVEN", "WriteBehind"]

UNPROVEN = 0.5
"""Seconds until an announcement is written whose list has not come."""


class WriteBehind:
    """Used from one event loop. The socket's readers do not wait for it, nor does a withdrawal, which is written at once."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._sooner = asyncio.Event()
        self._due = math.inf

    def want(self, *, proven: bool) -> None:
        """Something was taken. ``proven``: not only announcements."""
        due = asyncio.get_running_loop().time() + (0.0 if proven else UNPROVEN)
        self._due = min(self._due, due)
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
