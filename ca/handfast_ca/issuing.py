"""How a certificate is issued: the nine steps of ``docs/issuance-cycle.md``, by their numbers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.certificates import Leaf, format_serial
from handfast.csr import binding, parse_csr
from handfast.errors import Broken, Conflict, Refused, Unauthenticated
from handfast.identity import SpiffeId, TrustDomain
from handfast.lifetime import RenewalWindow, Validity, renewal_window
from handfast_ca.admission import admit, key_policy
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.enrolment import Application, Enrolment, JoinToken, Renewal, present, request_digest
from handfast_ca.entries import Entries
from handfast_ca.feed import Feed, TrustState
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import CertificateRecord, Intention, Ledger
from handfast_ca.lint import IssuerFacts, lint
from handfast_ca.profile import Profile
from handfast_ca.quarantine import Quarantine
from handfast_ca.readmission import readmit
from handfast_ca.registration import Entry, Proof
from handfast_ca.template import LeafPlan, LeafTemplate, new_serial
from handfast_ca.timekeeper import Timekeeper
from handfast_ca.urls import PublicUrls

__all__ = ["Issued", "Issuing"]

Facts = dict[str, AuditValue]

ATTEMPTS = 4
"""An entry that changed under our hands, or a serial that exists already, costs another round: at most so many."""


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer: what the agent needs, and what the ledger keeps. ``repeated``: this request was answered before."""

    chain: tuple[x509.Certificate, ...]
    record: CertificateRecord
    trust: TrustState
    renewal: RenewalWindow
    repeated: bool


