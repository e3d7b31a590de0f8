"""What all parts of a run share: time, chance, the timeline, and what troubles whom."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random

__all__ = ["START", "Chance", "MachineClock", "Timeline", "Trouble"]

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE = -1e9


def clock() -> float:
    """Seconds of virtual time."""
    return asyncio.get_running_loop().time()


class MachineClock:
    """A machine's two clocks. ``offset``: by how many seconds its wall clock is wrong; its monotonic one counts sleep too."""

    def __init__(self, loop: asyncio.AbstractEventLoop, offset: float = 0.0, boot: float = 0.0) -> None:
        self._loop = loop
        self._boot = boot
        self.offset = offset
        self.set_at = BEFORE

    def set(self, offset: float) -> None:
        """Somebody sets the wall clock."""
        self.offset, self.set_at = offset, self._loop.time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time() + self.offset)

    def monotonic(self) -> float:
        return self._loop.time() + self._boot


class Chance:
    """Draws that depend on the seed and on who draws, and not on what others drew before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def of(self, who: str) -> Random:
        return Random(f"{self.seed}/{who}")


class Timeline:
    """Everything that happened, in its order, as lines for people."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lines: list[str] = []

    def add(self, who: str, what: str) -> None:
        self.lines.append(f"[{self._loop.time():10.3f}] {who:<10} {what}")


class Trouble:
    """Something that excuses a machine while it lasts, and for a while after: it must first catch up."""

    def __init__(self) -> None:
        self._now = 0
        self._ended = BEFORE

    def begin(self) -> None:
        self._now += 1

    def end(self) -> None:
        self._now -= 1
        self._ended = clock()

    def strike(self) -> None:
        """A trouble of one moment."""
        self._ended = clock()

    @property
    def active(self) -> bool:
        return self._now > 0

    @property
    def quiet_since(self) -> float:
        """Infinity while it lasts."""
        return float("inf") if self._now else self._ended
