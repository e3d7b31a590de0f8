"""Steps of a ledger that takes back what it lost, on one transaction (threat J9)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_new

from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.ledger import CRL_EPOCH, CertificateRecord, LearntList, RevokedEntry
from handfast_ca.stores import verdicts
from handfast_ca.stores.prepared import Prepared, Row, Transaction
from handfast_ca.stores.revocation_steps import mark, raise_mark
from handfast_ca.stores.rows import dump_number, epoch, load_certificate, load_number
from handfast_ca.stores.schema import blocked, certificates, issuers

__all__ = ["learn", "readmit"]

_c, _i = certificates.c, issuers.c
_OF_ISSUER = Prepared(
    select(certificates).where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer"))
)
_REVOKE = Prepared(
    update(certificates).where(_c.seq == bindparam("row")).values(revoked_at=bindparam("at"), reason=bindparam("why"))
)
_INSERT = Prepared(
    insert(certificates),
    [
        *("issuer_key_id", "serial", "spiffe_id", "spki_sha256", "request_digest", "dns_names"),
        *("not_before", "not_after", "obtained_by", "der", "revoked_at", "reason"),
    ],
)
_IS_BLOCKED = Prepared(select(blocked.c.spki_sha256).where(blocked.c.spki_sha256 == bindparam("key")))
_BLOCK = Prepared(insert_new(blocked).on_conflict_do_nothing())
_ISSUER = Prepared(select(issuers).where(_i.issuer_key_id == bindparam("issuer")))
_ADD_ISSUER = Prepared(insert(issuers), ["issuer_key_id", "number", "this_update"])
_COME_AFTER = Prepared(
    update(issuers)
    .where(_i.issuer_key_id == bindparam("issuer"))
    .values(number=bindparam("spent"), this_update=bindparam("at"))
)
_KEEP_CRL = Prepared(
    update(issuers)
    .where(_i.issuer_key_id == bindparam("issuer"))
    .values(crl_number=bindparam("number_of_it"), crl=bindparam("octets"), next_update=bindparam("until"))
)


def learn(
    transaction: Transaction, learnt: LearntList, unknown: SpiffeId, until: datetime
) -> tuple[CertificateRecord, ...]:
    taken = list(_take(transaction, learnt, unknown, until))
    row = _ISSUER(transaction, issuer=learnt.issuer_key_id).first()
    if row is None:
        first = {"number": dump_number(0), "this_update": epoch(learnt.this_update)}
        _ADD_ISSUER(transaction, issuer_key_id=learnt.issuer_key_id, **first)
        row = _ISSUER(transaction, issuer=learnt.issuer_key_id).one()
    _come_after(transaction, row, learnt)
    if learnt.number > load_number(row.crl_number):
        kept = {"number_of_it": dump_number(learnt.number), "until": epoch(learnt.next_update)}
        _KEEP_CRL(transaction, issuer=learnt.issuer_key_id, octets=learnt.der, **kept)
    return tuple(taken)


def _come_after(transaction: Transaction, row: Row, learnt: LearntList) -> None:
    spent = load_number(row.number)
    if learnt.number > max(spent, mark(transaction, CRL_EPOCH) << 64):
        raise_mark(transaction, CRL_EPOCH, (learnt.number >> 64) + 1)
    after = {"spent": dump_number(max(spent, learnt.number)), "at": max(row.this_update, epoch(learnt.this_update))}
    _COME_AFTER(transaction, issuer=learnt.issuer_key_id, **after)


def _take(
    transaction: Transaction, learnt: LearntList, unknown: SpiffeId, until: datetime
) -> Iterable[CertificateRecord]:
    for entry in learnt.entries:
        row = _OF_ISSUER(transaction, number=dump_number(entry.serial), issuer=learnt.issuer_key_id).first()
        if row is None:
            record = verdicts.learnt_record(learnt, entry, unknown, until)
            _INSERT(transaction, **_row(record))
            yield record
        elif row.revoked_at is None:
            yield _revoke(transaction, row, entry)


def _revoke(transaction: Transaction, row: Row, entry: RevokedEntry) -> CertificateRecord:
    _REVOKE(transaction, row=row.seq, at=epoch(entry.revoked_at), why=entry.reason.value)
    if entry.reason is Reason.KEY_COMPROMISE:
        _BLOCK(transaction, spki_sha256=row.spki_sha256)
    return replace(load_certificate(row), revoked_at=entry.revoked_at, reason=entry.reason)


def readmit(transaction: Transaction, record: CertificateRecord) -> None:
    number = dump_number(record.serial)
    if _OF_ISSUER(transaction, number=number, issuer=record.issuer_key_id).first() is not None:
        raise verdicts.serial_exists(record.serial)
    if _IS_BLOCKED(transaction, key=record.spki_sha256).first() is not None:
        raise verdicts.key_blocked()
    _INSERT(transaction, **_row(record))


def _row(record: CertificateRecord) -> dict[str, Any]:
    return {
        "issuer_key_id": record.issuer_key_id,
        "serial": dump_number(record.serial),
        "spiffe_id": str(record.spiffe_id),
        "spki_sha256": record.spki_sha256,
        "request_digest": b"",
        "dns_names": json.dumps(record.dns_names),
        "not_before": epoch(record.not_before),
        "not_after": epoch(record.not_after),
        "obtained_by": record.obtained_by,
        "der": record.der,
        "revoked_at": None if record.revoked_at is None else epoch(record.revoked_at),
        "reason": None if record.reason is None else record.reason.value,
    }
