"""Time as a port. The core never asks for it: it is told ``now``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_epoch", "to_epoch"]


class Clock(Protocol):
    """Wall time for what certificates say, monotonic time for waiting.

    ``now`` is timezone-aware, in UTC, and may jump either way. ``monotonic`` is in seconds, never goes back, and
    goes on while the machine is suspended where the platform can tell (``CLOCK_BOOTTIME``).
    """

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def to_epoch(moment: datetime) -> int:
    """Whole seconds since 1970 in UTC, rounded down: what the stores keep.

    >>> to_epoch(datetime(2026, 1, 1, tzinfo=UTC))
    1767225600
    """
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} has no time zone")
    return int(moment.timestamp() // 1)


def from_epoch(seconds: int | float) -> datetime:
    """The reverse of :func:`to_epoch`."""
    return datetime.fromtimestamp(seconds, UTC)
