"""The ledger without a disk: for tests, and the model that every other store is compared with.

No step awaits between its first look and its last write, so each one is atomic on its event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TypeVar

from handfast.certificates import format_serial
from handfast.errors import Conflict, HandfastError
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.incident import LiveCertificate, MassFilter, Reissue, Standing
from handfast_ca.ledger import (
    CRL_EPOCH,
    CertificateFilter,
    CertificateRecord,
    Completion,
    CrlPlan,
    Intention,
    LearntList,
    Page,
    RevokedEntry,
    Status,
    TokenRecord,
)
from handfast_ca.registration import Entry
from handfast_ca.stores import memory_incidents as incidents
from handfast_ca.stores import verdicts

__all__ = ["MemoryLedger"]

T = TypeVar("T")
Key = tuple[bytes, int]


@dataclass(slots=True)
class _Row:
    """A record and what only the ledger knows of it."""

    seq: int
    request_digest: bytes
    record: CertificateRecord
    carried_by: int = 0
    listed_by: int = 0

    @property
    def revoked(self) -> bool:
        return self.record.revoked_at is not None


@dataclass(slots=True)
class _IssuerRow:
    number: int = 0
    this_update: datetime | None = None
    crl_number: int = 0
    crl: bytes | None = None


class MemoryLedger:
    """Forgets everything when the process ends. Used from one event loop."""

    def __init__(self) -> None:
        self._seq = 0
        self._entries: dict[SpiffeId, Entry] = {}
        self._versions: dict[SpiffeId, int] = {}
        self._tokens: dict[bytes, TokenRecord] = {}
        self._rows: dict[Key, _Row] = {}
        self._blocked: set[bytes] = set()
        self._issuers: dict[bytes, _IssuerRow] = {}
        self._marks: dict[str, int] = {}
        self._reissue: Reissue | None = None

    # Registrations

    async def add_entry(self, entry: Entry) -> Entry:
        if entry.spiffe_id in self._entries:
            raise Conflict(f"{entry.spiffe_id} has an entry already", reason="ENTRY_EXISTS")
        stored = replace(entry, version=self._bump(entry.spiffe_id))
        self._entries[entry.spiffe_id] = stored
        return stored

    def _bump(self, spiffe_id: SpiffeId) -> int:
        self._versions[spiffe_id] = self._versions.get(spiffe_id, 0) + 1
        return self._versions[spiffe_id]

    async def get_entry(self, spiffe_id: SpiffeId) -> Entry:
        if spiffe_id not in self._entries:
            raise verdicts.no_entry(spiffe_id)
        return self._entries[spiffe_id]

    async def list_entries(self, identity_glob: str = "", *, limit: int = 100, token: str = "") -> Page[Entry]:
        size = verdicts.page_size(limit)
        found = sorted((str(name), entry) for name, entry in self._entries.items())
        wanted = [
            (name, entry)
            for name, entry in found
            if name > token and (not identity_glob or fnmatchcase(name, identity_glob))
        ]
        more = len(wanted) > size
        return Page(tuple(entry for _, entry in wanted[:size]), wanted[size - 1][0] if more else "")

    async def remove_entry(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id not in self._entries:
            raise verdicts.no_entry(spiffe_id)
        del self._entries[spiffe_id]
        self._drop_tokens(spiffe_id)

    def _drop_tokens(self, spiffe_id: SpiffeId) -> None:
        self._tokens = {digest: token for digest, token in self._tokens.items() if token.spiffe_id != spiffe_id}

    async def add_token(self, token: TokenRecord) -> None:
        if token.spiffe_id not in self._entries:
            raise verdicts.no_entry(token.spiffe_id)
        if token.digest in self._tokens:
            raise Conflict(f"join token {token.prefix} exists already", reason="TOKEN_EXISTS")
        self._tokens[token.digest] = replace(token, expires_at=verdicts.whole_seconds(token.expires_at))

    async def find_token(self, digest: bytes) -> TokenRecord:
        if digest not in self._tokens:
            raise verdicts.token_spent()
        return self._tokens[digest]

    # Certificates

    async def intend(self, intention: Intention) -> CertificateRecord | None:
        if (answered := self._answered(intention.request_digest, intention.now)) is not None:
            return answered
        entry = self._entries.get(intention.spiffe_id)
        verdicts.check_entry(None if entry is None else entry.version, intention)
        if intention.token_digest is not None:
            verdicts.check_token(self._tokens.get(intention.token_digest), intention)
        if (presented := intention.presented) is not None:
            row = self._rows.get((presented.issuer_key_id, presented.serial))
            verdicts.check_presented(row.record if row else None, intention)
        blocked = intention.spki_sha256 in self._blocked
        verdicts.check_key(intention, blocked=blocked, shared=self._is_shared(intention))
        key = (intention.issuer_key_id, intention.serial)
        if key in self._rows:
            raise verdicts.serial_exists(intention.serial)
        if intention.token_digest is not None:
            del self._tokens[intention.token_digest]
        self._seq += 1
        self._rows[key] = _Row(self._seq, intention.request_digest, _intended(intention))
        return None

    async def intend_all(self, intentions: Sequence[Intention]) -> Sequence[CertificateRecord | HandfastError | None]:
        return [await _outcome(self.intend(intention)) for intention in intentions]

    def _is_shared(self, intention: Intention) -> bool:
        return any(
            row.record.spki_sha256 == intention.spki_sha256
            and row.record.spiffe_id != intention.spiffe_id
            and not row.revoked
            and row.record.not_after >= intention.now
            for row in self._rows.values()
        )

    async def complete(self, serial: int, issuer_key_id: bytes, der: bytes) -> CertificateRecord:
        row = self._rows.get((issuer_key_id, serial))
        fresh = verdicts.check_completion(row.record if row else None, serial, der)
        assert row is not None
        if fresh:
            row.record = row.record.completed(der)
        return row.record

    async def complete_all(self, completions: Sequence[Completion]) -> Sequence[CertificateRecord | HandfastError]:
        return [await _outcome(self.complete(one.serial, one.issuer_key_id, one.der)) for one in completions]

    async def answered(self, request_digest: bytes, *, now: datetime) -> CertificateRecord | None:
        return self._answered(request_digest, now)

    def _answered(self, request_digest: bytes, now: datetime) -> CertificateRecord | None:
        for row in reversed(self._rows.values()):
            if row.request_digest == request_digest and row.record.describe(now) == "valid":
                return row.record
        return None

    async def find(self, serial: int) -> CertificateRecord:
        return self._row(serial).record

    def _row(self, serial: int) -> _Row:
        for row in self._rows.values():
            if row.record.serial == serial:
                return row
        raise verdicts.no_certificate(f"serial {format_serial(serial)}")

    async def list_certificates(
        self, wanted: CertificateFilter, *, limit: int = 100, token: str = ""
    ) -> Page[CertificateRecord]:
        size, after = verdicts.page_size(limit), verdicts.page_start(token)
        found = [row for row in self._rows.values() if row.seq > after and verdicts.selects(wanted, row.record)]
        more = len(found) > size
        return Page(tuple(row.record for row in found[:size]), str(found[size - 1].seq) if more else "")

    async def revoke_dangling(self, *, now: datetime) -> Sequence[CertificateRecord]:
        dangling = [row for row in self._rows.values() if row.record.status is Status.INTENDED and not row.revoked]
        return _revoke(dangling, Reason.UNSPECIFIED, now)[0]

    async def forget_expired(self, *, now: datetime, keep: timedelta) -> int:
        until = verdicts.whole_seconds(now) - keep
        self._tokens = {digest: token for digest, token in self._tokens.items() if token.expires_at >= until}
        due = {key: row for key, row in self._rows.items() if self._is_due(row, until)}
        kept = frozenset(row.record.serial for key, row in self._rows.items() if key not in due)
        gone = set(verdicts.forgettable(((row.record.serial, row.record.parent_serial) for row in due.values()), kept))
        self._rows = {key: row for key, row in self._rows.items() if key not in due or row.record.serial not in gone}
        return len(gone)

    def _is_due(self, row: _Row, until: datetime) -> bool:
        if row.record.not_after >= until:
            return False
        issuer = self._issuers.get(row.record.issuer_key_id, _IssuerRow())
        return not row.revoked or 0 < row.carried_by < issuer.crl_number

    # Revocations

    async def revoke_serial(
        self, serial: int, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        rows = self._with_descendants(self._row(serial))
        if reason is Reason.KEY_COMPROMISE:
            self._blocked.update(row.record.spki_sha256 for row in rows)
        return _revoke(rows, reason, now)

    def _with_descendants(self, first: _Row) -> list[_Row]:
        """Renewals come after what they were renewed from, so one pass in order finds them all."""
        serials = {first.record.serial}
        found = [first]
        for row in self._rows.values():
            if row is not first and row.record.parent_serial in serials:
                serials.add(row.record.serial)
                found.append(row)
        return found

    async def revoke_identity(
        self, spiffe_id: SpiffeId, reason: Reason, *, now: datetime
    ) -> tuple[tuple[CertificateRecord, ...], bool]:
        known = any(row.record.spiffe_id == spiffe_id for row in self._rows.values())
        if not known and spiffe_id not in self._entries:
            raise verdicts.no_certificate(str(spiffe_id))
        live = self._rows_of_identity(spiffe_id, now)
        if reason is Reason.KEY_COMPROMISE:
            self._blocked.update(row.record.spki_sha256 for row in live)
        return _revoke(live, reason, now)

    def _rows_of_identity(self, spiffe_id: SpiffeId, now: datetime) -> list[_Row]:
        entry = self._entries.get(spiffe_id)
        if entry is not None:
            self._entries[spiffe_id] = replace(entry, version=self._bump(spiffe_id))
        self._drop_tokens(spiffe_id)
        moment = verdicts.whole_seconds(now)
        own = (row for row in self._rows.values() if row.record.spiffe_id == spiffe_id)
        return [row for row in own if row.record.not_after >= moment]

    async def plan_crl(self, issuer_key_id: bytes, *, now: datetime, base: int = 0) -> CrlPlan:
        issuer = self._issuers.get(issuer_key_id, _IssuerRow())
        this_update = verdicts.next_this_update(issuer.this_update, verdicts.whole_seconds(now))
        number = verdicts.next_number(issuer.number, self._marks.get(CRL_EPOCH, 0))
        self._issuers[issuer_key_id] = replace(issuer, number=number, this_update=this_update)
        rows = [row for row in self._rows.values() if row.revoked and row.record.issuer_key_id == issuer_key_id]
        listed = [row for row in rows if not row.carried_by]
        unlisted = [row for row in listed if not row.listed_by]
        known = base == issuer.crl_number and base > 0
        leaving = [row.record.serial for row in rows if row.carried_by == base] if known else []
        return CrlPlan(
            issuer_key_id,
            number,
            this_update,
            tuple(map(_entry, unlisted if known else listed)),
            base=base if known else 0,
            removed=tuple(leaving),
            total=len(listed),
            unlisted=tuple(row.record.serial for row in unlisted),
            turn=issuer.crl_number,
        )

    async def record_crl(self, plan: CrlPlan, der: bytes, next_update: datetime) -> None:
        issuer = self._issuers.get(plan.issuer_key_id, _IssuerRow())
        verdicts.check_turn(plan, issuer.number, issuer.crl_number)
        issuer.crl_number, issuer.crl = plan.number, der
        for serial in plan.unlisted:
            row = self._rows.get((plan.issuer_key_id, serial))
            if row is not None:
                row.listed_by = plan.number
        for row in self._rows.values():
            past = row.revoked and row.listed_by and not row.carried_by and row.record.not_after < plan.this_update
            if past and row.record.issuer_key_id == plan.issuer_key_id:
                row.carried_by = plan.number

    async def latest_crl(self, issuer_key_id: bytes) -> bytes | None:
        issuer = self._issuers.get(issuer_key_id)
        return issuer.crl if issuer else None

    # Recovery

    async def learn(self, learnt: LearntList, *, unknown: SpiffeId, until: datetime) -> tuple[CertificateRecord, ...]:
        taken = [record for entry in learnt.entries for record in self._take(learnt, entry, unknown, until)]
        issuer = self._issuers.setdefault(learnt.issuer_key_id, _IssuerRow())
        spent = max(issuer.number, self._marks.get(CRL_EPOCH, 0) << 64)
        if learnt.number > spent:
            await self.raise_mark(CRL_EPOCH, (learnt.number >> 64) + 1)
        issuer.number = max(issuer.number, learnt.number)
        issuer.this_update = max(issuer.this_update or learnt.this_update, learnt.this_update)
        if learnt.number > issuer.crl_number:
            issuer.crl_number, issuer.crl = learnt.number, learnt.der
        return tuple(taken)

    def _take(
        self, learnt: LearntList, entry: RevokedEntry, unknown: SpiffeId, until: datetime
    ) -> Iterable[CertificateRecord]:
        key = (learnt.issuer_key_id, entry.serial)
        row = self._rows.get(key)
        if row is None:
            self._seq += 1
            row = self._rows[key] = _Row(self._seq, b"", verdicts.learnt_record(learnt, entry, unknown, until))
        elif row.revoked:
            return
        else:
            row.record = replace(row.record, revoked_at=entry.revoked_at, reason=entry.reason)
            if entry.reason is Reason.KEY_COMPROMISE:
                self._blocked.add(row.record.spki_sha256)
        yield row.record

    async def readmit(self, record: CertificateRecord) -> None:
        key = (record.issuer_key_id, record.serial)
        if key in self._rows:
            raise verdicts.serial_exists(record.serial)
        if record.spki_sha256 in self._blocked:
            raise verdicts.key_blocked()
        self._seq += 1
        self._rows[key] = _Row(self._seq, b"", record)

    # Incidents

    async def live(self, wanted: MassFilter, *, now: datetime) -> Sequence[LiveCertificate]:
        return incidents.live(self._rows.values(), wanted, now)

    async def revoke_serials(
        self, serials: Sequence[int], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        wanted = frozenset(serials)
        rows = [row for row in self._rows.values() if row.record.serial in wanted]
        return self._revoke_fresh(rows, reason, now)

    async def revoke_identities(
        self, identities: Sequence[SpiffeId], reason: Reason, *, now: datetime
    ) -> tuple[CertificateRecord, ...]:
        rows = [row for identity in identities for row in self._rows_of_identity(identity, now)]
        return self._revoke_fresh(rows, reason, now)

    def _revoke_fresh(self, rows: Sequence[_Row], reason: Reason, now: datetime) -> tuple[CertificateRecord, ...]:
        if reason is Reason.KEY_COMPROMISE:
            self._blocked.update(row.record.spki_sha256 for row in rows)
        return _revoke([row for row in rows if not row.revoked], reason, now)[0]

    async def block_key(self, spki_sha256: bytes) -> bool:
        fresh = spki_sha256 not in self._blocked
        self._blocked.add(spki_sha256)
        return fresh

    async def begin_reissue(self, *, now: datetime, renew_before: datetime, backdate: timedelta) -> Reissue:
        tainted_at, end = verdicts.whole_seconds(now), verdicts.whole_seconds(renew_before)
        self._reissue = Reissue(self._seq, tainted_at, end, backdate)
        return self._reissue

    async def reissue(self) -> Reissue | None:
        return self._reissue

    async def standings(self, order: Reissue) -> Sequence[Standing]:
        return incidents.standings(self._rows.values(), order)

    # Marks

    async def mark(self, name: str) -> int:
        return self._marks.get(name, 0)

    async def raise_mark(self, name: str, value: int) -> int:
        self._marks[name] = max(self._marks.get(name, 0), value)
        return self._marks[name]

    async def counts(self, *, now: datetime) -> dict[str, int]:
        states = [row.record.describe(now) for row in self._rows.values()]
        return {
            "entries": len(self._entries),
            "tokens": sum(token.expires_at >= now for token in self._tokens.values()),
            **{state: states.count(state) for state in ("valid", "revoked", "intended")},
        }

    async def check(self) -> None:
        """It can always be written."""

    def problem(self) -> None:
        return None

    async def close(self) -> None:
        """Nothing to let go of."""


def _intended(intention: Intention) -> CertificateRecord:
    return CertificateRecord(
        serial=intention.serial,
        issuer_key_id=intention.issuer_key_id,
        spiffe_id=intention.spiffe_id,
        spki_sha256=intention.spki_sha256,
        dns_names=intention.dns_names,
        not_before=verdicts.whole_seconds(intention.not_before),
        not_after=verdicts.whole_seconds(intention.not_after),
        obtained_by=intention.obtained_by,
        status=Status.INTENDED,
        parent_serial=intention.presented.serial if intention.presented else None,
    )


def _entry(row: _Row) -> RevokedEntry:
    assert row.record.revoked_at is not None
    assert row.record.reason is not None
    return RevokedEntry(row.record.serial, row.record.revoked_at, row.record.reason)


def _revoke(rows: Iterable[_Row], reason: Reason, now: datetime) -> tuple[tuple[CertificateRecord, ...], bool]:
    """The first reason and time stay."""
    chosen = list(rows)
    repeated = bool(chosen) and all(row.revoked for row in chosen)
    for row in chosen:
        if not row.revoked:
            row.record = replace(row.record, revoked_at=verdicts.whole_seconds(now), reason=reason)
    return tuple(row.record for row in chosen), repeated


async def _outcome(step: Awaitable[T]) -> T | HandfastError:
    try:
        return await step
    except HandfastError as error:
        return error
