"""What the CA must never forget, as ports: entries, join tokens, certificates, revocations, CRLs, marks.

Every method is one atomic, durable step: when it returns, a power cut does not undo it; when it raises, nothing
happened. Implementations order by their own sequence, never by wall clock (threat J6). Times are whole seconds, UTC.
One contract test suite (``tests/ca/ledger_contract.py``) runs against every implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.incident import LiveCertificate, MassFilter, Reissue, Standing
from handfast_ca.registration import Entry

__all__ = [
    "CRL_EPOCH",
    "CertificateBook",
    "CertificateFilter",
    "CertificateRecord",
    "Completion",
    "CrlPlan",
    "Incidents",
    "Intention",
    "LearntList",
    "Ledger",
    "Marks",
    "Page",
    "PresentedCertificate",
    "Recovery",
    "Registrations",
    "RevocationBook",
    "RevokedEntry",
    "Status",
    "TokenRecord",
]


CRL_EPOCH = "crl-epoch"
"""The mark that a restore raises, so that CRL numbers rise whatever was lost (threat J9)."""
T = TypeVar("T")


class Status(StrEnum):
    """INTENDED: a serial was promised, perhaps signed, never handed out. ISSUED: it may be in somebody's hands."""

    INTENDED = "intended"
    ISSUED = "issued"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A join token as it is kept: its SHA-256, never itself. ``prefix`` is what logs may show."""

    digest: bytes
    prefix: str
    spiffe_id: SpiffeId
    expires_at: datetime
    created_by: str
    allowed_cidr: str = ""


@dataclass(frozen=True, slots=True)
class PresentedCertificate:
    """The certificate that a renewal stands on, as our handshake proved it (threat C1: all three must match)."""

    issuer_key_id: bytes
    serial: int
    der_sha256: bytes
    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Intention:
    """One certificate that is about to be signed.

    ``request_digest`` is SHA-256 over the credential and the CSR: the same request again is answered again.
    Exactly one of ``token_digest`` and ``presented`` is set, or neither when an operator or the CA itself asks.
    """

    serial: int
    issuer_key_id: bytes
    spiffe_id: SpiffeId
    spki_sha256: bytes
    request_digest: bytes
    dns_names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    obtained_by: str
    entry_version: int
    now: datetime
    token_digest: bytes | None = None
    peer_address: str = ""
    presented: PresentedCertificate | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A signed certificate, which completes the record of its intention."""

    serial: int
    issuer_key_id: bytes
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """What is kept of one serial. ``der`` is there once the certificate was completed."""

    serial: int
    issuer_key_id: bytes
    spiffe_id: SpiffeId
    spki_sha256: bytes
    dns_names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    obtained_by: str
    status: Status
    der: bytes | None = field(default=None, repr=False)
    parent_serial: int | None = None
    revoked_at: datetime | None = None
    reason: Reason | None = None

    def completed(self, der: bytes) -> CertificateRecord:
        return replace(self, status=Status.ISSUED, der=der)

    def describe(self, now: datetime) -> str:
        """``intended``, ``valid``, ``revoked`` or ``expired``: the words of the contract."""
        if self.revoked_at is not None:
            return "revoked"
        if now > self.not_after:
            return "expired"
        return "valid" if self.status is Status.ISSUED else "intended"


