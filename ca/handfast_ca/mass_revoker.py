"""Revokes all that one event touches, in batches: each durable, announced and written down before it is told.

What a run that was cut off left, the same words revoke when they are said again; and when nothing is left, they change
nothing. That it was cut off is remembered and reported (:mod:`handfast_ca.mass_runs`); nothing is resumed by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from handfast.certificates import format_serial
from handfast.errors import Broken, HandfastError, Invalid, NotFound, Unavailable
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.audit_trail import AuditLog, AuditValue, write_refusal, written_refusals
from handfast_ca.feed import Feed
from handfast_ca.incident import LiveCertificate, MassFilter
from handfast_ca.ledger import CertificateRecord, Ledger
from handfast_ca.mass_runs import BATCH, MassRuns
from handfast_ca.publisher import Publisher
from handfast_ca.registration import is_reserved
from handfast_ca.revoker import announcements
from handfast_ca.status import StatusLine
from handfast_ca.timekeeper import Timekeeper

__all__ = ["BATCH", "MassProgress", "MassRevoker", "Survey"]

T = TypeVar("T")
IDENTITIES = 50
"""Identities of one batch, when whole identities are meant."""
REST = 4.0
"""Lists beside the batches take a fifth of the time at most, however long they are."""
ROUNDS = 10
"""What was issued while the rounds before ran is found by the next; more than a few never come."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What would be revoked. ``spared``: identities of the CA and its operators, which are revoked one by one only."""

    live: tuple[LiveCertificate, ...]
    identities: tuple[str, ...]
    revoked: int
    spared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MassProgress:
    """``crl_number`` is set in the last one: a list that carries all of it, 0 while a quarantine signs none."""

    certificates: int
    total: int
    identities: int
    first_serials: tuple[int, ...] = ()
    already_revoked: int = 0
    crl_number: int | None = None
    watchers: int = 0
    key_blocked: bool = False


