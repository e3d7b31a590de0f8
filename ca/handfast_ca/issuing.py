"""Asking for a certificate: who asks, and what proves it. All else of the nine steps is :mod:`handfast_ca.cycle`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from functools import partial
from typing import Any

from handfast.certificates import Leaf
from handfast.errors import Unauthenticated
from handfast.identity import SpiffeId, TrustDomain
from handfast_ca.audit_trail import AuditLog, written_refusals
from handfast_ca.cycle import Cycle, Facts, Issued
from handfast_ca.enrolment import Application, Enrolment, JoinToken, Renewal, present, request_digest
from handfast_ca.feed import Feed
from handfast_ca.ledger import CertificateRecord, Ledger, TokenRecord
from handfast_ca.quarantine import Quarantine
from handfast_ca.readmission import readmit
from handfast_ca.registration import Proof
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Issued", "Issuing"]


class Issuing:
    """Issues for one issuing CA. Used from one event loop.

    Each decision ends in one line of the audit trail, granted or refused, and is finished even when its caller goes away:
    asking again finds the answer.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        cycle: Cycle,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        quarantine: Quarantine,
    ) -> None:
        self._trust_domain = trust_domain
        self._cycle = cycle
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._quarantine = quarantine
        self._looking: set[asyncio.Task[Issued]] = set()

    async def enrol(self, request: Enrolment) -> Issued:
        """A first certificate, for a join token."""
        facts: Facts = {"event": "enrol", "peer_address": request.peer_address}
        return await self._finished(self._enrol(request, facts))

    async def renew(self, request: Renewal) -> Issued:
        """The next certificate, for the one that the present connection proved. It is of the same identity, always."""
        leaf = request.presented
        facts: Facts = {
            "event": "renew",
            "peer_address": request.peer_address,
            "spiffe_id": str(leaf.spiffe_id),
            "detail": f"from serial {leaf.serial_text}",
        }
        if not self._quarantine.is_open and self._quarantine.may_lack(leaf):
            return await self._finished(self._readmit_and_renew(request, facts))
        return await self._cycle.decide(partial(self._renewal, request), facts)

    async def sign(self, spiffe_id: SpiffeId, csr: bytes, *, by: str, lifetime: timedelta | None = None) -> Issued:
        """A certificate on an operator's word, for an identity whose entry takes that. ``csr`` may be PEM."""
        application = Application(spiffe_id, csr, "operator", lifetime, proof=Proof.OPERATOR)
        return await self._cycle.decide(lambda: application, {"event": "sign", "by": by})

    async def issue_internal(self, spiffe_id: SpiffeId, csr: bytes) -> Issued:
        """A certificate for a reserved identity: the CA itself, or an operator at its first start."""
        application = Application(spiffe_id, csr, "internal")
        return await self._cycle.decide(lambda: application, {"event": "issue-internal", "by": "ca"})

    async def close(self) -> None:
        """Waits for the decisions that are being made."""
        await asyncio.gather(*self._looking, return_exceptions=True)
        await self._cycle.close()

    async def _finished(self, decision: Coroutine[Any, Any, Issued]) -> Issued:
        task = asyncio.create_task(decision)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)
        return await asyncio.shield(task)

    async def _enrol(self, request: Enrolment, facts: Facts) -> Issued:
        async with written_refusals(self._audit, facts):
            token = JoinToken.parse(request.token)
            facts["token_prefix"] = token.prefix
            found = await self._look_up(token, request)
            if isinstance(found, CertificateRecord):
                return await self._cycle.answer_again(found, facts)
        return await self._cycle.decide(partial(self._enrolment, token, request, found), facts)

    async def _look_up(self, token: JoinToken, request: Enrolment) -> TokenRecord | CertificateRecord:
        """Whose request this is, or the answer that it got before."""
        try:
            return await self._ledger.find_token(token.digest)
        except Unauthenticated:
            digest = request_digest(token.text.encode(), request.csr)
            record = await self._ledger.answered(digest, now=self._time.wall())
            if record is None:
                raise
            return record

    # --- 1. the caller proves who it is -----------------------------------------------------------------------------

    def _enrolment(self, token: JoinToken, request: Enrolment, known: TokenRecord) -> Application:
        """By a join token."""
        if request.spiffe_id and SpiffeId.parse(request.spiffe_id) != known.spiffe_id:
            raise Unauthenticated(f"the join token is not for {request.spiffe_id}", reason="TOKEN_FOREIGN")
        return Application(
            known.spiffe_id,
            request.csr,
            "join-token",
            request.lifetime,
            token.text.encode(),
            Proof.JOIN_TOKEN,
            request.peer_address,
            token_digest=token.digest,
        )

    async def _readmit_and_renew(self, request: Renewal, facts: Facts) -> Issued:
        """After a restore the ledger may lack what was issued since the backup."""
        async with written_refusals(self._audit, facts):
            self._check_presented(request.presented)
            await readmit(request.presented, self._feed.state.bundle, self._ledger, self._audit)
        return await self._cycle.decide(partial(self._renewal, request), facts)

    def _renewal(self, request: Renewal) -> Application:
        """By the certificate of its connection."""
        leaf = request.presented
        self._check_presented(leaf)
        return Application(
            leaf.spiffe_id,
            request.csr,
            "renewal",
            request.lifetime,
            leaf.der,
            peer_address=request.peer_address,
            presented=present(leaf),
        )

    def _check_presented(self, leaf: Leaf) -> None:
        if leaf.spiffe_id.trust_domain != self._trust_domain:
            raise Unauthenticated(
                f"{leaf.spiffe_id} is not of trust domain {self._trust_domain}", reason="FOREIGN_TRUST_DOMAIN"
            )
        if self._time.wall() > leaf.validity.not_after:
            raise Unauthenticated(
                f"the certificate of {leaf} expired at {leaf.validity.not_after:%Y-%m-%dT%H:%M:%SZ}",
                reason="EXPIRED",
                hint="enrol again with a new join token",
            )