@dataclass(frozen=True, slots=True)
class CertificateFilter:
    """``identity_glob`` is a shell pattern over the whole ID. ``expiring_before`` bounds notAfter from above."""

    identity_glob: str = ""
    status: str = ""
    expiring_before: datetime | None = None
    now: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """At most 500 items; ``next_token`` is empty on the last page, and opaque to callers."""

    items: tuple[T, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """One line of a CRL."""

    serial: int
    revoked_at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class CrlPlan:
    """What the next CRL of an issuer must say. ``number`` is spent, whether or not the CRL gets signed.

    Told as a difference from the list numbered ``base``: ``entries`` come, ``removed`` leave, ``total`` are on it then. Base 0
    is the list without entries, so that ``entries`` are all. ``unlisted`` are those of ``entries`` that no recorded list has
    had. ``turn`` is the number of the list that was the newest when this was planned.
    """

    issuer_key_id: bytes
    number: int
    this_update: datetime
    entries: tuple[RevokedEntry, ...]
    base: int = 0
    removed: tuple[int, ...] = ()
    total: int = 0
    unlisted: tuple[int, ...] = ()
    turn: int = 0


@dataclass(frozen=True, slots=True)
class LearntList:
    """A CRL of this CA that somebody else kept. Its signature was verified; ``entries`` is what is taken from it."""

    issuer_key_id: bytes
    number: int
    this_update: datetime
    next_update: datetime
    entries: tuple[RevokedEntry, ...]
    der: bytes = field(repr=False)


class Registrations(Protocol):
    """Entries and join tokens."""

    async def add_entry(self, entry: Entry) -> Entry:
        """Stores with ``version`` set past every version this identity ever had. ``Conflict`` (``ENTRY_EXISTS``) when
        there is one already.
        """
        ...

    async def get_entry(self, spiffe_id: SpiffeId) -> Entry:
        """``NotFound`` (``NO_ENTRY``)."""
        ...

    async def list_entries(self, identity_glob: str = "", *, limit: int = 100, token: str = "") -> Page[Entry]: ...

    async def remove_entry(self, spiffe_id: SpiffeId) -> None:
        """Also removes its join tokens; renewals end with it. ``NotFound`` (``NO_ENTRY``)."""
        ...

    async def add_token(self, token: TokenRecord) -> None:
        """``NotFound`` (``NO_ENTRY``) unless the identity has an entry."""
        ...

    async def find_token(self, digest: bytes) -> TokenRecord:
        """Looks without redeeming: whose request is this? Expired ones are found too. ``Unauthenticated``
        (``TOKEN_SPENT``) when it is unknown or spent.
        """
        ...


class CertificateBook(Protocol):
    """From intention to completed record."""

    async def intend(self, intention: Intention) -> CertificateRecord | None:
        """Redeems the proof and records the intention in one transaction. None: accepted.

        A record: this very request was answered before (same ``request_digest``, completed, neither revoked nor
        expired); nothing was changed, answer with it.

        Judged in the transaction: the entry exists with ``entry_version`` (``Refused`` ``NO_ENTRY``,
        ``ENTRY_CHANGED``); the token, by one ``DELETE … RETURNING`` (``Unauthenticated`` ``TOKEN_SPENT`` when unknown
        or spent, ``TOKEN_EXPIRED``, ``TOKEN_FOREIGN`` for another identity, ``TOKEN_ADDRESS``); the presented
        certificate, which must be known, completed, byte-equal, of this identity, unrevoked and unexpired
        (``Unauthenticated`` ``REVOKED``, ``EXPIRED``, ``UNKNOWN_CERTIFICATE``); the public key, neither blocked
        (``Refused`` ``KEY_BLOCKED``) nor in use by another live identity (``KEY_IN_USE``); the serial, unused for
        this issuer (``Conflict`` ``SERIAL_EXISTS``).

        ``entry_version`` 0 skips the entry (the CA's own certificates).
        """
        ...

    async def intend_all(self, intentions: Sequence[Intention]) -> Sequence[CertificateRecord | HandfastError | None]:
        """As many :meth:`intend`, one after the other, durable together. Each has its answer, in their order; what one
        of them would raise stands in its place, and its neighbours are recorded.
        """
        ...

    async def complete(self, serial: int, issuer_key_id: bytes, der: bytes) -> CertificateRecord:
        """``Refused`` (``REVOKED``) when the identity or its parent was revoked since the intention (threat C4):
        the serial is then marked revoked, and the answer must not leave."""
        ...

    async def complete_all(self, completions: Sequence[Completion]) -> Sequence[CertificateRecord | HandfastError]:
        """To :meth:`complete` as :meth:`intend_all` is to :meth:`intend`."""
        ...

    async def answered(self, request_digest: bytes, *, now: datetime) -> CertificateRecord | None:
        """The completed record of this very request, when it is neither revoked nor expired."""
        ...

    async def find(self, serial: int) -> CertificateRecord:
        """``NotFound`` (``NO_CERTIFICATE``)."""
        ...

    async def list_certificates(
        self, wanted: CertificateFilter, *, limit: int = 100, token: str = ""
    ) -> Page[CertificateRecord]: ...

    async def revoke_dangling(self, *, now: datetime) -> Sequence[CertificateRecord]:
        """At start-up: every intention that was never completed becomes revoked, since its certificate may exist."""
        ...

    async def forget_expired(self, *, now: datetime, keep: timedelta) -> int:
        """Removes records that expired more than ``keep`` ago; a revoked one only after a CRL whose thisUpdate lies
        past its notAfter has carried it (RFC 5280, 3.3) *and* the latest CRL no longer carries it, so that whoever
        signs a CRL can still look up why an entry left (threat D4). Returns how many.
        """
        ...


class RevocationBook(Protocol):
    """Revocations and the CRLs that prove them."""

    async def revoke_serial(
        self, serial: int, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        """The serial and what was renewed from it; the flag is True when all of it was revoked before (the first
        reason and time stay). KEY_COMPROMISE also blocks the public key. ``NotFound`` (``NO_CERTIFICATE``)."""
        ...

    async def revoke_identity(
        self, spiffe_id: SpiffeId, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        """All unexpired serials of the identity, its intentions and its tokens; the entry stays but its ``version``
        rises, so that nothing in flight commits. ``NotFound`` (``NO_CERTIFICATE``) when there is neither certificate
        nor entry.
        """
        ...

    async def plan_crl(self, issuer_key_id: bytes, *, now: datetime, base: int = 0) -> CrlPlan:
        """The next number, and ``this_update = max(last + 1 s, now - 30 s)``, never ahead of ``now``
        (``Exhausted`` ``CRL_TOO_SOON`` when thirty were spent in this second: share the next one). Numbers are
        ``epoch * 2^64 + sequence`` (RFC 5280, 5.2.3: 20 octets at most), the epoch being the mark :data:`CRL_EPOCH`.

        On it are all revoked serials of the issuer, except those that a recorded CRL with a thisUpdate past their
        notAfter has carried. ``base`` is the number of the list that the caller has: when it is the newest that was recorded,
        only the difference is looked up, at the cost of what changed; else the plan is whole. Numbers are
        ``epoch * 2^64 + sequence`` (RFC 5280, 5.2.3: 20 octets at most), the epoch being the mark :data:`CRL_EPOCH`."""
        ...

    async def record_crl(self, plan: CrlPlan, der: bytes, next_update: datetime) -> None:
        """Keeps the newest CRL, and notes which expired certificates it carried.

        ``Conflict`` (``CRL_OUT_OF_TURN``) when another list was recorded since the plan was made: this one must not be
        published, whoever signed it (threat J5). ``Invalid`` (``CRL_UNPLANNED``)."""
        ...

    async def latest_crl(self, issuer_key_id: bytes) -> bytes | None: ...


class Recovery(Protocol):
    """What a ledger that lost its last hours takes back (threat J9)."""

    async def learn(self, learnt: LearntList, *, unknown: SpiffeId, until: datetime) -> tuple[CertificateRecord, ...]:
        """Revokes what the list names and this ledger does not have as revoked; returns exactly that.

        A serial that was never seen is kept as a revoked certificate of ``unknown`` that ends at ``until``, never
        completed. KEY_COMPROMISE blocks the public keys that are known. The next number and thisUpdate come after those of the
        list: a number past the own ones begins a new epoch. It becomes the latest CRL when its number is higher.
        """
        ...

    async def readmit(self, record: CertificateRecord) -> None:
        """Takes a completed certificate in, as issued. ``Conflict`` (``SERIAL_EXISTS``) when its serial is known,
        ``Refused`` (``KEY_BLOCKED``)."""
        ...


class Incidents(Protocol):
    """What concerns many certificates at once."""

    async def live(self, wanted: MassFilter, *, now: datetime) -> Sequence[LiveCertificate]:
        """Unexpired certificates that fit, intended ones among them, in the order of the book; changes nothing."""
        ...

    async def revoke_serials(
        self, serials: Sequence[int], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        """All of them in one step, and nothing that was renewed from them. Returns those that were not revoked before;
        unknown ones are passed over. KEY_COMPROMISE also blocks their public keys."""
        ...

    async def revoke_identities(
        self, identities: Sequence[SpiffeId], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        """As ``revoke_identity`` for each, in one step. Returns those that were not revoked before."""
        ...

    async def block_key(self, spki_sha256: bytes) -> bool:
        """The public key is certified for nobody any more (threat A11). False when it was blocked before."""
        ...

    async def begin_reissue(self, *, now: datetime, renew_before: datetime, backdate: timedelta) -> Reissue:
        """Taints every certificate that is in the book now. The newest order takes the place of the one before."""
        ...

    async def reissue(self) -> Reissue | None:
        """The last order that was given."""
        ...

    async def standings(self, order: Reissue) -> Sequence[Standing]:
        """Who held a live certificate when ``order`` was given, by name, and how each stands now."""
        ...


class Marks(Protocol):
    """Numbers that only rise: bundle sequence, highest time seen, and the counts of the status page."""

    async def mark(self, name: str) -> int:
        """0 when it was never raised."""
        ...

    async def raise_mark(self, name: str, value: int) -> int:
        """Keeps the greater of both, and returns it."""
        ...

    async def counts(self, *, now: datetime) -> dict[str, int]:
        """``entries``, ``tokens``, ``valid``, ``revoked``, ``intended``."""
        ...


class Ledger(Registrations, CertificateBook, RevocationBook, Incidents, Recovery, Marks, Protocol):
    """All of them over one store, so that a step that touches two of them is still one transaction."""

    async def check(self) -> None:
        """Changes nothing. ``Unavailable`` or ``Broken`` while nothing can be written (threat J2)."""
        ...

    def problem(self) -> HandfastError | None:
        """Why every write is refused from now on (threat J3); None while nothing is known to be wrong."""
        ...

    async def close(self) -> None: ...
