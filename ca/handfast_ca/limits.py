"""Limits on requests, in the memory of one process: a token bucket for each identity and each address (threat H4).

GCRA on the monotonic clock, so that a wall clock that is set neither locks anybody out nor lets anybody in. What is
remembered is bounded: the least recently seen of :data:`REMEMBERED` callers is forgotten first, and begins anew.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from datetime import timedelta

from throttled.rate_limiter import BaseRateLimiter, RateLimiterRegistry, per_duration
from throttled.store import MemoryStore

from handfast.errors import Exhausted
from handfast_ca.quotas import DEFAULT_QUOTAS, Quota, Quotas

__all__ = ["REMEMBERED", "Limits"]

REMEMBERED = 50_000
"""Callers of one limit that are kept apart."""

_MINUTE = timedelta(minutes=1)
_IPV6_SITE = 64
"""One customer has at least a /64 (RFC 6177, 2): single addresses of it are nobody's."""


class Limits:
    """Each method raises ``Exhausted`` at its limit, with ``retry_after`` in seconds, and else counts the request.

    An empty address is that of no IP connection, and is not limited.
    """

    def __init__(self, quotas: Quotas = DEFAULT_QUOTAS) -> None:
        self._most_watchers = quotas.watchers_per_identity
        self._renewals = _bucket(quotas.renewals_per_identity)
        self._requests = _bucket(quotas.requests_per_address)
        self._failures = _bucket(quotas.failed_enrolments_per_address)
        self._trust = _bucket(quotas.trust_per_identity)
        self._watching: Counter[str] = Counter()

    def renewal(self, identity: str, address: str) -> None:
        """The identity is asked first: what it has too many of is not taken from its address, which others share."""
        _take(self._renewals, identity, f"{identity} renews too often", "limits.renewals_per_identity")
        self._request(address)

    def enrolment(self, address: str) -> None:
        """Also refused when too many enrolments from there failed."""
        if address:
            left = self._failures.peek(_site(address))
            if left.remaining < 1:
                raise _exhausted(
                    f"too many enrolments from {address} failed",
                    "limits.failed_enrolments_per_address",
                    left.retry_after,
                )
        self._request(address)

    def enrolment_failed(self, address: str) -> None:
        """Counts one, and raises nothing: the next enrolment does."""
        if address:
            self._failures.limit(_site(address))

    def trust(self, identity: str) -> None:
        """Asking for the trust state, or beginning to watch it."""
        _take(self._trust, identity, f"{identity} asks for the trust state too often", "limits.trust_per_identity")

    def watch_opened(self, identity: str) -> None:
        """One more open watch, which :meth:`watch_closed` ends. Raises ``Exhausted`` (``TOO_MANY_WATCHERS``)."""
        if self._watching[identity] >= self._most_watchers:
            raise Exhausted(
                f"{identity} has {self._watching[identity]} open watches, as many as one identity may have",
                reason="TOO_MANY_WATCHERS",
                hint="raise limits.watchers_per_identity of the CA if so many workloads share the identity",
                retry_after=60.0,
            )
        self._watching[identity] += 1

    def watch_closed(self, identity: str) -> None:
        self._watching[identity] -= 1
        if not self._watching[identity]:
            del self._watching[identity]

    def _request(self, address: str) -> None:
        if address:
            _take(self._requests, _site(address), f"too many requests from {address}", "limits.requests_per_address")


def _bucket(quota: Quota) -> BaseRateLimiter:
    store = MemoryStore(options={"MAX_SIZE": REMEMBERED})
    return RateLimiterRegistry.get("gcra")(per_duration(_MINUTE, quota.per_minute, quota.burst), store)


def _take(bucket: BaseRateLimiter, key: str, what: str, setting: str) -> None:
    taken = bucket.limit(key)
    if taken.limited:
        raise _exhausted(what, setting, taken.state.retry_after)


def _exhausted(what: str, setting: str, retry_after: float) -> Exhausted:
    return Exhausted(
        f"{what}: the next is taken in {retry_after:.1f} s",
        reason="RATE_LIMITED",
        hint=f"wait as long, or raise {setting} of the CA",
        retry_after=retry_after,
    )


def _site(address: str) -> str:
    """The address, or, of an IPv6 address, its network."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], _IPV6_SITE), strict=False))
