"""Says when the revocation list goes stale, expires or is fresh again: an alarm that nobody has to ask for (threats, 2.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from handfast.revocation import Freshness
from handfast_agent.condition import Condition
from handfast_agent.driver import Record
from handfast_agent.lifecycle import State

__all__ = ["LOOK_EVERY", "FreshnessAlarm"]

_log = logging.getLogger(__name__)
LOOK_EVERY = 5.0
"""Seconds."""


class FreshnessAlarm:
    """Once for each change. Counted as failures ``CRL_STALE`` and ``CRL_EXPIRED``."""

    def __init__(self, look: Callable[[], Condition], record: Record) -> None:
        self._look = look
        self._record = record
        self._said = Freshness.FRESH

    async def step(self) -> float:
        """Looks once, and returns the seconds until the next look."""
        now = self._look()
        if now.state is State.SERVING and now.freshness is not self._said:
            self._said = now.freshness
            self._say(now)
        return LOOK_EVERY

    def _say(self, now: Condition) -> None:
        age, until = round(now.crl_age_seconds), now.crl_next_update
        match now.freshness:
            case Freshness.FRESH:
                _log.info("the revocation list is fresh again")
            case Freshness.STALE:
                self._record.count("CRL_STALE")
                _log.warning("the revocation list is %d s old: peers are accepted on it until %s", age, until)
            case Freshness.EXPIRED:
                self._record.count("CRL_EXPIRED")
                _log.error(
                    "the revocation list ended at %s: new connections are refused, and this agent is not ready", until
                )
            case Freshness.UNKNOWN:
                self._record.count("CRL_UNKNOWN")
                _log.error("there is no revocation list: every peer is refused, and this agent is not ready")
