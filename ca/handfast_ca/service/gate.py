"""What stands between the guard and the core: limits, the audit record of what they refuse, and the counting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from handfast.errors import Conflict, Exhausted, Forbidden, Invalid, Refused, Unauthenticated
from handfast_ca.authority import Authority, Issued
from handfast_ca.limits import Limits
from handfast_ca.metrics import CaMetrics, Obtained
from handfast_ca.refusals import RefusalLog
from handfast_ca.service.turned_away import TurnedAway

__all__ = ["Gate"]

_THE_CALLER_S = (Invalid, Unauthenticated, Forbidden, Refused, Conflict)
"""Errors that count as failed enrolments: a CA that cannot work now locks nobody out for it."""


class Gate:
    """Used from one event loop. Without ``limits`` those of the default configuration hold."""

    def __init__(self, authority: Authority, *, limits: Limits | None = None, metrics: CaMetrics | None = None) -> None:
        self.metrics = metrics or CaMetrics()
        self.refusals = RefusalLog(authority.refuse)
        self.turned_away = TurnedAway(self.refusals)
        self._limits = limits or Limits()

    async def enrol(self, address: str, work: Callable[[], Awaitable[Issued]]) -> Issued:
        """Does the work when the address may still ask; a failure of the caller's counts against it."""
        async with self._noted("enrol", source=address, peer_address=address):
            self._limits.enrolment(address)
        try:
            return await self.metrics.issuing(Obtained.ENROLLED, work())
        except _THE_CALLER_S:
            self._limits.enrolment_failed(address)
            raise

    async def renew(self, identity: str, address: str, work: Callable[[], Awaitable[Issued]]) -> Issued:
        async with self._noted("renew", source=identity, spiffe_id=identity, peer_address=address):
            self._limits.renewal(identity, address)
        return await self.metrics.issuing(Obtained.RENEWED, work())

    async def ask_trust(self, identity: str) -> None:
        async with self._noted("get-trust", source=identity, spiffe_id=identity):
            self._limits.trust(identity)

    async def report(self, identity: str, take: Callable[[], None]) -> None:
        """From the pool of those who follow trust."""
        async with self._noted("report-status", source=identity, spiffe_id=identity):
            self._limits.trust(identity)
            take()

    @asynccontextmanager
    async def watch_trust(self, identity: str) -> AsyncIterator[None]:
        """Counts one open watch while the block runs."""
        async with self._noted("watch-trust", source=identity, spiffe_id=identity):
            self._limits.trust(identity)
            self._limits.watch_opened(identity)
        try:
            yield
        finally:
            self._limits.watch_closed(identity)

    @asynccontextmanager
    async def reading(self, event: str, *, source: str, **facts: str) -> AsyncIterator[None]:
        """So is a request that cannot be read: the core, which writes down what it refuses, never saw it."""
        try:
            yield
        except Invalid as error:
            await self.refusals.note(event, error, source=source, **facts)
            raise

    @asynccontextmanager
    async def _noted(self, event: str, *, source: str, **facts: str) -> AsyncIterator[None]:
        """What a limit refuses inside is written down before the caller hears of it."""
        try:
            yield
        except Exhausted as error:
            self.metrics.refused(error)
            await self.refusals.note(event, error, source=source, **facts)
            raise
