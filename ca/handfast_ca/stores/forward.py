"""What only moves forward, from one closed ledger into another that is older.

CRL numbers, marks, versions of entries, blocked keys; every certificate that the older one does not know, and every
revocation. Nothing that was ever issued is forgotten, and nothing that was revoked comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_new
from sqlalchemy.exc import SQLAlchemyError

from handfast.clock import to_epoch
from handfast.revocation import Reason
from handfast_ca.audit_revocations import Recorded
from handfast_ca.incident import REISSUE_WANTED, wish
from handfast_ca.ledger import CRL_EPOCH
from handfast_ca.quarantine import BEGAN_AT, BEGUN, ENDED
from handfast_ca.stores.database import open_writer
from handfast_ca.stores.prepared import Transaction
from handfast_ca.stores.revocation_steps import mark, raise_mark
from handfast_ca.stores.rows import dump_number, epoch, load_number
from handfast_ca.stores.schema import blocked, certificates, entries, issuers, marks, tokens, versions
from handfast_ca.stores.trouble import translated

__all__ = ["Carried", "carry_forward", "carry_recorded", "leap_numbers", "quarantine", "want_reissue"]

T = TypeVar("T")
_KEYED: tuple[tuple[Table, str, str], ...] = (
    (issuers, "issuer_key_id", "number"),
    (marks, "name", "value"),
    (versions, "spiffe_id", "version"),
    (blocked, "spki_sha256", "spki_sha256"),
)
_c = certificates.c
_BATCH = 1000
EPOCH = 1 << 64
"""A CRL number is an epoch and a count below it: a restore without the present numbers begins the next epoch."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How many of each came from the newer ledger; ``returned`` and ``gone`` are identities whose entries differ."""

    revocations: int
    certificates: int
    returned: tuple[str, ...]
    gone: tuple[str, ...]


def carry_forward(source: Path, target: Path) -> Carried:
    """The greater of both wins, row by row."""
    return _inside(source, lambda newer: _inside(target, lambda older: _receive(newer, older)))


def carry_recorded(recorded: Iterable[Recorded], target: Path, issuer_key_id: bytes) -> int:
    """Revokes in ``target`` what an audit trail says was revoked; returns how many were not so yet.

    A certificate that ``target`` has never seen comes from the line that granted it, as one of ``issuer_key_id``.
    """
    return _inside(target, lambda older: sum(_revoke(older, one, issuer_key_id) for one in recorded))


