"""Revocations: signed lists that only move forward, and how fresh they are.

A :class:`RevocationList` exists only when its signature, its issuer and its dates were checked (RFC 5280, 6.3.3).
:class:`Revocations` is one immutable snapshot of all of them, plus what the CA has announced over its own authenticated
stream and no list carries yet. Older never replaces newer; lower, equal and expired are different errors.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID, SignatureAlgorithmOID

from handfast.bundle import TrustBundle
from handfast.crl_change import ListStep, assemble, unusable
from handfast.errors import HandfastError, Invalid, Refused
from handfast.lifetime import Validity

__all__ = [
    "EMPTY",
    "Freshness",
    "FreshnessPolicy",
    "Reason",
    "RevocationList",
    "Revocations",
    "format_crl_number",
    "split_pem",
]

_KNOWN_LIST_EXTENSIONS = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})
_PARTIAL_LISTS = frozenset({ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR})
"""They must be critical (RFC 5280, 5.2.4 and 5.2.5), and say that this is not the whole list even when they are not."""
_KNOWN_ENTRY_EXTENSIONS = frozenset({CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE})
_PKCS1 = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
    }
)
_PEM_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_PEM_COLUMNS = 64
CLOCK_SKEW = timedelta(seconds=5)
"""How far a list's thisUpdate may lie ahead of our clock."""


REFRESHES = 4
"""How often a list is made anew in the life of one, at least."""


