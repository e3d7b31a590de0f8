"""When to try again: full jitter under a doubling ceiling (threats, 2.5). Pure: the draw is an argument."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["FIRST_CEILING", "delay", "jittered", "longest"]

FIRST_CEILING = 1.0
"""Seconds: the first failure waits between nothing and this."""

_CAP_SHARE = 20
_PATIENCE_SHARE = 4


def longest(lifetime: timedelta) -> float:
    """The cap in seconds: a twentieth of the lifetime, so that an outage leaves many attempts before the cliff."""
    return lifetime.total_seconds() / _CAP_SHARE


def jittered(failures: int, cap: float, draw: float) -> float:
    """Seconds: ``draw``, between 0 and 1, of a ceiling that doubles with each failure in a row, up to ``cap``.

    >>> jittered(1, 30.0, 0.5), jittered(3, 30.0, 0.5), jittered(1000, 30.0, 1.0)
    (0.5, 2.0, 30.0)
    """
    return draw * min(cap, FIRST_CEILING * 2.0 ** min(max(failures, 1) - 1, 32))


def delay(failures: int, lifetime: timedelta, draw: float, retry_after: float | None = None) -> float:
    """Seconds to wait after the ``failures``-th failure in a row; ``draw`` is between 0 and 1.

    What the CA asks for (``retry_after``) is a floor, up to a quarter of the lifetime: a CA that says more, by mistake or
    malice, cannot talk an agent past the end of its certificate.

    >>> delay(3, timedelta(hours=1), 0.5), delay(30, timedelta(hours=1), 1.0)
    (2.0, 180.0)
    >>> delay(1, timedelta(hours=1), 0.5, retry_after=60.0)
    60.0
    """
    asked = min(max(retry_after or 0.0, 0.0), lifetime.total_seconds() / _PATIENCE_SHARE)
    return max(asked, jittered(failures, longest(lifetime), draw))
