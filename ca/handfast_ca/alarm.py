"""Tells in the log that the issuing CA's certificate ends: once at each threshold, while there is time (threat J10)."""

from __future__ import annotations

import logging

from handfast_ca.issuer import Issuer
from handfast_ca.status import expiry_threshold, issuer_line
from handfast_ca.timekeeper import Timekeeper

__all__ = ["ExpiryAlarm"]

_log = logging.getLogger(__name__)


class ExpiryAlarm:
    """Remembers in memory what it told: a process that starts tells where things stand."""

    def __init__(self, issuer: Issuer, time: Timekeeper) -> None:
        self._issuer = issuer
        self._time = time
        self._told = 1.0

    def look(self) -> None:
        """Logs when a threshold was crossed since the last look; the lowest that was, when there were several."""
        now = self._time.wall()
        certificate = self._issuer.certificate
        threshold = expiry_threshold(certificate, now)
        if threshold >= self._told:
            return
        self._told = threshold
        line = issuer_line(certificate, now)
        level = logging.ERROR if threshold <= 0.1 else logging.WARNING
        _log.log(level, "the issuing CA %s: %s; do %s", certificate.subject.rfc4514_string(), line.detail, line.hint)
