"""Answers what somebody asks about a certificate: never "good" for one that this CA did not issue (threat D9).

Where the truth comes from: the ledger says what was issued, and when and why it was revoked; the feed says, at once and
in memory, what is revoked. What the ledger once said of an issued certificate stays true until the feed says otherwise,
so it is kept for half of an answer's life, and with it the signed answers for those who send no nonce.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.asn1 import TLV
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from handfast.errors import HandfastError, Invalid, NotFound, Unavailable
from handfast.ocsp import LONGEST_LIFE, issuer_hashes
from handfast.revocation import Reason
from handfast_ca.feed import Feed
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import CertificateRecord, Ledger, Status
from handfast_ca.ocsp.encoding import GOOD, UNKNOWN, revoked
from handfast_ca.ocsp.question import Question, read_question
from handfast_ca.ocsp.signer import Signers
from handfast_ca.timekeeper import Timekeeper

__all__ = ["MAX_KNOWN", "Reply", "Responder", "Said"]

_log = logging.getLogger(__name__)
LIFE = LONGEST_LIFE
UNKNOWN_LIFE = timedelta(minutes=1)
"""Shorter: a serial that was promised may be issued in the next moment."""

MAX_KNOWN = 10_000
"""Certificates of which answers are kept; who was not asked about for longest goes first."""

ATTEMPTS = 3


class Said(StrEnum):
    """How a request ended; the last four are errors, which are not signed."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"
    UNAUTHORIZED = "unauthorized"
    TRY_LATER = "try-later"
    INTERNAL_ERROR = "internal-error"


class Reply(NamedTuple):
    """``der`` is an OCSPResponse. Without dates it is an error; ``kept``: it was signed before, for somebody else."""

    der: bytes
    said: Said
    this_update: datetime | None = None
    next_update: datetime | None = None
    nonce: bool = False
    kept: bool = False


def _error(status: ocsp.OCSPResponseStatus, said: Said) -> Reply:
    built = ocsp.OCSPResponseBuilder.build_unsuccessful(status)
    return Reply(built.public_bytes(serialization.Encoding.DER), said)