class Issuing:
    """Issues for one issuing CA. Used from one event loop.

    Each decision ends in one line of the audit trail, granted or refused, and is finished even when its caller goes away:
    asking again finds the answer.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        issuer: Issuer,
        profile: Profile,
        urls: PublicUrls | None,
        entries: Entries,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        quarantine: Quarantine,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._profile = profile
        self._template = LeafTemplate(issuer.certificate, issuer.key_id, urls)
        self._facts = IssuerFacts.of(issuer.certificate, urls)
        self._entries = entries
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._quarantine = quarantine
        self._random_bytes = random_bytes
        self._deciding: set[asyncio.Task[Issued]] = set()

    async def enrol(self, request: Enrolment) -> Issued:
        """A first certificate, for a join token."""
        facts: Facts = {"event": "enrol", "peer_address": request.peer_address}
        return await self._decide(facts, self._enrol(request, facts))

    async def renew(self, request: Renewal) -> Issued:
        """The next certificate, for the one that the present connection proved. It is of the same identity, always."""
        facts: Facts = {"event": "renew", "peer_address": request.peer_address}
        return await self._decide(facts, self._renew(request, facts))

    async def sign(self, spiffe_id: SpiffeId, csr: bytes, *, by: str, lifetime: timedelta | None = None) -> Issued:
        """A certificate on an operator's word, for an identity whose entry takes that. ``csr`` may be PEM."""
        facts: Facts = {"event": "sign", "by": by}
        application = Application(spiffe_id, csr, "operator", lifetime, proof=Proof.OPERATOR)
        return await self._decide(facts, self._issue(application, facts))

    async def issue_internal(self, spiffe_id: SpiffeId, csr: bytes) -> Issued:
        """A certificate for a reserved identity: the CA itself, or an operator at its first start."""
        facts: Facts = {"event": "issue-internal", "by": "ca"}
        return await self._decide(facts, self._issue(Application(spiffe_id, csr, "internal"), facts))

    async def close(self) -> None:
        """Waits for the decisions that are being made."""
        await asyncio.gather(*self._deciding, return_exceptions=True)

    async def _decide(self, facts: Facts, decision: Coroutine[Any, Any, Issued]) -> Issued:
        task = asyncio.create_task(self._written(facts, decision))
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return await asyncio.shield(task)

    async def _written(self, facts: Facts, decision: Coroutine[Any, Any, Issued]) -> Issued:
        async with written_refusals(self._audit, facts):
            return await decision

    # --- 1. the caller proves who it is -----------------------------------------------------------------------------

    async def _enrol(self, request: Enrolment, facts: Facts) -> Issued:
        """1. Here, by a join token."""
        token = JoinToken.parse(request.token)
        facts["token_prefix"] = token.prefix
        credential = token.text.encode()
        try:
            known = await self._ledger.find_token(token.digest)
        except Unauthenticated:
            record = await self._ledger.answered(request_digest(credential, request.csr), now=self._time.wall())
            if record is None:
                raise
            return await self._answer_again(record, facts)
        if request.spiffe_id and SpiffeId.parse(request.spiffe_id) != known.spiffe_id:
            raise Unauthenticated(f"the join token is not for {request.spiffe_id}", reason="TOKEN_FOREIGN")
        application = Application(
            known.spiffe_id,
            request.csr,
            "join-token",
            request.lifetime,
            credential,
            Proof.JOIN_TOKEN,
            request.peer_address,
            token_digest=token.digest,
        )
        return await self._issue(application, facts)

    async def _renew(self, request: Renewal, facts: Facts) -> Issued:
        """1. Here, by the certificate of its connection."""
        leaf = request.presented
        facts |= {"spiffe_id": str(leaf.spiffe_id), "detail": f"from serial {leaf.serial_text}"}
        self._check_presented(leaf)
        if not self._quarantine.is_open and self._quarantine.may_lack(leaf):
            await readmit(leaf, self._feed.state.bundle, self._ledger, self._audit)
        application = Application(
            leaf.spiffe_id,
            request.csr,
            "renewal",
            request.lifetime,
            leaf.der,
            peer_address=request.peer_address,
            presented=present(leaf),
        )
        return await self._issue(application, facts)

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

    # --- 2 to 9: the steps that all of them share -------------------------------------------------------------------

    async def _issue(self, application: Application, facts: Facts) -> Issued:
        """2. The proof is redeemed once. The entry may have changed since it was read, or the serial may exist: policy is
        judged again then.
        """
        facts |= {
            "spiffe_id": str(application.spiffe_id),
            "obtained_by": application.obtained_by,
            "csr_sha256": hashlib.sha256(application.csr).hexdigest(),
        }
        if application.obtained_by != "internal":
            self._quarantine.check()
        await self._audit.check()
        now = await self._time.now()
        for attempt in range(1, ATTEMPTS + 1):
            entry, from_cache = await self._entries.get(application.spiffe_id)
            try:
                plan = self._admit(application, entry, now)
                answered = await self._intend(application, plan, entry, now)
            except (Refused, Conflict) as refusal:
                again = from_cache or refusal.reason in ("ENTRY_CHANGED", "SERIAL_EXISTS")
                if not again or attempt == ATTEMPTS:
                    raise
                self._entries.forget(application.spiffe_id)
                continue
            if answered is not None:
                return await self._answer_again(answered, facts)
            return await self._finish(plan, facts)
        raise AssertionError("the last attempt returns or raises")

    def _admit(self, application: Application, entry: Entry, now: datetime) -> LeafPlan:
        # 3. The CSR proves possession of the key; from it we take only the public key.
        request = parse_csr(application.csr, keys=key_policy(entry), allow_pem=application.credential is None)
        # 4. Admission decides; the profile gives the validity from now.
        admitted = admit(
            request,
            entry,
            self._profile,
            binding=None if application.credential is None else binding(application.credential),
            lifetime=application.lifetime,
            proof=application.proof,
        )
        issuer_not_after = self._issuer.certificate.not_valid_after_utc
        validity = self._profile.validity(admitted.lifetime, now=now, issuer_not_after=issuer_not_after)
        return LeafPlan(new_serial(self._random_bytes), validity, admitted)

    async def _intend(
        self, application: Application, plan: LeafPlan, entry: Entry, now: datetime
    ) -> CertificateRecord | None:
        """5. The ledger redeems the proof and records the intention, in one transaction. Returns the record of a request
        that was answered before.
        """
        return await self._ledger.intend(
            Intention(
                serial=plan.serial,
                issuer_key_id=self._issuer.key_id,
                spiffe_id=plan.admitted.spiffe_id,
                spki_sha256=plan.admitted.spki_sha256,
                request_digest=self._digest(application),
                dns_names=plan.admitted.dns_names,
                not_before=plan.validity.not_before,
                not_after=plan.validity.not_after,
                obtained_by=application.obtained_by,
                entry_version=entry.version,
                now=now,
                token_digest=application.token_digest,
                peer_address=application.peer_address,
                presented=application.presented,
            )
        )

    def _digest(self, application: Application) -> bytes:
        """Names the request. Without a proof there is nothing to name it by, and each one is new."""
        credential = self._random_bytes(32) if application.credential is None else application.credential
        return request_digest(credential, application.csr)

    async def _finish(self, plan: LeafPlan, facts: Facts) -> Issued:
        # 6. The template builds, a throw-away key signs, the lint reads the finished bytes like a stranger.
        builder = self._template.builder(plan)
        rehearsed = self._issuer.rehearse(builder)
        lint(rehearsed.public_bytes(serialization.Encoding.DER), plan, self._facts)
        # 7. The audit record is durable; the issuing key signs; what it signed is what was linted.
        await self._audit.append(facts | _granted(plan))
        certificate = await self._issuer.sign(builder)
        if certificate.tbs_certificate_bytes != rehearsed.tbs_certificate_bytes:
            raise Broken("the signed certificate is not the one that was linted", reason="LINT")
        # 8. The ledger completes the record. Only now does the answer leave.
        der = certificate.public_bytes(serialization.Encoding.DER)
        record = await self._ledger.complete(plan.serial, self._issuer.key_id, der)
        # 9. The agent checks what it got against what it asked for.
        chain = (certificate, *self._issuer.chain)
        return Issued(chain, record, self._feed.state, renewal_window(plan.validity), repeated=False)

    async def _answer_again(self, record: CertificateRecord, facts: Facts) -> Issued:
        """The first answer was lost. The same one again, and nothing new."""
        assert record.der is not None
        line = facts | {"decision": "granted", "repeated": True, "serial": format_serial(record.serial)}
        await self._audit.append(line | {"spiffe_id": str(record.spiffe_id)})
        certificate = x509.load_der_x509_certificate(record.der)
        issuer = self._feed.state.bundle.issuer(record.issuer_key_id)
        above = self._issuer.chain if issuer is None or issuer == self._issuer.certificate else (issuer,)
        validity = Validity(record.not_before, record.not_after)
        return Issued((certificate, *above), record, self._feed.state, renewal_window(validity), repeated=True)


def _granted(plan: LeafPlan) -> Facts:
    return {
        "decision": "granted",
        "serial": format_serial(plan.serial),
        "dns_names": plan.admitted.dns_names,
        "not_before": plan.validity.not_before.isoformat(),
        "not_after": plan.validity.not_after.isoformat(),
        "public_key_sha256": plan.admitted.spki_sha256.hex(),
    }
