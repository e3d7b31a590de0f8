"""Who signs OCSP answers: a key that lives in memory, under a certificate that the issuing CA gives it for a day.

The issuing key itself signs no answer: what strangers can ask for as often as they like must not need the key that makes
certificates.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.asn1 import TLV
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.certificates import format_serial
from handfast.errors import Broken, HandfastError
from handfast.identity import SpiffeId, TrustDomain
from handfast.keys import spki_sha256
from handfast.lifetime import Validity
from handfast.ocsp import OcspAnswer, build_request
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.feed import Feed
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import Intention, Ledger
from handfast_ca.lint import IssuerFacts
from handfast_ca.ocsp.certificate import (
    RESPONDER_PROFILE,
    ResponderPlan,
    lint_responder,
    responder_builder,
    responder_name,
)
from handfast_ca.ocsp.encoding import GOOD, Writer
from handfast_ca.ocsp.question import Question, read_question
from handfast_ca.status import Level, StatusLine
from handfast_ca.template import new_serial
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Signer", "Signers"]

_log = logging.getLogger(__name__)
_ECDSA = ec.ECDSA(hashes.SHA256())


class Signer:
    """A P-256 key and its certificate. What is the same in all of its answers is made once."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.validity = Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        self._writer = Writer(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest,
            certificate.public_bytes(serialization.Encoding.DER),
            lambda data: key.sign(data, _ECDSA),
        )

    def sign(self, question: Question, status: TLV, this_update: datetime, next_update: datetime) -> bytes:
        """The answer in DER, with the question's own CertID and nonce."""
        return self._writer.write(question.cert_der, status, question.nonce, this_update, next_update)

    def __repr__(self) -> str:
        return f"Signer({self.certificate.subject.rfc4514_string()!r})"


class Signers:
    """Keeps one signer that is good now: renewed at half of its life, and at once when somebody revoked it.

    Used from one event loop. A renewal that fails leaves the present one in place, to the end of its certificate.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        issuer: Issuer,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._identity = SpiffeId(trust_domain, "/handfast/ocsp")
        self._issuer = issuer
        self._facts = IssuerFacts.of(issuer.certificate)
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._random_bytes = random_bytes
        self._present: Signer | None = None
        self._problem: HandfastError | None = None
        self.wanted = False

    def present(self, now: datetime) -> Signer | None:
        """None before the first one, and when its certificate ended (threat D10)."""
        signer = self._present
        return signer if signer is not None and signer.validity.contains(now) else None

    async def renew_if_due(self) -> None:
        """Looks, and renews when it is time. What fails is logged and told in :meth:`line`; it is tried again at the
        next look.
        """
        self.wanted = True
        if not self._due(self._time.wall()):
            return
        try:
            self._present = await self.renewed()
            self._problem = None
        except HandfastError as error:
            self._problem = error
            _log.error("no new OCSP signer: %s (%s)", error.message, error.reason)

    def _due(self, now: datetime) -> bool:
        signer = self._present
        if signer is None:
            return True
        half = signer.validity.not_before + signer.validity.duration / 2
        return now >= half or self._feed.state.revoked(self._issuer.key_id, signer.certificate.serial_number)

    async def renewed(self) -> Signer:
        """A new key and certificate, by the steps of every certificate (docs/issuance-cycle.md, from 4 on)."""
        facts: dict[str, AuditValue] = {
            "event": "issue-ocsp-signer", "spiffe_id": str(self._identity), "by": "ca", "obtained_by": "internal",
        }  # fmt: skip
        async with written_refusals(self._audit, facts):
            await self._audit.check()
            now = await self._time.now()
            key = ec.generate_private_key(ec.SECP256R1())
            # 4. The profile gives the validity from now.
            plan = self._plan(key.public_key(), now)
            # 5. The ledger records the intention.
            await self._ledger.intend(self._intention(plan, now))
            certificate = await self._signed(plan, facts)
            signer = Signer(certificate, key)
            self._rehearse(signer, now)
            return signer

    def _plan(self, public_key: ec.EllipticCurvePublicKey, now: datetime) -> ResponderPlan:
        end = self._issuer.certificate.not_valid_after_utc
        validity = RESPONDER_PROFILE.validity(RESPONDER_PROFILE.longest, now=now, issuer_not_after=end)
        serial = new_serial(self._random_bytes)
        return ResponderPlan(serial, validity, responder_name(self._identity.trust_domain, serial), public_key)

    def _intention(self, plan: ResponderPlan, now: datetime) -> Intention:
        return Intention(
            serial=plan.serial,
            issuer_key_id=self._issuer.key_id,
            spiffe_id=self._identity,
            spki_sha256=spki_sha256(plan.public_key),
            request_digest=hashlib.sha256(self._random_bytes(32)).digest(),
            dns_names=(),
            not_before=plan.validity.not_before,
            not_after=plan.validity.not_after,
            obtained_by="internal",
            entry_version=0,
            now=now,
        )

    async def _signed(self, plan: ResponderPlan, facts: dict[str, AuditValue]) -> x509.Certificate:
        # 6. A throw-away key signs, the lint reads the finished bytes.
        builder = responder_builder(plan, self._issuer.certificate.subject, self._issuer.key_id)
        rehearsed = self._issuer.rehearse(builder)
        lint_responder(rehearsed.public_bytes(serialization.Encoding.DER), plan, self._facts)
        # 7. The audit record is durable; the issuing key signs; what it signed is what was linted.
        facts |= {
            "serial": format_serial(plan.serial),
            "not_before": plan.validity.not_before.isoformat(),
            "not_after": plan.validity.not_after.isoformat(),
            "public_key_sha256": spki_sha256(plan.public_key).hex(),
        }
        await self._audit.append({**facts, "decision": "granted"})
        certificate = await self._issuer.sign(builder)
        if certificate.tbs_certificate_bytes != rehearsed.tbs_certificate_bytes:
            raise Broken("the signed certificate is not the one that was linted", reason="LINT")
        # 8. The ledger completes the record. Only now may it sign.
        der = certificate.public_bytes(serialization.Encoding.DER)
        await self._ledger.complete(plan.serial, self._issuer.key_id, der)
        return certificate

    def _rehearse(self, signer: Signer, now: datetime) -> None:
        """One answer, about itself, read by the reader that agents and services use. Raises what that raises."""
        issuer, serial = self._issuer.certificate, signer.certificate.serial_number
        nonce = self._random_bytes(32)
        question = read_question(build_request(serial, issuer, nonce=nonce))
        moment = now.replace(microsecond=0)
        answer = signer.sign(question, GOOD, moment, moment + timedelta(minutes=1))
        OcspAnswer.verify(answer, serial=serial, issuer=issuer, now=moment, nonce=nonce).require_good()

    def line(self, now: datetime) -> StatusLine | None:
        """For `handfast status` and ``/readyz``. None where nobody wants a signer: OCSP is switched off."""
        if not self.wanted:
            return None
        signer = self.present(now)
        hint = "the log says why; `handfast audit list` has the line" if self._problem else ""
        why = f": {self._problem.message}" if self._problem else ""
        if signer is None:
            return StatusLine("revocation", "ocsp", Level.FAILED, f"nobody can sign OCSP answers{why}", hint)
        detail = f"answers are signed until {signer.validity.not_after:%Y-%m-%dT%H:%M:%SZ}{why}"
        return StatusLine("revocation", "ocsp", Level.WARNING if self._problem else Level.OK, detail, hint)