_MALFORMED = _error(ocsp.OCSPResponseStatus.MALFORMED_REQUEST, Said.MALFORMED)
_UNAUTHORIZED = _error(ocsp.OCSPResponseStatus.UNAUTHORIZED, Said.UNAUTHORIZED)
_TRY_LATER = _error(ocsp.OCSPResponseStatus.TRY_LATER, Said.TRY_LATER)
_INTERNAL_ERROR = _error(ocsp.OCSPResponseStatus.INTERNAL_ERROR, Said.INTERNAL_ERROR)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is true of a serial."""

    said: Said
    status: TLV
    life: timedelta = LIFE


_GOOD = Verdict(Said.GOOD, GOOD)
_UNKNOWN = Verdict(Said.UNKNOWN, UNKNOWN, UNKNOWN_LIFE)


def verdict(record: CertificateRecord | None, issuer_key_id: bytes) -> Verdict:
    """Pure. Good only for what this issuer completed; an intention was promised to somebody, and is not issued yet."""
    if record is None or record.issuer_key_id != issuer_key_id:
        return _UNKNOWN
    if record.revoked_at is not None:
        return Verdict(Said.REVOKED, revoked(record.revoked_at, record.reason or Reason.UNSPECIFIED))
    return _GOOD if record.status is Status.ISSUED else _UNKNOWN


_Form = tuple[x509.ObjectIdentifier, bool]
"""How a CertID names the issuer: the hash, and whether its parameters are there."""


@dataclass(slots=True)
class _Known:
    """A verdict as of ``since``, and what was signed of it: one answer for each way to name the issuer."""

    verdict: Verdict
    since: datetime
    replies: dict[_Form, Reply] = field(default_factory=dict)

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.since + self.verdict.life / 2


class Responder:
    """For one issuing CA. Used from one event loop; raises nothing: every request gets an answer or an error."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        ledger: Ledger,
        feed: Feed,
        time: Timekeeper,
        signers: Signers,
        max_known: int = MAX_KNOWN,
        hold: Callable[[], HandfastError | None] = lambda: None,
    ) -> None:
        self.signers = signers
        self._key_id = issuer.key_id
        self._names = _issuer_names(issuer.certificate)
        self._ledger = ledger
        self._feed = feed
        self._time = time
        self._max_known = max_known
        self._hold = hold
        self._known: OrderedDict[tuple[int, bool], _Known] = OrderedDict()

    @property
    def known(self) -> int:
        return len(self._known)

    async def answer(self, der: bytes) -> Reply:
        """The answer to a DER request, signed or from those that were. What cannot be found out now is tryLater."""
        try:
            question = read_question(der)
        except Invalid:
            return _MALFORMED
        cert = question.cert
        if self._names.get(cert.algorithm.oid) != (cert.issuer_name_hash, cert.issuer_key_hash):
            # RFC 5019, 2.2.3: of other CAs we can say nothing with authority.
            return _UNAUTHORIZED
        try:
            return await self._answer(question)
        except Unavailable as error:
            _log.warning("an OCSP request was not answered: %s (%s)", error.message, error.reason)
            return _TRY_LATER
        except HandfastError as error:
            _log.error("an OCSP request was not answered: %s (%s)", error.message, error.reason)
            return _INTERNAL_ERROR

    async def _answer(self, question: Question) -> Reply:
        cert = question.cert
        held = self._hold()
        if held is not None and not self._revoked(cert.serial):
            raise held  # a restored ledger does not know yet what is good (threat J9)
        # The answer repeats the CertID, so it is kept for each form that one has.
        form = cert.algorithm.oid, cert.algorithm.parameters is not None
        if not question.nonce and (kept := self._kept(cert.serial, form)) is not None:
            return kept
        now = await self._time.now()
        known = self._recall(cert.serial, now) or await self._find_out(cert.serial, now)
        reply = self._sign(question, known.verdict, now)
        if not question.nonce and reply.said is not Said.UNKNOWN:
            known.replies[form] = reply._replace(kept=True)
        return reply

    def _kept(self, serial: int, form: _Form) -> Reply | None:
        """What was signed already may be told again when the clock is wrong, too: its dates say when it was signed."""
        known = self._recall(serial, self._time.wall())
        return None if known is None else known.replies.get(form)

    def _recall(self, serial: int, now: datetime) -> _Known | None:
        """By serial and by what the feed says *now*: a revocation makes all that was kept unreachable."""
        key = serial, self._revoked(serial)
        known = self._known.get(key)
        if known is None or not known.holds(now):
            return None
        self._known.move_to_end(key)
        return known

    def _revoked(self, serial: int) -> bool:
        return self._feed.state.revoked(self._key_id, serial)

    async def _find_out(self, serial: int, now: datetime) -> _Known:
        """Asks the ledger. A revocation is durable there before the feed tells of it, so both are soon of one mind."""
        for _attempt in range(ATTEMPTS):
            found = verdict(await self._record(serial), self._key_id)
            told = self._revoked(serial)
            if not (told and found.said is Said.GOOD):
                known = _Known(found, now.replace(microsecond=0))
                if found.said is not Said.UNKNOWN:
                    self._keep((serial, told), known)
                return known
        raise Unavailable(f"the ledger calls serial {serial:x} good, and it is revoked", reason="LEDGER_BEHIND")

    async def _record(self, serial: int) -> CertificateRecord | None:
        if not 0 < serial < 1 << 159:
            return None  # no serial of a certificate (RFC 5280, 4.1.2.2), so the ledger need not be asked
        try:
            return await self._ledger.find(serial)
        except NotFound:
            return None

    def _keep(self, key: tuple[int, bool], known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def _sign(self, question: Question, found: Verdict, now: datetime) -> Reply:
        """No answer outlives the certificate of its signer (threat D10)."""
        signer = self.signers.present(now)
        this_update = now.replace(microsecond=0)
        if signer is None or signer.validity.not_after <= this_update:
            raise Unavailable("there is no OCSP signer whose certificate is valid", reason="NO_OCSP_SIGNER")
        next_update = min(this_update + found.life, signer.validity.not_after)
        der = signer.sign(question, found.status, this_update, next_update)
        return Reply(der, found.said, this_update, next_update, nonce=bool(question.nonce))


def _issuer_names(issuer: x509.Certificate) -> Mapping[x509.ObjectIdentifier, tuple[bytes, bytes]]:
    """Each way to name our issuer that a client may choose: SHA-1 by lightweight ones (RFC 5019, 2.1.1), SHA-2 by others."""
    algorithms: dict[str, hashes.HashAlgorithm] = {
        "1.3.14.3.2.26": hashes.SHA1(),  # noqa: S303 - a name, not a proof
        "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
        "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
        "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
    }
    return {x509.ObjectIdentifier(oid): issuer_hashes(issuer, one) for oid, one in algorithms.items()}