def leap_numbers(target: Path, now: datetime) -> None:
    """For a ledger that came out of a backup: its next CRL is newer than any that was ever published, also by another restore
    of the same backup, since an epoch is the time in seconds when it began (threats J9, D1). Its join tokens go: they may
    have been spent since (threat B1).

    A clock behind an earlier restore's still gives one more than ``target`` knows.
    """

    def leap(older: Connection) -> None:
        older.execute(delete(tokens))
        transaction = Transaction(older)
        spent = [load_number(number) // EPOCH for number in older.execute(select(issuers.c.number)).scalars()]
        begun = max(to_epoch(now), 1 + max((mark(transaction, CRL_EPOCH), *spent)))
        raise_mark(transaction, CRL_EPOCH, begun)
        older.execute(update(issuers).values(number=dump_number(begun * EPOCH)))

    _inside(target, leap)


def quarantine(target: Path, now: datetime) -> None:
    """The CA that starts over ``target`` signs nothing until agents told what it lost (:mod:`handfast_ca.quarantine`)."""

    def close(older: Connection) -> None:
        transaction = Transaction(older)
        raise_mark(transaction, BEGAN_AT, to_epoch(now))
        raise_mark(transaction, BEGUN, max(mark(transaction, BEGUN), mark(transaction, ENDED)) + 1)

    _inside(target, close)


def want_reissue(target: Path, now: datetime, window: timedelta) -> None:
    """The CA that starts over ``target`` orders every agent to renew, when it signs (:mod:`handfast_ca.reissuer`)."""
    _inside(target, lambda older: raise_mark(Transaction(older), REISSUE_WANTED, wish(now, window)))


def _inside(path: Path, step: Callable[[Connection], T]) -> T:
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            return step(connection)
    except SQLAlchemyError as error:
        raise translated(error) from error
    finally:
        engine.dispose()


def _receive(newer: Connection, older: Connection) -> Carried:
    for table, key, rises in _KEYED:
        for row in newer.execute(select(table)).all():
            _raise_row(older, table, key, rises, dict(row._mapping))
    before, after = _identities(older), _identities(newer)
    revoked, unknown = _carry_certificates(newer, older)
    return Carried(revoked, unknown, tuple(sorted(before - after)), tuple(sorted(after - before)))


def _identities(connection: Connection) -> set[str]:
    return set(connection.execute(select(entries.c.spiffe_id)).scalars())


def _raise_row(connection: Connection, table: Table, key: str, rises: str, values: Mapping[str, Any]) -> None:
    mine = connection.execute(select(table.c[rises]).where(table.c[key] == values[key])).scalar()
    if mine is None:
        connection.execute(insert(table).values(values))
    elif mine < values[rises]:
        connection.execute(update(table).where(table.c[key] == values[key]).values(values))


def _carry_certificates(newer: Connection, older: Connection) -> tuple[int, int]:
    """Rows that are missing, then revocations that are: how many of the latter, and of the former."""
    revoked = missing = 0
    in_order = select(certificates).order_by(_c.seq).execution_options(yield_per=_BATCH)
    for batch in newer.execute(in_order).partitions():
        rows = [{name: value for name, value in row._mapping.items() if name != "seq"} for row in batch]
        known = older.execute(select(_c.serial).where(_c.serial.in_([row["serial"] for row in rows]))).scalars().all()
        unknown = [row for row in rows if row["serial"] not in known]
        if unknown:
            older.execute(insert(certificates), unknown)
        missing += len(unknown)
        revoked += sum(row["revoked_at"] is not None for row in unknown)
    _complete(newer, older)
    for row in newer.execute(select(certificates).where(_c.revoked_at.is_not(None))).all():
        listed = {"carried_by": row.carried_by, "listed_by": row.listed_by}
        revoked += _mark_revoked(older, row.serial, row.revoked_at, row.reason, listed)
    return revoked, missing


def _complete(newer: Connection, older: Connection) -> None:
    """What was on its way at the time of the backup has arrived since; else it would be revoked as never completed."""
    for serial in older.execute(select(_c.serial).where(_c.der.is_(None))).scalars().all():
        der = newer.execute(select(_c.der).where(_c.serial == serial)).scalar()
        if der is not None:
            older.execute(update(certificates).where(_c.serial == serial, _c.der.is_(None)).values(der=der))


def _mark_revoked(older: Connection, serial: bytes, at: int, reason: str, listed: Mapping[str, bytes | None]) -> int:
    values = {"revoked_at": at, "reason": reason, **listed}
    done = older.execute(update(certificates).where(_c.serial == serial, _c.revoked_at.is_(None)).values(values))
    return done.rowcount


def _revoke(older: Connection, recorded: Recorded, issuer_key_id: bytes) -> int:
    serial, at = dump_number(recorded.serial), epoch(recorded.revoked_at)
    row = older.execute(select(certificates).where(_c.serial == serial)).first()
    if row is None:
        if recorded.granted is None:
            return 0
        values = _from_line(recorded.granted, serial, issuer_key_id)
        older.execute(insert(certificates).values(values | {"revoked_at": at, "reason": recorded.reason.value}))
        _block(older, recorded.reason, values["spki_sha256"])
        return 1
    _block(older, recorded.reason, row.spki_sha256)
    return _mark_revoked(older, serial, at, recorded.reason.value, {})


def _from_line(line: Mapping[str, Any], serial: bytes, issuer_key_id: bytes) -> dict[str, Any]:
    return {
        "issuer_key_id": issuer_key_id,
        "serial": serial,
        "spiffe_id": line["spiffe_id"],
        "spki_sha256": bytes.fromhex(line["public_key_sha256"]),
        "request_digest": bytes.fromhex(line["csr_sha256"]),
        "dns_names": json.dumps(line.get("dns_names", [])),
        "not_before": epoch(datetime.fromisoformat(line["not_before"])),
        "not_after": epoch(datetime.fromisoformat(line["not_after"])),
        "obtained_by": line.get("obtained_by", ""),
    }


def _block(older: Connection, reason: Reason, spki_sha256: bytes) -> None:
    if reason is Reason.KEY_COMPROMISE:
        older.execute(insert_new(blocked).on_conflict_do_nothing().values(spki_sha256=spki_sha256))
