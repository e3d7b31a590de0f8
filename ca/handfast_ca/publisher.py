"""Signs CRLs: rising numbers, never two in one second, and never one that forgets (threats D3, D4).

Whoever asks while a CRL is waiting to be made shares it: a burst of revocations costs few CRLs, and each of them
returns with a CRL that carries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.crl_change import ListStep, outline, to_be_signed
from handfast.errors import Broken, Exhausted, HandfastError, NotFound
from handfast.revocation import RevocationList, format_crl_number
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.crl import Difference, check_departures, crl_builder, difference, lint_crl
from handfast_ca.feed import Feed
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import CertificateRecord, CrlPlan, Ledger
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
LONG = 2_000
"""Entries from which on a list is worked at on a thread."""
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
        self._compare = True
        self._ordered: tuple[RevocationList | None, list[int]] = (None, [])
        self._next: asyncio.Task[RevocationList] | None = None
        self.problem: HandfastError | None = None

    @property
    def latest(self) -> RevocationList | None:
        """The newest list that was published here or found in the ledger."""
        return self._feed.state.crls.get(self._issuer.key_id)

    async def load(self) -> RevocationList | None:
        """Publishes the CRL that the ledger keeps, as it is: better an old one than none."""
        der = await self._ledger.latest_crl(self._issuer.key_id)
        if der is not None and (self.latest is None or self.latest.der != der):
            self._feed.publish(self._read(der))
        return self.latest

    async def publish(self, *, compare: bool = False) -> RevocationList:
        """Returns with a CRL that carries everything that was durable when this was called.

        It is made of the one before and of what changed since. ``compare``: every entry of it is also compared with the ledger,
        as the first one of a process always is, and whenever the two do not agree on how many there are (threat D4).

        Raises ``Broken`` (``CRL_ENTRIES_LOST``, ``LINT``), ``Conflict`` (``CRL_OUT_OF_TURN``), or ``Unavailable``
        (``CLOCK_BEHIND``, ``CLOCK_AHEAD``, ``AUDIT_UNAVAILABLE``, ``KEY_UNAVAILABLE``, ``QUARANTINED``); the old CRL stays then.
        """
        self._compare |= compare
        if self._next is None:
            self._next = asyncio.create_task(self._publish())
        return await asyncio.shield(self._next)

    async def resume(self) -> None:
        """A quarantine is over. What keeps the first CRL from being signed now is the :attr:`problem`, and is not raised."""
        try:
            await self.publish()
        except HandfastError as error:
            _log.error("no new CRL after the quarantine: %s", error.message)

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
        previous = self.latest
        plan = await self._plan(own, 0 if previous is None else previous.number)
        if previous is None or plan.turn != previous.number:
            previous = await self.load()
        change = None if previous is None else difference(previous, plan)
        if previous is not None and change is None:
            self._compare = True
            plan = await self._plan(own, 0)
            change = difference(previous, plan)
        facts |= {"crl_number": str(plan.number), "entries": plan.total}
        if previous is not None and change is not None:
            await self._check_departures(previous, change)
        await self._audit.append({**facts, "decision": "granted"}, essential=True)
        made = (
            await self._sign(plan) if previous is None or change is None else await self._go_on(previous, plan, change)
        )
        await self._aside(made, lint_crl, made, plan, self._validity, previous)
        await self._ledger.record_crl(plan, made.der, made.next_update)
        self._compare = self._compare and plan.base != 0
        self._feed.publish(made)
        return made

    async def _plan(self, own: asyncio.Task[RevocationList] | None, base: int) -> CrlPlan:
        """The next number, in the next second that has one to spare. ``base`` 0 asks for every entry."""
        for left in reversed(range(PATIENCE)):
            # From here on a newcomer's revocation may miss this plan: it gets a CRL of its own.
            self._next = None if self._next is own else self._next
            try:
                now = await self._time.now()
                return await self._ledger.plan_crl(self._issuer.key_id, now=now, base=0 if self._compare else base)
            except Exhausted as error:
                if not left:
                    raise
                self._next = self._next or own
                await self._sleep(error.retry_after or 1.0)
        raise AssertionError("unreachable")

    async def _check_departures(self, previous: RevocationList, change: Difference) -> None:
        gone = sorted(change.removed)
        check_departures(previous, gone, [await self._find(serial) for serial in gone])

    async def _find(self, serial: int) -> CertificateRecord | None:
        try:
            return await self._ledger.find(serial)
        except NotFound:
            return None

    async def _sign(self, plan: CrlPlan) -> RevocationList:
        """The first list of an issuer."""
        builder = crl_builder(plan, self._issuer.certificate, self._validity)
        signed = await self._issuer.sign_crl(builder)
        made = self._read(signed.public_bytes(serialization.Encoding.DER))
        self._ordered = (made, [revoked.serial for revoked in plan.entries])
        return made

    async def _go_on(self, previous: RevocationList, plan: CrlPlan, change: Difference) -> RevocationList:
        """The next list out of the one before. It is put together once to be signed, and once more as every agent will."""
        builder = crl_builder(plan, self._issuer.certificate, self._validity, change.added)
        rehearsed = self._issuer.rehearse_crl(builder).public_bytes(serialization.Encoding.DER)
        order = await self._aside(previous, self._order_of, previous)
        removed = tuple(at for at, serial in enumerate(order) if serial in change.removed) if change.removed else ()
        tbs = await self._aside(previous, to_be_signed, previous.der, removed, rehearsed)
        step = ListStep(previous.number, removed, outline(rehearsed, await self._issuer.sign_tbs(tbs)))
        bundle, now = self._feed.state.bundle, self._time.wall()
        try:
            made = await self._aside(previous, partial(previous.after, now=now), [step], bundle)
        except HandfastError as error:
            raise Broken(
                f"CRL number {format_crl_number(plan.number)} does not come out of number {format_crl_number(previous.number)}: {error.message}",
                reason="LINT",
            ) from error
        kept = [serial for serial in order if serial not in change.removed] if removed else order
        self._ordered = (made, [*kept, *(revoked.serial for revoked in change.added)])
        return made

    def _order_of(self, crl: RevocationList) -> list[int]:
        """The serials as they stand in the list."""
        known, order = self._ordered
        return order if known is crl else [entry.serial_number for entry in x509.load_der_x509_crl(crl.der)]

    async def _aside(self, crl: RevocationList, work: Callable[..., T], *given: object) -> T:
        """A long list is worked at beside the event loop; handing a short one over would cost more than the work."""
        if len(crl.serials) < LONG:
            return work(*given)
        return await asyncio.to_thread(work, *given)

    def _read(self, der: bytes) -> RevocationList:
        return RevocationList.verify(der, self._feed.state.bundle, now=self._time.wall())
