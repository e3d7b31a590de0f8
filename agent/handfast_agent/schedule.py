"""The two loops of the agent, on the event loop's own monotonic clock.

Not APScheduler: it compares run dates with the wall clock each time it wakes, so a clock that is set back by a day keeps
a due job waiting for a day (threat J8; see docs/adr/0008). No wait here is longer than plan.LONGEST_WAIT, so a machine
that slept plans anew soon after it woke.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from handfast.errors import HandfastError

__all__ = ["forever"]

_log = logging.getLogger(__name__)
AFTER_A_FAULT = 5.0


async def forever(step: Callable[[], Awaitable[float]]) -> None:
    """Calls ``step``, waits for the seconds that it returns, and again. A fault is logged, and does not end the loop."""
    while True:
        try:
            seconds = await step()
        except HandfastError as error:
            _log.error("a step failed: %s (%s)", error.message, error.reason)
            seconds = AFTER_A_FAULT
        await asyncio.sleep(seconds)
