"""What a scheduler that goes by the wall clock has missed, as a pure function of two readings of both clocks (threat J8).

A run date is wall time. When somebody sets the clock back by a day, it moves a day away; when a machine sleeps, the timer
that waits for it sleeps too. The monotonic clock (``CLOCK_BOOTTIME``) does neither, so each due moment is kept on it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from handfast.clock import Clock
from handfast_agent.plan import LONGEST_WAIT

__all__ = ["LATE", "LOOK_SECONDS", "TOLERANCE", "Reading", "set_by", "to_run_now"]

LOOK_SECONDS = LONGEST_WAIT / 3
"""How often the clocks are compared: a clock that was set is noticed after so many seconds at most."""
TOLERANCE = 0.5
"""Seconds between two looks that are slewing by NTP or a slow machine, and not somebody who set the clock."""
LATE = 1.0
"""Seconds after its due moment when a job counts as put off by the scheduler."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment: seconds since 1970, and monotonic seconds."""

    wall: float
    monotonic: float

    @classmethod
    def of(cls, clock: Clock) -> Reading:
        return cls(clock.now().timestamp(), clock.monotonic())


def set_by(before: Reading, now: Reading) -> float:
    """Seconds by which the wall clock went further than time did; negative when it was set back.

    >>> set_by(Reading(1000.0, 10.0), Reading(1005.0, 15.0)), set_by(Reading(1000.0, 10.0), Reading(945.0, 15.0))
    (0.0, -60.0)
    """
    return (now.wall - before.wall) - (now.monotonic - before.monotonic)


def to_run_now(due: Mapping[str, float], before: Reading, now: Reading) -> tuple[str, ...]:
    """The names of the jobs whose run date is no longer good. ``due``: the monotonic moment of each that waits.

    All of them, once the clock was set: what they decide may depend on it. Otherwise those that should have begun.

    >>> due = {"rotation": 30.0, "poll": 300.0}
    >>> to_run_now(due, Reading(1000.0, 10.0), Reading(1005.0, 15.0))
    ()
    >>> to_run_now(due, Reading(1000.0, 10.0), Reading(945.0, 15.0))
    ('rotation', 'poll')
    >>> to_run_now(due, Reading(1000.0, 10.0), Reading(29_790.0, 28_800.0))
    ('rotation', 'poll')
    """
    if abs(set_by(before, now)) > TOLERANCE:
        return tuple(due)
    return tuple(name for name, moment in due.items() if now.monotonic > moment + LATE)
