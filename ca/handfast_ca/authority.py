"""The CA's use cases. Issuing follows the nine steps of ``docs/issuance-cycle.md``, by their numbers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.bundle import TrustBundle
from handfast.certificates import format_serial
from handfast.clock import Clock
from handfast.csr import binding, parse_csr
from handfast.errors import Broken, Conflict, HandfastError, NotFound, Refused, Unauthenticated
from handfast.identity import SpiffeId, TrustDomain
from handfast.lifetime import RenewalWindow, Validity, renewal_window
from handfast.revocation import RevocationList
from handfast_ca.admission import admit, key_policy
from handfast_ca.audit_trail import AuditLog, AuditValue, write_refusal
from handfast_ca.enrolment import Enrolment, JoinToken, Renewal, present, request_digest
from handfast_ca.feed import Feed, TrustState
from handfast_ca.incident import LiveCertificate, MassFilter
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import (
    CertificateFilter,
    CertificateRecord,
    Intention,
    Ledger,
    Page,
    PresentedCertificate,
)
from handfast_ca.lint import IssuerFacts, lint
from handfast_ca.mass_revoker import MassRevoker
from handfast_ca.ocsp.responder import Responder
from handfast_ca.ocsp.signer import Signers
from handfast_ca.profile import DEFAULT_PROFILE, Profile
from handfast_ca.publisher import Publisher
from handfast_ca.quarantine import Quarantine
from handfast_ca.quorum import EVERYBODY, Quorum
from handfast_ca.readmission import readmit
from handfast_ca.registrar import Registrar
from handfast_ca.registration import Entry, Proof
from handfast_ca.reissuer import Reissuer
from handfast_ca.reports import Reports
from handfast_ca.revoker import Revoker
from handfast_ca.status import StatusLine, status_lines
from handfast_ca.template import LeafPlan, LeafTemplate, new_serial
from handfast_ca.timekeeper import Timekeeper
from handfast_ca.urls import PublicUrls
from handfast_ca.vitals import storage_lines
from handfast_ca.witnesses import Witnesses

__all__ = ["Authority", "Issued"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
Facts = dict[str, AuditValue]

ATTEMPTS = 4
"""An entry that changed under our hands, or a serial that exists already, costs another round: at most so many."""
MAX_CACHED_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer: what the agent needs, and what the ledger keeps. ``repeated``: this request was answered before."""

    chain: tuple[x509.Certificate, ...]
    record: CertificateRecord
    trust: TrustState
    renewal: RenewalWindow
    repeated: bool


