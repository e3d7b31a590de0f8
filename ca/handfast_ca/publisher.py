"""Signs CRLs: rising numbers, never two in one second, and never one that forgets (threats D3, D4).

Whoever asks while a CRL is waiting to be made shares it: a burst of revocations costs few CRLs, and each of them
returns with a CRL that carries it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from cryptography.hazmat.primitives import serialization

from handfast.errors import Exhausted, HandfastError, NotFound
from handfast.revocation import RevocationList
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.crl import check_departures, crl_builder, departed, lint_crl
from handfast_ca.feed import Feed
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import CertificateRecord, CrlPlan, Ledger
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Publisher"]

PATIENCE = 5
"""How often a CRL waits for the next second before it gives up."""


class Publisher:
    """Makes the CRLs of one issuing CA. Used from one event loop."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        validity: timedelta,
        hold: Callable[[], HandfastError | None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._issuer = issuer
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._validity = validity
        self.hold = hold
        """Why nothing may be signed now, when there is something (:mod:`handfast_ca.quarantine`)."""
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[RevocationList] | None = None
        self.problem: HandfastError | None = None

    @property
    def latest(self) -> RevocationList | None:
        """The newest list that was published here or found in the ledger."""
        return self._feed.state.crls.get(self._issuer.key_id)

    async def load(self) -> None:
        """Publishes the CRL that the ledger keeps, as it is: better an old one than none."""
        der = await self._ledger.latest_crl(self._issuer.key_id)
        if der is not None and (self.latest is None or self.latest.der != der):
            self._feed.publish(self._read(der))

    async def publish(self) -> RevocationList:
        """Returns with a CRL that carries everything that was durable when this was called.

        Raises ``Broken`` (``CRL_ENTRIES_LOST``, ``LINT``), or ``Unavailable`` (``CLOCK_BEHIND``, ``CLOCK_AHEAD``,
        ``AUDIT_UNAVAILABLE``, ``KEY_UNAVAILABLE``, ``QUARANTINED``); the old CRL stays then.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._publish())
        return await asyncio.shield(self._next)

    async def _publish(self) -> RevocationList:
        own = asyncio.current_task()
        async with self._turn:
            facts: dict[str, AuditValue] = {"event": "crl", "issuer_key_id": self._issuer.key_id.hex()}
            try:
                async with written_refusals(self._audit, facts):
                    made = await self._make(own, facts)
            except HandfastError as error:
                self.problem = error
                raise
            self.problem = None
            return made

    async def _make(self, own: asyncio.Task[RevocationList] | None, facts: dict[str, AuditValue]) -> RevocationList:
        held = self.hold()
        if held is not None:
            self._next = None if self._next is own else self._next
            raise held
        plan = await self._plan(own)
        facts |= {"crl_number": str(plan.number), "entries": len(plan.entries)}
        await self.load()
        await self._check_departures(plan)
        await self._audit.append({**facts, "decision": "granted"}, essential=True)
        return await self._sign(plan)

    async def _plan(self, own: asyncio.Task[RevocationList] | None) -> CrlPlan:
        """The next number, in the next second that has one to spare."""
        for left in reversed(range(PATIENCE)):
            # From here on a newcomer's revocation may miss this plan: it gets a CRL of its own.
            self._next = None if self._next is own else self._next
            try:
                return await self._ledger.plan_crl(self._issuer.key_id, now=await self._time.now())
            except Exhausted as error:
                if not left:
                    raise
                self._next = self._next or own
                await self._sleep(error.retry_after or 1.0)
        raise AssertionError("unreachable")

    async def _check_departures(self, plan: CrlPlan) -> None:
        previous = self.latest
        if previous is not None:
            gone = sorted(departed(previous, plan))
            check_departures(previous, gone, [await self._find(serial) for serial in gone])

    async def _find(self, serial: int) -> CertificateRecord | None:
        try:
            return await self._ledger.find(serial)
        except NotFound:
            return None

    async def _sign(self, plan: CrlPlan) -> RevocationList:
        builder = crl_builder(plan, self._issuer.certificate, self._validity)
        signed = await self._issuer.sign_crl(builder)
        made = self._read(signed.public_bytes(serialization.Encoding.DER))
        lint_crl(made, plan, self._validity)
        await self._ledger.record_crl(plan, made.der, made.next_update)
        self._feed.publish(made)
        return made

    def _read(self, der: bytes) -> RevocationList:
        return RevocationList.verify(der, self._feed.state.bundle, now=self._time.wall())
