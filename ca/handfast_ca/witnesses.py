"""Agents as witnesses: what a ledger lost is taken back from the CRLs that agents hold, which the CA signed itself (threat J9).

1. An agent that connects says which list it has (a claim, worth nothing by itself).
2. A list that this process does not know is asked for, from one agent at a time.
3. It is verified with the CA's own key; every revocation on it that the ledger lacks is taken, and told to everybody.
4. A CA that serves, and learns something that way, has an older ledger than it thinks: quarantine begins.
5. A restored CA leaves quarantine when enough identities answered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from handfast.certificates import format_serial
from handfast.errors import HandfastError, Refused
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import Reason, RevocationList
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.feed import Announcement, Feed
from handfast_ca.ledger import CertificateFilter, CertificateRecord, LearntList, Ledger
from handfast_ca.quarantine import Quarantine
from handfast_ca.quorum import EVERYBODY, Quorum
from handfast_ca.status import Level, StatusLine
from handfast_ca.testimony import Checkpoint, Claim, unheard_entries
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Witnesses"]

PATIENCE = 10.0
"""Seconds that an agent has to send a list before the next one that holds it is asked."""
ROUNDS = 4
SLACK = timedelta(hours=1)
SERIALS_IN_LINE = 64
"""As many as an audit line keeps of one value."""
REMEMBERED = 4096
_BY_AGENTS = ("join-token", "renewal", "readmitted")


class Witnesses:
    """Used from one event loop. Who answered is forgotten with the process: agents that connect again answer again."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        issuer: x509.Certificate,
        issuer_key_id: bytes,
        longest: timedelta,
        quarantine: Quarantine,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        released: Callable[[], Awaitable[object]],
        quorum: Quorum = EVERYBODY,
    ) -> None:
        self._unknown = SpiffeId(trust_domain, "/handfast/unknown")
        self._issuer = issuer
        self._key_id = issuer_key_id
        self._longest = longest
        self._quarantine = quarantine
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._released = released
        self._quorum = quorum
        self.patience = PATIENCE
        self._known: set[bytes] = set()
        self._asked: dict[bytes, asyncio.Event] = {}
        self._answered: set[SpiffeId] = set()
        self._expected: dict[SpiffeId, datetime] = {}
        self._unproven: dict[SpiffeId, str] = {}

    async def start(self) -> None:
        """After the ledger's latest CRL was loaded. In quarantine tells what is revoked and on no CRL yet: none is signed."""
        self._note_present()
        if self._quarantine.is_open:
            self._feed.announce(_announcements(await self._list("revoked")))
            await self._expect()

    # --- what agents say --------------------------------------------------------------------------------------------

    async def hear(self, identity: SpiffeId, checkpoint: Checkpoint) -> tuple[bytes, ...]:
        """Digests of the lists that this agent shall send; with none it has answered."""
        self._note_present()
        claims = {claim.digest: claim for claim in checkpoint.claims}
        wanted = [digest for digest, claim in claims.items() if await self._wants(identity, claim)]
        sequence = self._feed.state.bundle.sequence
        if checkpoint.bundle_sequence > sequence:
            self._unproven[identity] = f"bundle sequence {checkpoint.bundle_sequence}, above {sequence}"
        if not wanted:
            self._answered.add(identity)
            await self.review()
        return tuple(wanted)

    async def _wants(self, identity: SpiffeId, claim: Claim) -> bool:
        if claim.issuer_key_id != self._key_id or claim.digest in self._known:
            return False
        if not claim.held:
            present = self._feed.state.crls.get(self._key_id)
            if present is None or claim.number > present.number:
                self._unproven[identity] = f"CRL number {claim.number}, which it no longer has"
            return False
        for _ in range(ROUNDS):
            arriving = self._asked.get(claim.digest)
            if arriving is None:
                break
            arrived = await _within(self.patience, arriving)
            if claim.digest in self._known:
                return False
            if not arrived and self._asked.get(claim.digest) is arriving:
                break  # whoever was asked is gone: this one is asked, and the others wait for it
        self._asked[claim.digest] = asyncio.Event()
        return True

    async def take(self, identity: SpiffeId, der: bytes) -> int:
        """How many revocations the list brought back.

        Raises ``Refused`` (``LIST_NOT_WANTED``), and what :meth:`RevocationList.verify` raises: a forged list teaches
        nothing and counts for nothing.
        """
        facts: dict[str, AuditValue] = {"event": "witness", "spiffe_id": str(identity)}
        async with written_refusals(self._audit, facts):
            digest = hashlib.sha256(der).digest()
            arriving = self._asked.get(digest)
            if arriving is None:
                raise Refused("nobody asked for this list", reason="LIST_NOT_WANTED")
            try:
                learnt = await self._learn(identity, await self._verified(der), facts)
                self._remember(digest)
            finally:
                self._asked.pop(digest, None)
                arriving.set()
        self._answered.add(identity)
        self._unproven.pop(identity, None)
        await self.review()
        return learnt

    async def _verified(self, der: bytes) -> RevocationList:
        verified = await asyncio.to_thread(RevocationList.verify, der, self._feed.state.bundle, now=self._time.wall())
        if verified.issuer_key_id != self._key_id:
            raise Refused(f"the CRL of {verified.issuer!r} is not of this CA", reason="CRL_FOREIGN_ISSUER")
        return verified

    async def _learn(self, identity: SpiffeId, verified: RevocationList, facts: dict[str, AuditValue]) -> int:
        present = self._feed.state.crls.get(self._key_id)
        ahead = present is None or verified.number >= present.number
        now = self._time.wall()
        # What was revoked before has expired, and the ledger may have forgotten it (RFC 5280, 3.3). What the present list
        # names is in the ledger: it was made of it, or learnt.
        unheard = verified.serials - (present.serials if present else frozenset())
        entries = await asyncio.to_thread(unheard_entries, verified.der, now - self._longest - SLACK, unheard)
        until = min(now + self._longest, self._issuer.not_valid_after_utc)
        records = await self._ledger.learn(
            LearntList(
                self._key_id, verified.number, verified.this_update, verified.next_update, entries, verified.der
            ),
            unknown=self._unknown,
            until=until,
        )
        if (ahead or records) and not self._quarantine.is_open:
            found = f"{identity} holds CRL number {verified.number}, which this ledger does not know"
            await self._quarantine.begin(found, max(verified.number, present.number if present else 0))
        if ahead or records:
            await self._tell(identity, verified, records, facts)
        return len(records)

    async def _tell(
        self,
        identity: SpiffeId,
        verified: RevocationList,
        records: Sequence[CertificateRecord],
        facts: dict[str, AuditValue],
    ) -> None:
        """It is durable. The list itself is served from now on when it is the newest that anybody has."""
        self._feed.announce(_announcements(records))
        try:
            self._feed.publish(verified)
        except HandfastError:
            facts["detail"] = "its time does not follow that of the list that is served; its revocations were taken"
        await self._quarantine.note_learnt(len(records))
        said = {**facts, "decision": "granted", "crl_number": str(verified.number), "entries": len(records)}
        await self._audit.append(said, essential=True)
        await self._write_down(str(identity), records)
        await self._expect()

    async def _write_down(self, identity: str, records: Sequence[CertificateRecord]) -> None:
        """As revocations, so that the next restore finds them in the trail."""
        by_reason: dict[Reason, list[str]] = {}
        for record in records:
            by_reason.setdefault(record.reason or Reason.UNSPECIFIED, []).append(format_serial(record.serial))
        for reason, serials in by_reason.items():
            for start in range(0, len(serials), SERIALS_IN_LINE):
                line = {"event": "revoke", "decision": "granted", "reason": str(reason), "by": identity}
                some = serials[start : start + SERIALS_IN_LINE]
                await self._audit.append(
                    {**line, "serials": some, "detail": "learnt from its CRL of this CA"}, essential=True
                )

    # --- when it is enough ------------------------------------------------------------------------------------------

    async def review(self) -> None:
        """Ends the quarantine of a restore when the quorum is met, or its time is over."""
        if not self._quarantine.is_open or self._quarantine.is_found:
            return
        if self._quorum.is_met(self._answered, self._missing()):
            await self._release("ca", loss=False)
        elif self._quorum.is_over(self._quarantine.began_at, self._time.wall()):
            await self._release("restore.wait", loss=bool(self._missing()) or not self._answered)

    async def look_again(self) -> None:
        """As :meth:`review`, after asking the ledger anew who is still to be expected."""
        if self._quarantine.is_open:
            await self._expect()
            await self.review()

    async def release(self, *, by: str, accept_loss: bool) -> None:
        """On an operator's word. Raises ``Refused`` with ``NOT_QUARANTINED`` or ``WITNESSES_MISSING``."""
        facts: dict[str, AuditValue] = {"event": "release", "by": by}
        async with written_refusals(self._audit, facts):
            if not self._quarantine.is_open:
                raise Refused("the CA is not in quarantine", reason="NOT_QUARANTINED")
            enough = self._quorum.is_met(self._answered, self._missing())
            if not (enough or accept_loss):
                raise Refused(
                    f"{self.heard()}: what only the missing ones know would be lost",
                    reason="WITNESSES_MISSING",
                    hint="wait for them, or `handfast ca release --accept-loss`",
                )
        await self._release(by, loss=not enough)

    async def _release(self, by: str, *, loss: bool) -> None:
        await self._quarantine.end(by=by, heard=self.heard(), loss=loss)
        await self._released()

    @property
    def answered(self) -> int:
        return len(self._answered)

    @property
    def expected(self) -> int:
        return len(self._answered) + len(self._missing())

    def _missing(self) -> list[SpiffeId]:
        now = self._time.wall()
        return [one for one, until in self._expected.items() if until >= now and one not in self._answered]

    def heard(self) -> str:
        """``2 of 3 identities answered, missing spiffe://…``."""
        missing = sorted(map(str, self._missing()))
        named = ", missing " + ", ".join(missing[:3]) if missing else ""
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"{self.answered} of {self.expected} identities answered{named}{more}"

    def lines(self) -> tuple[StatusLine, ...]:
        lines = list(self._quarantine.lines(self.heard()))
        if self._unproven:
            identity, what = next(iter(self._unproven.items()))
            detail = f"{len(self._unproven)} identities claim more than this CA knows, {identity} {what}"
            hint = "if the ledger may be older than that, stop the CA and restore the newest backup"
            lines.append(StatusLine("restore", "claims", Level.WARNING, detail, hint))
        return tuple(lines)

    async def _expect(self) -> None:
        """Identities that an agent got a certificate for which is valid now; nobody else would answer."""
        expected: dict[SpiffeId, datetime] = {}
        for record in await self._list("valid"):
            if record.obtained_by in _BY_AGENTS:
                known = expected.get(record.spiffe_id, record.not_after)
                expected[record.spiffe_id] = max(known, record.not_after)
        self._expected = expected

    async def _list(self, status: str) -> list[CertificateRecord]:
        """Unexpired ones."""
        found: list[CertificateRecord] = []
        token, now = "", self._time.wall()
        while True:
            page = await self._ledger.list_certificates(
                CertificateFilter(status=status, now=now), limit=500, token=token
            )
            found += [record for record in page.items if record.not_after >= now]
            token = page.next_token
            if not token:
                return found

    def _note_present(self) -> None:
        present = self._feed.state.crls.get(self._key_id)
        if present is not None:
            self._remember(hashlib.sha256(present.der).digest())

    def _remember(self, digest: bytes) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known.add(digest)


async def _within(seconds: float, arriving: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await arriving.wait()
    except TimeoutError:
        return False
    return True


def _announcements(records: Sequence[CertificateRecord]) -> list[Announcement]:
    return [
        Announcement(record.issuer_key_id, record.serial, record.revoked_at, record.reason)
        for record in records
        if record.revoked_at is not None and record.reason is not None
    ]