@dataclass(frozen=True, slots=True)
class _Application:
    """One request after step 1: whose it is, and what proved that."""

    spiffe_id: SpiffeId
    csr: bytes = field(repr=False)
    obtained_by: str
    lifetime: timedelta | None = None
    credential: bytes | None = field(default=None, repr=False)
    proof: Proof | None = None
    peer_address: str = ""
    token_digest: bytes | None = None
    presented: PresentedCertificate | None = None


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
        self.trust_domain = trust_domain
        self.issuer = issuer
        self.profile = profile
        self.feed = Feed(TrustState(bundle), clock.monotonic)
        self.time = Timekeeper(clock, ledger)
        self._ledger = ledger
        self._audit = audit
        self._random_bytes = random_bytes
        self._facts = IssuerFacts.of(issuer.certificate, urls)
        self._template = LeafTemplate(issuer.certificate, issuer.key_id, urls)
        self._reserved = dict(reserved or {})
        self._root_crls = root_crls
        self.reports = Reports(clock.monotonic)
        self._entries: dict[SpiffeId, Entry] = {}
        self._deciding: set[asyncio.Task[Any]] = set()
        self.quarantine = Quarantine(ledger, audit, self.time, backdate=profile.backdate)
        self._publisher = Publisher(
            issuer=issuer,
            ledger=ledger,
            audit=audit,
            feed=self.feed,
            time=self.time,
            validity=profile.crl_validity,
            hold=self.quarantine.problem,
            sleep=sleep,
        )
        self.witnesses = Witnesses(
            trust_domain=trust_domain,
            issuer=issuer.certificate,
            issuer_key_id=issuer.key_id,
            longest=profile.longest,
            quarantine=self.quarantine,
            ledger=ledger,
            audit=audit,
            feed=self.feed,
            time=self.time,
            released=self._sign_again,
            quorum=quorum,
        )
        self._revoker = Revoker(ledger=ledger, audit=audit, feed=self.feed, publisher=self._publisher, time=self.time)
        signers = Signers(
            trust_domain=trust_domain,
            issuer=issuer,
            ledger=ledger,
            audit=audit,
            feed=self.feed,
            time=self.time,
            random_bytes=random_bytes,
        )
        self.responder = Responder(
            issuer=issuer,
            ledger=ledger,
            feed=self.feed,
            time=self.time,
            signers=signers,
            hold=self.quarantine.problem,
        )
        self._mass_revoker = MassRevoker(
            ledger=ledger,
            audit=audit,
            feed=self.feed,
            publisher=self._publisher,
            time=self.time,
            backdate=profile.backdate,
            longest=profile.longest,
        )
        self._reissuer = Reissuer(ledger=ledger, audit=audit, feed=self.feed, time=self.time, profile=profile)
        registrar = Registrar(
            trust_domain=trust_domain,
            profile=profile,
            ledger=ledger,
            audit=audit,
            time=self.time,
            random_bytes=random_bytes,
        )
        # The verbs of the parts are the authority's own.
        self.add_entry = registrar.add_entry
        self.get_entry = registrar.get_entry
        self.list_entries = registrar.list_entries
        self.remove_entry = registrar.remove_entry
        self.create_token = registrar.create_token
        self.revoke_serial = self._revoker.revoke_serial
        self.revoke_identity = self._revoker.revoke_identity
        self.survey_revocation = self._mass_revoker.survey
        self.revoke_many = self._mass_revoker.revoke
        self.begin_reissue = self._reissuer.begin
        self.reissue_order = self._reissuer.order
        self.reissue_timeline = self._reissuer.timeline
        self.publish_crl = partial(self._publisher.publish, compare=True)

    # --- asking for a certificate -----------------------------------------------------------------------------------

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
        application = _Application(spiffe_id, csr, "operator", lifetime, proof=Proof.OPERATOR)
        return await self._decide(facts, self._issue(application, facts))

    async def issue_internal(self, spiffe_id: SpiffeId, csr: bytes) -> Issued:
        """A certificate for one of ``reserved``: the CA itself, or an operator at its first start."""
        facts: Facts = {"event": "issue-internal", "by": "ca"}
        return await self._decide(facts, self._issue(_Application(spiffe_id, csr, "internal"), facts))

    async def _decide(self, facts: Facts, decision: Coroutine[Any, Any, T]) -> T:
        """A caller that goes away does not stop a decision half way: it is finished, so that asking again finds the
        answer.
        """
        task = asyncio.create_task(self._write_refusal(facts, decision))
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return await asyncio.shield(task)

    async def _write_refusal(self, facts: Facts, decision: Coroutine[Any, Any, T]) -> T:
        try:
            return await decision
        except HandfastError as error:
            await write_refusal(self._audit, facts, error)
            raise

    async def _enrol(self, request: Enrolment, facts: Facts) -> Issued:
        # 1. The caller proves who it is: here, by a join token.
        token = JoinToken.parse(request.token)
        facts["token_prefix"] = token.prefix
        credential = token.text.encode()
        try:
            known = await self._ledger.find_token(token.digest)
        except Unauthenticated:
            record = await self._ledger.answered(request_digest(credential, request.csr), now=self.time.wall())
            if record is None:
                raise
            return await self._answer_again(record, facts)
        if request.spiffe_id and SpiffeId.parse(request.spiffe_id) != known.spiffe_id:
            raise Unauthenticated(f"the join token is not for {request.spiffe_id}", reason="TOKEN_FOREIGN")
        application = _Application(
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
        # 1. The caller proves who it is: here, by the certificate of its connection.
        leaf = request.presented
        facts |= {"spiffe_id": str(leaf.spiffe_id), "detail": f"from serial {leaf.serial_text}"}
        if leaf.spiffe_id.trust_domain != self.trust_domain:
            raise Unauthenticated(
                f"{leaf.spiffe_id} is not of trust domain {self.trust_domain}", reason="FOREIGN_TRUST_DOMAIN"
            )
        if self.time.wall() > leaf.validity.not_after:
            raise Unauthenticated(
                f"the certificate of {leaf} expired at {leaf.validity.not_after:%Y-%m-%dT%H:%M:%SZ}",
                reason="EXPIRED",
                hint="enrol again with a new join token",
            )
        if not self.quarantine.is_open and self.quarantine.may_lack(leaf):
            await readmit(leaf, self.trust().bundle, self._ledger, self._audit)
        application = _Application(
            leaf.spiffe_id,
            request.csr,
            "renewal",
            request.lifetime,
            leaf.der,
            peer_address=request.peer_address,
            presented=present(leaf),
        )
        return await self._issue(application, facts)

    # --- the steps that all of them share ---------------------------------------------------------------------------

    async def _issue(self, application: _Application, facts: Facts) -> Issued:
        facts |= {
            "spiffe_id": str(application.spiffe_id),
            "obtained_by": application.obtained_by,
            "csr_sha256": hashlib.sha256(application.csr).hexdigest(),
        }
        if application.obtained_by != "internal":
            self.quarantine.check()
        await self._audit.check()
        now = await self.time.now()
        for attempt in range(1, ATTEMPTS + 1):
            entry, from_cache = await self._entry(application.spiffe_id)
            try:
                plan, answered = await self._intend(application, entry, now)
            except (Refused, Conflict) as refusal:
                # 2. The entry may have changed since it was read, or the serial may exist: policy is judged again.
                again = from_cache or refusal.reason in ("ENTRY_CHANGED", "SERIAL_EXISTS")
                if not again or attempt == ATTEMPTS:
                    raise
                self._entries.pop(application.spiffe_id, None)
                continue
            if answered is not None:
                return await self._answer_again(answered, facts)
            return await self._finish(plan, facts)
        raise AssertionError("the last attempt returns or raises")

    async def _intend(
        self, application: _Application, entry: Entry, now: datetime
    ) -> tuple[LeafPlan, CertificateRecord | None]:
        # 3. The CSR proves possession of the key; from it we take only the public key.
        request = parse_csr(application.csr, keys=key_policy(entry), allow_pem=application.credential is None)
        # 4. Admission decides; the profile gives the validity from now.
        admitted = admit(
            request,
            entry,
            self.profile,
            binding=None if application.credential is None else binding(application.credential),
            lifetime=application.lifetime,
            proof=application.proof,
        )
        issuer_not_after = self.issuer.certificate.not_valid_after_utc
        validity = self.profile.validity(admitted.lifetime, now=now, issuer_not_after=issuer_not_after)
        plan = LeafPlan(new_serial(self._random_bytes), validity, admitted)
        # 5. The ledger redeems the proof and records the intention, in one transaction.
        answered = await self._ledger.intend(
            Intention(
                serial=plan.serial,
                issuer_key_id=self.issuer.key_id,
                spiffe_id=admitted.spiffe_id,
                spki_sha256=admitted.spki_sha256,
                request_digest=self._digest(application),
                dns_names=admitted.dns_names,
                not_before=validity.not_before,
                not_after=validity.not_after,
                obtained_by=application.obtained_by,
                entry_version=entry.version,
                now=now,
                token_digest=application.token_digest,
                peer_address=application.peer_address,
                presented=application.presented,
            )
        )
        return plan, answered

    def _digest(self, application: _Application) -> bytes:
        """Names the request. Without a proof there is nothing to name it by, and each one is new."""
        credential = self._random_bytes(32) if application.credential is None else application.credential
        return request_digest(credential, application.csr)

    async def _finish(self, plan: LeafPlan, facts: Facts) -> Issued:
        # 6. The template builds, a throw-away key signs, the lint reads the finished bytes like a stranger.
        builder = self._template.builder(plan)
        rehearsed = self.issuer.rehearse(builder)
        lint(rehearsed.public_bytes(serialization.Encoding.DER), plan, self._facts)
        # 7. The audit record is durable; the issuing key signs; what it signed is what was linted.
        await self._audit.append(facts | self._granted(plan))
        certificate = await self.issuer.sign(builder)
        if certificate.tbs_certificate_bytes != rehearsed.tbs_certificate_bytes:
            raise Broken("the signed certificate is not the one that was linted", reason="LINT")
        # 8. The ledger completes the record. Only now does the answer leave.
        der = certificate.public_bytes(serialization.Encoding.DER)
        record = await self._ledger.complete(plan.serial, self.issuer.key_id, der)
        # 9. The agent checks what it got against what it asked for.
        return Issued(
            (certificate, *self.issuer.chain), record, self.trust(), renewal_window(plan.validity), repeated=False
        )

    def _granted(self, plan: LeafPlan) -> Facts:
        return {
            "decision": "granted",
            "serial": format_serial(plan.serial),
            "dns_names": plan.admitted.dns_names,
            "not_before": plan.validity.not_before.isoformat(),
            "not_after": plan.validity.not_after.isoformat(),
            "public_key_sha256": plan.admitted.spki_sha256.hex(),
        }

    async def _answer_again(self, record: CertificateRecord, facts: Facts) -> Issued:
        """The first answer was lost. The same one again, and nothing new."""
        assert record.der is not None
        line = facts | {"decision": "granted", "repeated": True, "serial": format_serial(record.serial)}
        await self._audit.append(line | {"spiffe_id": str(record.spiffe_id)})
        certificate = x509.load_der_x509_certificate(record.der)
        issuer = self.trust().bundle.issuer(record.issuer_key_id)
        above = self.issuer.chain if issuer is None or issuer == self.issuer.certificate else (issuer,)
        validity = Validity(record.not_before, record.not_after)
        return Issued((certificate, *above), record, self.trust(), renewal_window(validity), repeated=True)

    async def _entry(self, spiffe_id: SpiffeId) -> tuple[Entry, bool]:
        """The entry, and whether it comes from memory. An old one does no harm: the ledger compares its version (step
        5).
        """
        known = self._reserved.get(spiffe_id) or self._entries.get(spiffe_id)
        if known is not None:
            return known, spiffe_id in self._entries
        try:
            entry = await self._ledger.get_entry(spiffe_id)
        except NotFound as error:
            raise Refused(error.message, reason=error.reason, hint=error.hint) from error
        if len(self._entries) >= MAX_CACHED_ENTRIES:
            self._entries.clear()
        self._entries[spiffe_id] = entry
        return entry, False

    # --- everything else --------------------------------------------------------------------------------------------

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
        await self._revoker.revoke_dangling()
        await self._mass_revoker.start()
        await self._reissuer.load()
        try:
            await self._publisher.load()
            await self.witnesses.start()
            if not self.quarantine.is_open:
                await self._publisher.publish()
        except HandfastError as error:
            _log.error("no new CRL at the start: %s", error.message)
        await self.reissue_wanted()

    async def _sign_again(self) -> None:
        """The quarantine is over. What keeps the first CRL from being signed now is for :meth:`status` to say."""
        try:
            await self._publisher.publish()
        except HandfastError as error:
            _log.error("no new CRL after the quarantine: %s", error.message)
        await self.reissue_wanted()

    async def reissue_wanted(self) -> None:
        """Gives the order that a restore asked for, as soon as the CA signs: in quarantine nobody could obey it. Called often."""
        if self.quarantine.is_open:
            return
        try:
            await self._reissuer.give_wanted()
        except HandfastError as error:
            _log.error("the reissue that a restore asked for is not ordered yet: %s", error.message)

    def trust(self) -> TrustState:
        return self.feed.state

    async def refuse(self, event: str, error: HandfastError, **facts: AuditValue) -> None:
        """Writes down what an edge refused before it got here: a limit, a caller without permission."""
        await write_refusal(self._audit, {"event": event, **facts}, error)

    async def accept_clock(self, *, by: str) -> None:
        """An operator says that the clock is right although it jumped (threat J8)."""
        before, now = await self.time.accept()
        detail = f"from {before.isoformat() if before else 'never'} to {now.isoformat()}"
        await self._audit.append({"event": "accept-clock", "decision": "granted", "by": by, "detail": detail})

    async def forget_expired(self, *, keep: timedelta = timedelta(days=7)) -> int:
        """Retention. Never a revocation that a CRL still has to carry."""
        return await self._ledger.forget_expired(now=await self.time.now(), keep=keep)

    async def list_certificates(
        self, wanted: CertificateFilter, *, limit: int = 100, token: str = ""
    ) -> Page[CertificateRecord]:
        return await self._ledger.list_certificates(wanted, limit=limit, token=token)

    async def live(self, wanted: MassFilter) -> Sequence[LiveCertificate]:
        """Unexpired certificates that fit, the revoked ones too."""
        return await self._ledger.live(wanted, now=self.time.wall())

    async def certificate(self, serial: int) -> CertificateRecord:
        return await self._ledger.find(serial)

    async def read_audit(self, *, newest_first: bool = False, limit: int = 100, token: str = "") -> Page[str]:
        return await self._audit.read(newest_first=newest_first, limit=limit, token=token)

    async def checkpoint_audit(self) -> None:
        """Keeps the number of the last line in the ledger too, so that a tail cut off together with its head file
        shows.
        """
        await self._ledger.raise_mark("audit", self._audit.position.seq)

    async def counts(self) -> dict[str, int]:
        return await self._ledger.counts(now=self.time.wall())

    def status(self) -> tuple[StatusLine, ...]:
        """What is well and what is not, each with a hint."""
        now = self.time.wall()
        return (
            *self.witnesses.lines(),
            *self._mass_revoker.lines(),
            *status_lines(
                issuer=self.issuer.certificate,
                crl=self._publisher.latest,
                clock_problem=self.time.problem(),
                crl_problem=self._publisher.problem,
                ledger_problem=self._ledger.problem(),
                now=now,
                ocsp=self.responder.signers.line(now),
            ),
        )

    async def look(self) -> tuple[StatusLine, ...]:
        """As :meth:`status`, and whether ledger and audit trail can be written now. Takes a second at most."""
        return (*self.status(), *await storage_lines(self._ledger, self._audit))

    async def close(self) -> None:
        """Waits for the decisions that are being made."""
        await asyncio.gather(*self._deciding, return_exceptions=True)
        await self._mass_revoker.close()
