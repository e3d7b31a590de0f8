"""Revokes: ledger, audit, feed, CRL, in this order, and only then an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from handfast.certificates import format_serial
from handfast.errors import Broken, HandfastError, Unavailable
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.feed import Announcement, Feed
from handfast_ca.ledger import CertificateRecord, Ledger
from handfast_ca.publisher import Publisher
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Revoked", "Revoker", "announcements"]


@dataclass(frozen=True, slots=True)
class Revoked:
    """What was revoked, and the number of a CRL that carries it: 0 in quarantine, when none is signed.

    ``repeated``: all of it was revoked before.
    """

    serials: tuple[int, ...]
    revoked_at: datetime
    reason: Reason
    crl_number: int
    repeated: bool
    watchers: int


class Revoker:
    """There is no way back: nothing here or anywhere lifts a revocation (threat C8)."""

    def __init__(self, *, ledger: Ledger, audit: AuditLog, feed: Feed, publisher: Publisher, time: Timekeeper) -> None:
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._publisher = publisher
        self._time = time

    async def revoke_serial(self, serial: int, reason: Reason, *, by: str) -> Revoked:
        """The certificate, and all that was renewed from it. Saying it twice is no error, and changes nothing.

        Raises ``NotFound`` (``NO_CERTIFICATE``). Any other error says what is missing: the revocation itself is
        durable.
        """
        facts: dict[str, AuditValue] = {"event": "revoke", "serial": format_serial(serial), "by": by}
        async with written_refusals(self._audit, facts):
            records, repeated = await self._ledger.revoke_serial(serial, reason, now=self._time.wall())
        return await self._proclaim(facts, records, repeated, reason)

    async def revoke_identity(self, spiffe_id: SpiffeId, reason: Reason, *, by: str) -> Revoked:
        """Every certificate of the identity, what is on its way, its tokens: with them, every renewal (threat C9)."""
        facts: dict[str, AuditValue] = {"event": "revoke", "spiffe_id": str(spiffe_id), "by": by}
        async with written_refusals(self._audit, facts):
            records, repeated = await self._ledger.revoke_identity(spiffe_id, reason, now=self._time.wall())
        return await self._proclaim(facts, records, repeated, reason)

    async def revoke_dangling(self) -> int:
        """Intentions of before the last stop: their certificates may exist, so they are revoked (threat J1)."""
        records = await self._ledger.revoke_dangling(now=self._time.wall())
        if records:
            serials = [format_serial(record.serial) for record in records]
            await self._audit.append(
                {
                    "event": "revoke",
                    "decision": "granted",
                    "serials": serials,
                    "detail": "intended, never completed",
                    "by": "ca",
                },
                essential=True,
            )
            self._feed.announce(announcements(records))
        return len(records)

    async def _proclaim(
        self, facts: dict[str, AuditValue], records: Sequence[CertificateRecord], repeated: bool, reason: Reason
    ) -> Revoked:
        """The revocation is durable. Nothing that fails from here on keeps the rest from being told."""
        facts |= {"reason": str(reason), "serials": [format_serial(record.serial) for record in records]}
        failure = await self._write_down({**facts, "decision": "granted", "repeated": repeated})
        self._feed.announce(announcements(records))
        number = await self._proven(records, repeated)
        if failure is not None:
            raise failure
        first = min((record.revoked_at for record in records if record.revoked_at), default=self._time.wall())
        told = next((record.reason for record in records if record.reason), reason)
        return Revoked(tuple(record.serial for record in records), first, told, number, repeated, self._feed.watchers)

    async def _proven(self, records: Sequence[CertificateRecord], repeated: bool) -> int:
        crl = self._publisher.latest
        if crl is not None and repeated and self._carried(records, crl.serials):
            return crl.number
        return 0 if self._publisher.hold() else (await self._publisher.publish()).number

    async def _write_down(self, line: dict[str, AuditValue]) -> HandfastError | None:
        try:
            await self._audit.append(line, essential=True)
        except Unavailable as error:
            return Broken(
                f"it is revoked and told to everybody, but not written to the audit trail: {error.message}",
                reason=error.reason,
                hint="make room for the audit trail, then revoke again to have it written",
            )
        return None

    def _carried(self, records: Sequence[CertificateRecord], serials: frozenset[int]) -> bool:
        now = self._time.wall()
        return all(record.serial in serials or record.not_after < now for record in records)


def announcements(records: Sequence[CertificateRecord]) -> list[Announcement]:
    return [
        Announcement(record.issuer_key_id, record.serial, record.revoked_at, record.reason)
        for record in records
        if record.revoked_at is not None and record.reason is not None
    ]
