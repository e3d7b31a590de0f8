"""The CA's use cases behind one door: what the edges call, and nothing of how it is done.

Issuing is in :mod:`handfast_ca.issuing`; what stands on what is in :mod:`handfast_ca.assembly`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

from handfast.bundle import TrustBundle
from handfast.clock import Clock
from handfast.errors import HandfastError
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import RevocationList
from handfast_ca.assembly import Parts
from handfast_ca.audit_trail import AuditLog, AuditValue, write_refusal
from handfast_ca.feed import TrustState
from handfast_ca.incident import LiveCertificate, MassFilter
from handfast_ca.issuer import Issuer
from handfast_ca.issuing import Issued
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Ledger, Page
from handfast_ca.profile import DEFAULT_PROFILE, Profile
from handfast_ca.quorum import EVERYBODY, Quorum
from handfast_ca.registration import Entry
from handfast_ca.status import StatusLine, status_lines
from handfast_ca.urls import PublicUrls
from handfast_ca.vitals import storage_lines

__all__ = ["Authority", "Issued"]

_log = logging.getLogger(__name__)


class Authority:
    """One issuing CA over one ledger. Used from one event loop.

    ``reserved`` are the identities below ``/handfast/``: the CA's own and its operators', which the configuration
    names and no entry gives. ``root_crls`` are the roots' lists, signed at the ceremony, since an offline root signs
    nothing here.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        issuer: Issuer,
        bundle: TrustBundle,
        ledger: Ledger,
        audit: AuditLog,
        clock: Clock,
        profile: Profile = DEFAULT_PROFILE,
        urls: PublicUrls | None = None,
        reserved: Mapping[SpiffeId, Entry] | None = None,
        root_crls: tuple[bytes, ...] = (),
        quorum: Quorum = EVERYBODY,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._root_crls = root_crls
        self._parts = Parts(
            trust_domain=trust_domain,
            issuer=issuer,
            bundle=bundle,
            ledger=ledger,
            audit=audit,
            clock=clock,
            profile=profile,
            urls=urls,
            reserved=reserved or {},
            quorum=quorum,
            random_bytes=random_bytes,
            sleep=sleep,
        )
        self._show(self._parts)

    def _show(self, parts: Parts) -> None:
        """What the edges see of the parts. Their verbs are the authority's own."""
        self.trust_domain, self.issuer, self.profile = parts.trust_domain, parts.issuer, parts.profile
        self.feed, self.time, self.quarantine = parts.feed, parts.time, parts.quarantine
        self.witnesses, self.responder, self.reports = parts.witnesses, parts.responder, parts.reports

        self.enrol = parts.issuing.enrol
        self.renew = parts.issuing.renew
        self.sign = parts.issuing.sign
        self.issue_internal = parts.issuing.issue_internal

        self.add_entry = parts.registrar.add_entry
        self.get_entry = parts.registrar.get_entry
        self.list_entries = parts.registrar.list_entries
        self.remove_entry = parts.registrar.remove_entry
        self.create_token = parts.registrar.create_token

        self.revoke_serial = parts.revoker.revoke_serial
        self.revoke_identity = parts.revoker.revoke_identity
        self.publish_crl = partial(parts.publisher.publish, compare=True)
        self.survey_revocation = parts.mass_revoker.survey
        self.revoke_many = parts.mass_revoker.revoke

        self.begin_reissue = parts.reissuer.begin
        self.reissue_order = parts.reissuer.order
        self.reissue_timeline = parts.reissuer.timeline

    async def start(self) -> None:
        """Takes up where the last process stopped: what was intended and never completed is revoked, the CRL is
        renewed.

        A CA that cannot sign now (its clock jumped, its ledger lost revocations) starts all the same and serves the CRL
        it has: :meth:`status` says what is wrong.
        """
        await self.time.start()
        for der in self._root_crls:
            self.feed.publish(RevocationList.verify(der, self.feed.state.bundle, now=self.time.wall()))
        await self.quarantine.start()
        await self._parts.revoker.revoke_dangling()
        await self._parts.reissuer.load()
        try:
            await self._parts.publisher.load()
            await self.witnesses.start()
            if not self.quarantine.is_open:
                await self._parts.publisher.publish()
        except HandfastError as error:
            _log.error("no new CRL at the start: %s", error.message)

    def trust(self) -> TrustState:
        return self.feed.state

    async def refuse(self, event: str, error: HandfastError, **facts: AuditValue) -> None:
        """Writes down what an edge refused before it got here: a limit, a caller without permission."""
        await write_refusal(self._parts.audit, {"event": event, **facts}, error)

    async def accept_clock(self, *, by: str) -> None:
        """An operator says that the clock is right although it jumped (threat J8)."""
        before, now = await self.time.accept()
        detail = f"from {before.isoformat() if before else 'never'} to {now.isoformat()}"
        await self._parts.audit.append({"event": "accept-clock", "decision": "granted", "by": by, "detail": detail})

    async def forget_expired(self, *, keep: timedelta = timedelta(days=7)) -> int:
        """Retention. Never a revocation that a CRL still has to carry."""
        return await self._parts.ledger.forget_expired(now=await self.time.now(), keep=keep)

    async def list_certificates(
        self, wanted: CertificateFilter, *, limit: int = 100, token: str = ""
    ) -> Page[CertificateRecord]:
        return await self._parts.ledger.list_certificates(wanted, limit=limit, token=token)

    async def live(self, wanted: MassFilter) -> Sequence[LiveCertificate]:
        """Unexpired certificates that fit, the revoked ones too."""
        return await self._parts.ledger.live(wanted, now=self.time.wall())

    def is_reserved(self, name: str) -> bool:
        """The CA's own identity, or one of its operators'."""
        return self._parts.entries.is_reserved(SpiffeId.parse(name))

    async def certificate(self, serial: int) -> CertificateRecord:
        return await self._parts.ledger.find(serial)

    async def read_audit(self, *, newest_first: bool = False, limit: int = 100, token: str = "") -> Page[str]:
        return await self._parts.audit.read(newest_first=newest_first, limit=limit, token=token)

    async def checkpoint_audit(self) -> None:
        """Keeps the number of the last line in the ledger too, so that a tail cut off together with its head file
        shows.
        """
        await self._parts.ledger.raise_mark("audit", self._parts.audit.position.seq)

    async def counts(self) -> dict[str, int]:
        return await self._parts.ledger.counts(now=self.time.wall())

    def status(self) -> tuple[StatusLine, ...]:
        """What is well and what is not, each with a hint."""
        now = self.time.wall()
        return (
            *self.witnesses.lines(),
            *status_lines(
                issuer=self.issuer.certificate,
                crl=self._parts.publisher.latest,
                clock_problem=self.time.problem(),
                crl_problem=self._parts.publisher.problem,
                ledger_problem=self._parts.ledger.problem(),
                now=now,
                ocsp=self.responder.signers.line(now),
            ),
        )

    async def look(self) -> tuple[StatusLine, ...]:
        """As :meth:`status`, and whether ledger and audit trail can be written now. Takes a second at most."""
        return (*self.status(), *await storage_lines(self._parts.ledger, self._parts.audit))

    async def close(self) -> None:
        """Waits for the decisions that are being made."""
        await self._parts.issuing.close()
        await self._parts.mass_revoker.close()