class Reason(StrEnum):
    """Why a certificate was revoked (RFC 5280, 5.3.1). certificateHold does not exist here: nothing is un-revoked."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    CA_COMPROMISE = "ca-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"

    @property
    def flag(self) -> x509.ReasonFlags:
        return x509.ReasonFlags[self.value.replace("-", "_")]


def format_crl_number(number: int) -> str:
    """As people read it: ``EPOCH:SEQUENCE``, without an epoch that is 0. An epoch begins with each restore of a backup, and is
    the time of it in seconds since 1970.

    >>> format_crl_number(17), format_crl_number((1795572000 << 64) + 17)
    ('17', '1795572000:17')
    """
    epoch, sequence = divmod(number, 1 << 64)
    return f"{epoch}:{sequence}" if epoch else str(sequence)


def split_pem(pem: bytes) -> tuple[bytes, ...]:
    """The DER of every CRL in a PEM text, in order; an empty text has none. Raises ``Invalid`` (``CRL_MALFORMED``)."""
    blocks = _PEM_LIST.findall(pem)
    if not blocks and pem.strip():
        raise Invalid("there is no PEM block of a CRL", reason="CRL_MALFORMED")
    try:
        return tuple(x509.load_pem_x509_crl(block).public_bytes(serialization.Encoding.DER) for block in blocks)
    except (ValueError, x509.InvalidVersion) as error:  # the latter is no ValueError
        raise Invalid(f"the CRLs cannot be read: {error}", reason="CRL_MALFORMED") from error


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One verified CRL. Construct it with :meth:`verify`, or with :meth:`after` from an older one.

    ``steps`` are how :meth:`after` came to it; none for a list that was read whole.
    """

    issuer_key_id: bytes
    issuer: str
    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[int] = field(repr=False)
    der: bytes = field(repr=False)
    steps: tuple[ListStep, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def verify(cls, der: bytes, bundle: TrustBundle, *, now: datetime) -> RevocationList:
        """Checks a DER list against the issuers of ``bundle``.

        Raises ``Invalid`` (``CRL_MALFORMED``) or ``Refused`` with ``CRL_FOREIGN_ISSUER``, ``CRL_BAD_SIGNATURE``,
        ``CRL_UNKNOWN_CRITICAL``, ``CRL_FUTURE``. An expired list is accepted here, since what it revokes stays
        revoked: :meth:`Revocations.freshness` says what it is worth.
        """
        try:
            crl = x509.load_der_x509_crl(der)
            return _verify(crl, der, bundle, now)
        except HandfastError:
            raise
        except Exception as error:
            raise Invalid(f"the CRL cannot be read: {type(error).__name__}", reason="CRL_MALFORMED") from error

    def after(self, steps: Sequence[ListStep], bundle: TrustBundle, *, now: datetime) -> RevocationList:
        """The list that ``steps`` make of this one: whole, and verified whole, at the cost of what changed.

        Steps that lead to this list are passed over; without any beyond it, it is returned itself. What was read of the
        entries that stay is not read again: they are the same octets. Hashing lets other threads run, and nothing else
        here takes longer than some milliseconds at 100,000 entries. Raises ``Invalid`` (``CRL_CHANGE_UNUSABLE``) when
        they do not begin at or before this list, or do not make a list that the issuer signed: it must be had whole
        then. An authentic list is refused as by :meth:`verify`.
        """
        wanted = tuple(steps)[
            next((at for at, step in enumerate(steps) if step.base_number == self.number), len(steps)) :
        ]
        if not wanted:
            if any(step.base_number > self.number for step in steps):
                raise unusable(f"it begins after number {format_crl_number(self.number)} of {self.issuer!r}")
            return self
        try:
            return _assembled(self, wanted, bundle, now)
        except HandfastError:
            raise
        except Exception as error:
            raise unusable(f"{type(error).__name__} in it") from error

    def check_successor(self, newer: RevocationList) -> bool:
        """True when ``newer`` replaces this list, False when it is the same bytes.

        Raises ``Refused`` with ``CRL_ROLLBACK`` or ``CRL_EQUIVOCATION`` (threat D1).
        """
        if newer.der == self.der:
            return False
        if newer.number == self.number:
            raise Refused(
                f"two different CRLs of {self.issuer!r} carry number {format_crl_number(self.number)}",
                reason="CRL_EQUIVOCATION",
            )
        if newer.number < self.number or newer.this_update < self.this_update:
            raise Refused(
                f"CRL number {format_crl_number(newer.number)} of {newer.this_update:%Y-%m-%dT%H:%M:%SZ} is older than "
                f"number {format_crl_number(self.number)} of {self.this_update:%Y-%m-%dT%H:%M:%SZ}, which was seen before",
                reason="CRL_ROLLBACK",
            )
        return True

    def pem(self) -> bytes:
        """As RFC 7468 has it. Not through the library, which would encode every entry anew while no other thread runs."""
        text = base64.b64encode(self.der)
        lines = (text[at : at + _PEM_COLUMNS] for at in range(0, len(text), _PEM_COLUMNS))
        return b"\n".join((b"-----BEGIN X509 CRL-----", *lines, b"-----END X509 CRL-----", b""))


def _verify(crl: x509.CertificateRevocationList, der: bytes, bundle: TrustBundle, now: datetime) -> RevocationList:
    issuer = _issuer_of(crl, bundle)
    if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
        raise Refused(
            f"the signature of the CRL of {crl.issuer.rfc4514_string()!r} is wrong", reason="CRL_BAD_SIGNATURE"
        )
    return _read(crl, der, now, _serials(crl))


def _assembled(base: RevocationList, steps: tuple[ListStep, ...], bundle: TrustBundle, now: datetime) -> RevocationList:
    made = assemble(base.der, steps)
    added, removed = x509.load_der_x509_crl(made.added), x509.load_der_x509_crl(made.removed)
    issuer = _issuer_of(added, bundle)
    if _key_id(added) != base.issuer_key_id or not _is_signed(made.tbs, added, issuer):
        raise unusable(
            f"what it makes of number {format_crl_number(base.number)} of {base.issuer!r} is not what the issuer signed"
        )
    serials = base.serials
    if len(removed):
        serials -= _serials(removed)
    if len(added):
        serials |= _serials(added)
    if len(serials) != made.count:
        raise unusable(f"{made.count} entries name {len(serials)} serials")
    return _read(added, made.der, now, serials, steps)


def _is_signed(tbs: bytes, crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Is ``crl``'s signature one over ``tbs``? Hashed here, since hashlib lets other threads run and x509 does not."""
    key, algorithm = issuer.public_key(), crl.signature_hash_algorithm
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(crl.signature, tbs)
            return True
        if not isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
            return False
        digest = hashlib.new(algorithm.name, tbs).digest()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(crl.signature, digest, ec.ECDSA(Prehashed(algorithm)))
            return True
        if isinstance(key, rsa.RSAPublicKey) and crl.signature_algorithm_oid in _PKCS1:
            key.verify(crl.signature, digest, padding.PKCS1v15(), Prehashed(algorithm))
            return True
    except InvalidSignature:
        return False
    return False


def _issuer_of(crl: x509.CertificateRevocationList, bundle: TrustBundle) -> x509.Certificate:
    """The CA of the bundle that the list says it is of, and that may sign it."""
    for extension in crl.extensions:
        unknown = extension.critical and extension.oid not in _KNOWN_LIST_EXTENSIONS
        if unknown or extension.oid in _PARTIAL_LISTS:
            raise Refused(
                f"the CRL has an extension {extension.oid.dotted_string} that limits it or is critical and unknown",
                reason="CRL_UNKNOWN_CRITICAL",
            )
    key_id = _key_id(crl)
    issuer = bundle.issuer(key_id) if key_id else None
    if issuer is None or issuer.subject != crl.issuer:
        raise Refused(
            f"the CRL of {crl.issuer.rfc4514_string()!r} is of no CA in the bundle of {bundle.trust_domain}",
            reason="CRL_FOREIGN_ISSUER",
        )
    if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
        raise Refused(f"{crl.issuer.rfc4514_string()!r} may not sign CRLs (no cRLSign)", reason="CRL_FOREIGN_ISSUER")
    return issuer


def _key_id(crl: x509.CertificateRevocationList) -> bytes | None:
    return crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def _read(
    crl: x509.CertificateRevocationList,
    der: bytes,
    now: datetime,
    serials: frozenset[int],
    steps: tuple[ListStep, ...] = (),
) -> RevocationList:
    """The header of a list whose signature is good."""
    this_update, next_update = crl.last_update_utc, crl.next_update_utc
    if next_update is None or next_update <= this_update:
        raise Invalid("the CRL has no usable nextUpdate (RFC 5280, 5.1.2.5)", reason="CRL_MALFORMED")
    if this_update > now + CLOCK_SKEW:
        raise Refused(f"the CRL is of {this_update:%Y-%m-%dT%H:%M:%SZ}, which is in the future", reason="CRL_FUTURE")
    return RevocationList(
        issuer_key_id=_key_id(crl) or b"",
        issuer=crl.issuer.rfc4514_string(),
        number=crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        this_update=this_update,
        next_update=next_update,
        serials=serials,
        der=der,
        steps=steps,
    )


def _serials(crl: x509.CertificateRevocationList) -> frozenset[int]:
    serials: list[int] = []
    for entry in crl:
        for extension in entry.extensions:
            if extension.critical and extension.oid not in _KNOWN_ENTRY_EXTENSIONS:
                raise Refused(
                    f"a CRL entry has an unknown critical extension {extension.oid.dotted_string}",
                    reason="CRL_UNKNOWN_CRITICAL",
                )
        serials.append(entry.serial_number)
    return frozenset(serials)


class Freshness(StrEnum):
    """What an issuer's list is worth now (threats, 2.3)."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """``refresh``: how often a new list is expected, at least four times in the life of one. STALE starts at twice of it, and is
    served with an alarm.

    A list past its nextUpdate refuses: that is *strict*, the default. :meth:`bounded` is the only other way, and has to be asked
    for. There is no setting that accepts a peer without any list, or without bound. Raises ``Invalid``
    (``INVALID_FRESHNESS``) for durations that are not positive.

    >>> FreshnessPolicy().max_stale, str(FreshnessPolicy.bounded(timedelta(hours=6)).max_stale)
    (None, '6:00:00')
    """

    refresh: timedelta = timedelta(hours=1)
    max_stale: timedelta | None = None
    stale_after: timedelta = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stale_after", 2 * self.refresh)
        for name, value in (("refresh", self.refresh), ("max_stale", self.max_stale)):
            if value is not None and value <= timedelta():
                raise Invalid(f"{name} {value} is not more than nothing", reason="INVALID_FRESHNESS")

    @classmethod
    def bounded(cls, max_stale: timedelta, *, refresh: timedelta = timedelta(hours=1)) -> FreshnessPolicy:
        """Goes on past nextUpdate until the list is ``max_stale`` old, alarming, and never for longer than the peer's
        certificate lives. What was revoked after the list was made is then accepted for as long.

        Never for the CA, its operators and calls of its services: those stay strict (:func:`handfast.access.judge`).
        """
        return cls(refresh, max_stale)

    @property
    def strict(self) -> FreshnessPolicy:
        return replace(self, max_stale=None)

    def accepted_until(self, this_update: datetime, peer: Validity) -> datetime | None:
        """When the grace past nextUpdate ends for this peer; None when there is none."""
        if self.max_stale is None:
            return None
        return min(peer.not_after, this_update + min(self.max_stale, peer.duration))


@dataclass(frozen=True, slots=True)
class Revocations:
    """All that is known about revocations at one moment. Immutable; lookups are O(1)."""

    lists: Mapping[bytes, RevocationList] = field(default_factory=lambda: MappingProxyType({}))
    announced: frozenset[tuple[bytes, int]] = frozenset()

    def revoked(self, issuer_key_id: bytes, serial: int) -> bool:
        """Monotone: once true for a certificate, true in every later snapshot until it expired."""
        known = self.lists.get(issuer_key_id)
        if known is not None and serial in known.serials:
            return True
        return (issuer_key_id, serial) in self.announced

    def freshness(self, issuer_key_id: bytes, now: datetime, policy: FreshnessPolicy = FreshnessPolicy()) -> Freshness:
        known = self.lists.get(issuer_key_id)
        if known is None:
            return Freshness.UNKNOWN
        if now >= known.next_update:
            return Freshness.EXPIRED
        age = now - known.this_update
        # Twice the refresh interval, which is a quarter of the list's life at most: then half of that life is over.
        overdue = age > policy.stale_after or age > known.next_update - now
        return Freshness.STALE if overdue else Freshness.FRESH

    def with_list(self, newer: RevocationList) -> Revocations:
        """With ``newer`` in place of the older list of its issuer; raises as :meth:`RevocationList.check_successor`.

        Announcements that the list carries are dropped from ``announced``.
        """
        known = self.lists.get(newer.issuer_key_id)
        if known is not None and not known.check_successor(newer):
            return self
        announced = frozenset(
            (key_id, serial)
            for key_id, serial in self.announced
            if key_id != newer.issuer_key_id or serial not in newer.serials
        )
        lists = MappingProxyType({**self.lists, newer.issuer_key_id: newer})
        return replace(self, lists=lists, announced=announced)

    def announce(self, revoked: Iterable[tuple[bytes, int]]) -> Revocations:
        """With these certificates revoked too, ahead of the list that will carry them."""
        news = frozenset(pair for pair in revoked if not self.revoked(*pair))
        return replace(self, announced=self.announced | news) if news else self

    @property
    def pem(self) -> bytes:
        return b"".join(known.pem() for known in self.lists.values())


EMPTY = Revocations()
