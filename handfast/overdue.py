"""Says that peers are accepted on a revocation list that is overdue: once for each list, and again when it has expired."""

from __future__ import annotations

import logging

from handfast.access import Verdict
from handfast.certificates import Leaf
from handfast.revocation import FreshnessPolicy, Revocations, format_crl_number

__all__ = ["OverdueAlarm"]

_log = logging.getLogger(__name__)


class OverdueAlarm:
    """May be used from any thread: the worst that a race does is a second line."""

    def __init__(self, freshness: FreshnessPolicy) -> None:
        self._freshness = freshness
        self._said: dict[bytes, tuple[int, str]] = {}

    def raise_for(self, peer: Leaf, revocations: Revocations, verdict: Verdict) -> None:
        """For a verdict that let a peer pass as ``STALE`` or ``GRACE``."""
        overdue = revocations.lists[peer.issuer_key_id]
        if self._said.get(peer.issuer_key_id) == (overdue.number, verdict.reason):
            return
        self._said[peer.issuer_key_id] = (overdue.number, verdict.reason)
        until = self._freshness.accepted_until(overdue.this_update, peer.validity) or overdue.next_update
        _log.log(
            logging.ERROR if verdict.reason == "GRACE" else logging.WARNING,
            "revocation list %s of %s, made at %s, is overdue; %s is refused from %s on (%s)",
            format_crl_number(overdue.number),
            overdue.issuer,
            overdue.this_update,
            peer.spiffe_id,
            max(until, overdue.next_update),
            verdict.reason,
        )
