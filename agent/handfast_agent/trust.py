"""Bundle and revocations as the agent knows them. Trusted material only moves forward (threats D1, D11, D12).

High-water marks outlive the process: an older list or bundle is refused after a restart too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes

from handfast.bundle import TrustBundle
from handfast.crl_change import ListStep, unusable
from handfast.errors import HandfastError, Refused
from handfast.revocation import EMPTY, RevocationList, Revocations, format_crl_number
from handfast_agent.order import Order

__all__ = ["BundleMark", "ListMark", "Marks", "News", "Trust"]

LONG_LIST = 64 * 1024
"""Octets of a list that is taken on a thread."""


@dataclass(frozen=True, slots=True)
class ListMark:
    """The newest list of one issuer that was ever accepted."""

    number: int
    this_update: datetime
    digest: str

    @classmethod
    def of(cls, known: RevocationList) -> ListMark:
        return cls(known.number, known.this_update, hashlib.sha256(known.der).hexdigest())

    def is_past(self, other: RevocationList) -> bool:
        return other.number < self.number or other.this_update < self.this_update

    def check(self, newer: RevocationList) -> None:
        """Raises ``Refused`` with ``CRL_ROLLBACK`` or ``CRL_EQUIVOCATION``."""
        if self.is_past(newer):
            raise Refused(
                f"CRL number {format_crl_number(newer.number)} of {newer.issuer!r} is older than number "
                f"{format_crl_number(self.number)}, which was seen before",
                reason="CRL_ROLLBACK",
            )
        if newer.number == self.number and hashlib.sha256(newer.der).hexdigest() != self.digest:
            raise Refused(
                f"two different CRLs of {newer.issuer!r} carry number {format_crl_number(self.number)}",
                reason="CRL_EQUIVOCATION",
            )


@dataclass(frozen=True, slots=True)
class BundleMark:
    """The newest bundle that was ever accepted."""

    sequence: int = 0
    digest: str = ""

    @classmethod
    def of(cls, bundle: TrustBundle) -> BundleMark:
        fingerprints = sorted(root.fingerprint(hashes.SHA256()) for root in bundle.roots)
        return cls(bundle.sequence, hashlib.sha256(b"".join(fingerprints)).hexdigest())

    def check(self, newer: TrustBundle) -> None:
        """Raises ``Refused`` with ``BUNDLE_ROLLBACK`` or ``BUNDLE_EQUIVOCATION``."""
        if newer.sequence < self.sequence:
            raise Refused(
                f"bundle sequence {newer.sequence} is below {self.sequence}, which was seen before",
                reason="BUNDLE_ROLLBACK",
            )
        if newer.sequence == self.sequence and self.digest and BundleMark.of(newer).digest != self.digest:
            raise Refused(f"two different bundles carry sequence {self.sequence}", reason="BUNDLE_EQUIVOCATION")


@dataclass(frozen=True, slots=True)
class Marks:
    """All high-water marks."""

    bundle: BundleMark = BundleMark()
    lists: Mapping[bytes, ListMark] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class News:
    """What the CA said, parsed and not yet believed. ``changes`` are steps to newer lists, by issuer key identifier."""

    bundle: TrustBundle | None = None
    crls: tuple[bytes, ...] = ()
    changes: tuple[tuple[bytes, tuple[ListStep, ...]], ...] = ()
    announced: tuple[tuple[bytes, int], ...] = ()
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """What is believed now. ``bundle`` is None before the first contact."""

    bundle: TrustBundle | None = None
    revocations: Revocations = EMPTY
    marks: Marks = Marks()

    def accept(self, news: News, now: datetime, asked: Marks | None = None) -> tuple[Trust, tuple[HandfastError, ...]]:
        """With everything of ``news`` that is newer and good, and an alarm for each part that was refused.

        ``asked``: what was known when the question was asked, where that is not what is known now. An answer that is older
        than that is an alarm. One that something newer has overtaken on its way is not: the CA said nothing wrong, and the
        older part is passed over.

        One bad part does not keep the others away: a revocation must not be held up by a broken list of another issuer. An alarm
        with the reason ``CRL_CHANGE_UNUSABLE`` asks for the whole list: a change proves nothing by itself, and what it makes
        counts only when the issuer signed that.
        """
        alarms: list[HandfastError] = []
        trust = self
        if news.bundle is not None:
            try:
                trust = trust._with_bundle(news.bundle, asked or self.marks)
            except HandfastError as error:
                alarms.append(error)
        for der in news.crls:
            try:
                trust = trust._with_list(der, now, asked or self.marks)
            except HandfastError as error:
                alarms.append(error)
        for issuer_key_id, steps in news.changes:
            try:
                trust = trust._with_change(issuer_key_id, steps, now, asked or self.marks)
            except HandfastError as error:
                alarms.append(error)
        if news.announced:
            trust = replace(trust, revocations=trust.revocations.announce(news.announced))
        return trust, tuple(alarms)

    def _with_bundle(self, newer: TrustBundle, asked: Marks) -> Trust:
        if asked.bundle.sequence <= newer.sequence < self.marks.bundle.sequence:
            asked.bundle.check(newer)
            return self
        if self.bundle is not None and not self.bundle.check_successor(newer):
            return self
        self.marks.bundle.check(newer)
        lists = {key: known for key, known in self.revocations.lists.items() if newer.issuer(key) is not None}
        revocations = replace(self.revocations, lists=MappingProxyType(lists))
        return Trust(newer, revocations, replace(self.marks, bundle=BundleMark.of(newer)))

    def _with_list(self, der: bytes, now: datetime, asked: Marks) -> Trust:
        if self.bundle is None:
            raise Refused("a CRL came before any bundle", reason="CRL_FOREIGN_ISSUER")
        if any(known.der == der for known in self.revocations.lists.values()):
            return self
        return self._with(RevocationList.verify(der, self.bundle, now=now), asked)

    def _with_change(self, issuer_key_id: bytes, steps: tuple[ListStep, ...], now: datetime, asked: Marks) -> Trust:
        known = self.revocations.lists.get(issuer_key_id)
        if self.bundle is None or known is None:
            raise unusable("there is no list of its issuer to take it from")
        newer = known.after(steps, self.bundle, now=now)
        return self if newer is known else self._with(newer, asked)

    def _with(self, newer: RevocationList, asked: Marks) -> Trust:
        mark, then = self.marks.lists.get(newer.issuer_key_id), asked.lists.get(newer.issuer_key_id)
        if then is not None:
            then.check(newer)
        if mark is not None and mark != then and mark.is_past(newer):
            return self
        if mark is not None:
            mark.check(newer)
        revocations = self.revocations.with_list(newer)
        lists = MappingProxyType({**self.marks.lists, newer.issuer_key_id: ListMark.of(newer)})
        return Trust(self.bundle, revocations, replace(self.marks, lists=lists))

    def is_long(self, news: News) -> bool:
        """Would taking it hold up an event loop noticeably?"""
        known = self.revocations.lists
        changed = (known[key_id].der for key_id, _ in news.changes if key_id in known)
        return any(len(der) > LONG_LIST for der in (*news.crls, *changed))

    def distrusts_everything(self) -> bool:
        """An empty bundle is a statement (SPIFFE bundle, 4.1.3)."""
        return self.bundle is not None and not self.bundle.roots

    def revoked(self, issuer_key_id: bytes, serial: int) -> bool:
        return self.revocations.revoked(issuer_key_id, serial)

    def list_ders(self) -> Iterable[bytes]:
        return (known.der for known in self.revocations.lists.values())