class MassRevoker:
    """Spares the names below ``/handfast/``: without the CA's own certificate nobody would hear of the rest."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        publisher: Publisher,
        time: Timekeeper,
        backdate: timedelta,
        longest: timedelta,
    ) -> None:
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._publisher = publisher
        self._time = time
        self._backdate = backdate
        self._runs = MassRuns(ledger, audit, time, longest=longest)
        self._publishing: asyncio.Task[None] | None = None
        self._rested_at = 0.0
        self._running: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Finds what the last process left half done."""
        await self._runs.start()

    def lines(self) -> tuple[StatusLine, ...]:
        """What runs, and what was cut off."""
        return self._runs.lines()

    async def survey(self, wanted: MassFilter) -> Survey:
        """Changes nothing. Raises ``Invalid`` (``EMPTY_FILTER``), or ``NotFound`` (``NO_CERTIFICATE``) when nothing
        fits that is unexpired, has an entry, or is a key to block.
        """
        _refuse_empty(wanted)
        seen = await self._look(wanted)
        if not (seen.identities or seen.spared or seen.revoked or wanted.spki_sha256):
            raise NotFound("no certificate fits that has not expired", reason="NO_CERTIFICATE")
        return seen

    async def _look(self, wanted: MassFilter) -> Survey:
        found = await self._ledger.live(self._widened(wanted), now=self._time.wall())
        names = {one.spiffe_id for one in found if not one.revoked}
        if wanted.whole_identities:
            names |= await self._registered(wanted.identity_glob)
        own = [one for one in found if not is_reserved(one.spiffe_id)]
        return Survey(
            tuple(one for one in own if not one.revoked),
            tuple(sorted(name for name in names if not is_reserved(name))),
            sum(one.revoked for one in own),
            tuple(sorted(name for name in names if is_reserved(name))),
        )

    async def revoke(self, wanted: MassFilter, reason: Reason, *, by: str) -> AsyncGenerator[MassProgress, None]:
        """One progress when it begins, one after each batch, and one with the number of a CRL that carries all.

        Whoever stops listening stops it after the batch that runs; :meth:`lines` tells of it until the same is said again.
        Raises as :meth:`survey`.
        """
        said = _said(wanted)
        facts: dict[str, AuditValue] = {"event": "revoke", "by": by, "reason": str(reason), "detail": said}
        async with written_refusals(self._audit, {**facts, "reason": None}):
            survey = await self.survey(wanted)
        await self._finished(self._runs.begin(said, facts, len(survey.live), len(survey.identities)))
        try:
            blocked = bool(wanted.spki_sha256) and await self._finished(self._block(wanted.spki_sha256, facts))
            done = MassProgress(
                0, len(survey.live), len(survey.identities), already_revoked=survey.revoked, key_blocked=blocked
            )
            yield done
            for _ in range(ROUNDS):
                for batch in _batches(wanted, survey):
                    if done.certificates and self._time.monotonic() >= self._rested_at:
                        self._publish_beside()
                    records = await self._finished(self._batch(batch, reason, facts))
                    done = _further(done, records)
                    self._runs.advance(said, done.certificates, done.total)
                    yield done
                survey = await self._look(wanted)
                if not survey.live:
                    break
            number = 0 if self._publisher.hold() else (await self._finished(self._publisher.publish())).number
            await self._finished(self._runs.end(said, facts))
        except BaseException:
            self._runs.stopped(said)
            self._publish_beside()  # what was revoked until here is proved, whoever listens
            raise
        yield replace(done, crl_number=number, watchers=self._feed.watchers)

    async def close(self) -> None:
        """Waits for the batch and the list that are being made."""
        publishing = [self._publishing] if self._publishing is not None else []
        await asyncio.gather(*self._running, *publishing, return_exceptions=True)

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """A caller that goes away does not stop a batch half way."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def _widened(self, wanted: MassFilter) -> MassFilter:
        """notBefore lies up to ``backdate`` before the moment of issue."""
        if wanted.issued_from is None:
            return wanted
        return replace(wanted, issued_from=wanted.issued_from - self._backdate)

    async def _registered(self, glob: str) -> set[str]:
        names: set[str] = set()
        token = ""
        while True:
            page = await self._ledger.list_entries(glob, limit=500, token=token)
            names |= {str(entry.spiffe_id) for entry in page.items}
            token = page.next_token
            if not token:
                return names

    async def _block(self, spki_sha256: bytes, facts: dict[str, AuditValue]) -> bool:
        fresh = await self._ledger.block_key(spki_sha256)
        line = {**facts, "event": "block-key", "decision": "granted", "public_key_sha256": spki_sha256.hex()}
        await self._audit.append({**line, "repeated": not fresh}, essential=True)
        return fresh

    async def _batch(
        self, batch: Sequence[LiveCertificate] | Sequence[SpiffeId], reason: Reason, facts: dict[str, AuditValue]
    ) -> tuple[CertificateRecord, ...]:
        """The revocation is durable first. Nothing that fails after that keeps the rest from being told."""
        now = self._time.wall()
        serials = [one.serial for one in batch if isinstance(one, LiveCertificate)]
        identities = [one for one in batch if isinstance(one, SpiffeId)]
        try:
            if identities:
                records = await self._ledger.revoke_identities(identities, reason, now=now)
            else:
                records = await self._ledger.revoke_serials(serials, reason, now=now)
        except HandfastError as error:
            await write_refusal(self._audit, facts, error)
            raise
        self._feed.announce(announcements(records))
        try:
            for some in _chunks(records, BATCH) or [[]]:
                serials_of_it = [format_serial(one.serial) for one in some]
                line = {**facts, "decision": "granted", "count": len(some), "serials": serials_of_it}
                line |= {"entries": len(identities) or None, "repeated": not some}
                await self._audit.append(line, essential=True)
        except Unavailable as error:
            raise Broken(
                f"{len(records)} are revoked and told to everybody, but not written to the audit trail: {error.message}",
                reason=error.reason,
                hint="make room for the audit trail, then say it again: the rest is revoked then",
            ) from error
        return records

    def _publish_beside(self) -> None:
        """A list while more batches follow, never two at a time: what is announced does not pile up (threat H6)."""
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._published())

    async def _published(self) -> None:
        began = self._time.monotonic()
        with suppress(HandfastError):  # the last one is published by revoke(), which says what is wrong
            await self._publisher.publish()
        ended = self._time.monotonic()
        self._rested_at = ended + REST * (ended - began)


def _refuse_empty(wanted: MassFilter) -> None:
    if wanted == MassFilter(renewals=wanted.renewals):
        raise Invalid(
            "a mass revocation without a filter would be of everything",
            reason="EMPTY_FILTER",
            hint="name an identity pattern, an issuer, a span of time or a key",
        )


def _batches(wanted: MassFilter, survey: Survey) -> list[Sequence[LiveCertificate] | Sequence[SpiffeId]]:
    if wanted.whole_identities:
        return list(_chunks([SpiffeId.parse(name) for name in survey.identities], IDENTITIES))
    return list(_chunks(survey.live, BATCH))


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    rest = iter(items)
    return list(iter(lambda: list(islice(rest, size)), []))


def _further(done: MassProgress, records: Sequence[CertificateRecord]) -> MassProgress:
    revoked = done.certificates + len(records)
    first = (done.first_serials + tuple(record.serial for record in records))[:10]
    return replace(done, certificates=revoked, total=max(done.total, revoked), first_serials=first)


def _said(wanted: MassFilter) -> str:
    """The filter in words, for the audit trail."""
    words = [
        f"identity {wanted.identity_glob}" if wanted.identity_glob else "",
        f"issuer {wanted.issuer_key_id.hex()}" if wanted.issuer_key_id else "",
        f"issued from {_time(wanted.issued_from)}" if wanted.issued_from else "",
        f"issued until {_time(wanted.issued_until)}" if wanted.issued_until else "",
        f"key {wanted.spki_sha256.hex()}" if wanted.spki_sha256 else "",
        "before the reissue" if wanted.up_to is not None else "",
        "" if wanted.renewals else "without renewals",
    ]
    return ", ".join(word for word in words if word)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
