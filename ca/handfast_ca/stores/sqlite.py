"""The ledger in one SQLite file: WAL, full sync, one writer with group commit, readers beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.incident import LiveCertificate, MassFilter, Reissue, Standing
from handfast_ca.ledger import (
    CertificateFilter,
    CertificateRecord,
    Completion,
    CrlPlan,
    Intention,
    LearntList,
    Page,
    TokenRecord,
)
from handfast_ca.registration import Entry
from handfast_ca.stores import certificate_steps as book
from handfast_ca.stores import group_steps as groups
from handfast_ca.stores import incident_steps as incidents
from handfast_ca.stores import recovery_steps as recovery
from handfast_ca.stores import registration_steps as registrations
from handfast_ca.stores import revocation_steps as revocations
from handfast_ca.stores.database import check_place, hold, open_reader, open_writer, prepare
from handfast_ca.stores.prepared import Transaction
from handfast_ca.stores.reserve import RESERVE_OCTETS, Reserve
from handfast_ca.stores.soundness import Soundness
from handfast_ca.stores.trouble import TROUBLE, translated
from handfast_ca.stores.writer import Step, Writer

__all__ = ["SqliteLedger"]

T = TypeVar("T")
READERS = 2


class SqliteLedger:
    """Make it with :meth:`open`; end it with :meth:`close`. One process at a time."""

    def __init__(self, *, lock: int, writing: Engine, reading: Engine, reserve: Reserve, soundness: Soundness) -> None:
        self._lock = lock
        self._writing = writing
        self._reading = reading
        self._soundness = soundness
        self._writer = Writer(writing, reserve)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, *, reserve: int = RESERVE_OCTETS) -> SqliteLedger:
        """Raises ``Conflict`` (``LEDGER_IN_USE``), ``Refused`` (``LEDGER_DIRECTORY``, ``LEDGER_MODE``,
        ``LEDGER_NEWER``), ``Broken`` (``LEDGER_DAMAGED``) or ``Unavailable``.
        """
        return await asyncio.to_thread(cls._open, Path(path), reserve)

    @classmethod
    def _open(cls, path: Path, reserve: int) -> SqliteLedger:
        check_place(path)
        lock = hold(path)
        writing = open_writer(path)
        try:
            kept = Reserve(path.with_name(f"{path.name}.reserve"), reserve)
            soundness = prepare(writing, path)
        except BaseException:
            writing.dispose()
            os.close(lock)
            raise
        reading = open_reader(path, READERS)
        return cls(lock=lock, writing=writing, reading=reading, reserve=kept, soundness=soundness)

    def problem(self) -> HandfastError | None:
        return self._soundness.problem

    async def checked(self) -> None:
        """Returns when the whole file was read, which may be later than it was opened (:mod:`~.soundness`)."""
        await asyncio.to_thread(self._soundness.wait)

    async def _read(self, step: Step[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, step)

    def _read_now(self, step: Step[T]) -> T:
        try:
            with self._reading.begin() as connection:
                return step(Transaction(connection))
        except TROUBLE as error:
            raise translated(error) from error

    async def add_entry(self, entry: Entry) -> Entry:
        return await self._writer.write(partial(registrations.add_entry, entry=entry))

    async def get_entry(self, spiffe_id: SpiffeId) -> Entry:
        return await self._read(partial(registrations.get_entry, spiffe_id=spiffe_id))

    async def list_entries(self, identity_glob: str = "", *, limit: int = 100, token: str = "") -> Page[Entry]:
        return await self._read(
            partial(registrations.list_entries, identity_glob=identity_glob, limit=limit, token=token)
        )

    async def remove_entry(self, spiffe_id: SpiffeId) -> None:
        await self._writer.write(partial(registrations.remove_entry, spiffe_id=spiffe_id), essential=True)

    async def add_token(self, token: TokenRecord) -> None:
        await self._writer.write(partial(registrations.add_token, token=token))

    async def find_token(self, digest: bytes) -> TokenRecord:
        return await self._read(partial(registrations.find_token, digest=digest))

    async def intend(self, intention: Intention) -> CertificateRecord | None:
        return await self._writer.write(partial(book.intend, intention=intention))

    async def intend_all(self, intentions: Sequence[Intention]) -> Sequence[CertificateRecord | HandfastError | None]:
        together = partial(groups.intend_all, intentions=intentions)
        return await self._for_each(together, [partial(book.intend, intention=one) for one in intentions])

    async def complete(self, serial: int, issuer_key_id: bytes, der: bytes) -> CertificateRecord:
        return await self._writer.write(partial(book.complete, serial=serial, issuer_key_id=issuer_key_id, der=der))

    async def complete_all(self, completions: Sequence[Completion]) -> Sequence[CertificateRecord | HandfastError]:
        together = partial(groups.complete_all, completions=completions)
        alone = [
            partial(book.complete, serial=one.serial, issuer_key_id=one.issuer_key_id, der=one.der)
            for one in completions
        ]
        return await self._for_each(together, alone)

    async def _for_each(
        self, together: Step[Sequence[T | HandfastError]], alone: Sequence[Step[T]]
    ) -> Sequence[T | HandfastError]:
        """All in one transaction; when that fails, one by one, so that each has only its own trouble."""
        try:
            return await self._writer.write(together)
        except Exception:
            if len(alone) == 1:
                raise
        return [await _outcome(self._writer.write(step)) for step in alone]

    async def answered(self, request_digest: bytes, *, now: datetime) -> CertificateRecord | None:
        return await self._read(partial(book.answered, request_digest=request_digest, now=now))

    async def find(self, serial: int) -> CertificateRecord:
        return await self._read(partial(book.find, serial=serial))

    async def list_certificates(
        self, wanted: CertificateFilter, *, limit: int = 100, token: str = ""
    ) -> Page[CertificateRecord]:
        return await self._read(partial(book.list_certificates, wanted=wanted, limit=limit, token=token))

    async def revoke_dangling(self, *, now: datetime) -> Sequence[CertificateRecord]:
        return await self._writer.write(partial(revocations.revoke_dangling, now=now), essential=True)

    async def forget_expired(self, *, now: datetime, keep: timedelta) -> int:
        return await self._writer.write(partial(book.forget_expired, now=now, keep=keep), essential=True)

    async def revoke_serial(
        self, serial: int, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        step = partial(revocations.revoke_serial, serial=serial, reason=reason, now=now)
        return await self._writer.write(step, essential=True)

    async def revoke_identity(
        self, spiffe_id: SpiffeId, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        step = partial(revocations.revoke_identity, spiffe_id=spiffe_id, reason=reason, now=now)
        return await self._writer.write(step, essential=True)

    async def plan_crl(self, issuer_key_id: bytes, *, now: datetime, base: int = 0) -> CrlPlan:
        step = partial(revocations.plan_crl, issuer_key_id=issuer_key_id, now=now, base=base)
        return await self._writer.write(step, essential=True)

    async def record_crl(self, plan: CrlPlan, der: bytes, next_update: datetime) -> None:
        step = partial(revocations.record_crl, plan=plan, der=der, next_update=next_update)
        await self._writer.write(step, essential=True)

    async def latest_crl(self, issuer_key_id: bytes) -> bytes | None:
        return await self._read(partial(revocations.latest_crl, issuer_key_id=issuer_key_id))

    async def learn(self, learnt: LearntList, *, unknown: SpiffeId, until: datetime) -> tuple[CertificateRecord, ...]:
        step = partial(recovery.learn, learnt=learnt, unknown=unknown, until=until)
        return await self._writer.write(step, essential=True)

    async def readmit(self, record: CertificateRecord) -> None:
        await self._writer.write(partial(recovery.readmit, record=record))

    async def live(self, wanted: MassFilter, *, now: datetime) -> Sequence[LiveCertificate]:
        return await self._read(partial(incidents.live, wanted=wanted, now=now))

    async def revoke_serials(
        self, serials: Sequence[int], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        step = partial(incidents.revoke_serials, serials=serials, reason=reason, now=now)
        return await self._writer.write(step, essential=True)

    async def revoke_identities(
        self, identities: Sequence[SpiffeId], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        step = partial(incidents.revoke_identities, identities=identities, reason=reason, now=now)
        return await self._writer.write(step, essential=True)

    async def block_key(self, spki_sha256: bytes) -> bool:
        return await self._writer.write(partial(incidents.block_key, spki_sha256=spki_sha256), essential=True)

    async def begin_reissue(self, *, now: datetime, renew_before: datetime, backdate: timedelta) -> Reissue:
        step = partial(incidents.begin_reissue, now=now, renew_before=renew_before, backdate=backdate)
        return await self._writer.write(step)

    async def reissue(self) -> Reissue | None:
        return await self._read(incidents.reissue)

    async def standings(self, order: Reissue) -> Sequence[Standing]:
        return await self._read(partial(incidents.standings, order=order))

    async def mark(self, name: str) -> int:
        return await self._read(partial(revocations.mark, name=name))

    async def raise_mark(self, name: str, value: int) -> int:
        return await self._writer.write(partial(revocations.raise_mark, name=name, value=value), essential=True)

    async def counts(self, *, now: datetime) -> dict[str, int]:
        return await self._read(partial(revocations.counts, now=now))

    async def check(self) -> None:
        """An empty transaction, which takes the lock for writing and needs no sync."""
        await self._writer.write(lambda _connection: None)

    async def close(self) -> None:
        """Commits what waits. Closing twice is closing once."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._soundness.stop)
        self._reading.dispose()
        self._writing.dispose()
        self._soundness.keep()
        os.close(self._lock)


async def _outcome(step: Awaitable[T]) -> T | HandfastError:
    try:
        return await step
    except HandfastError as error:
        return error
