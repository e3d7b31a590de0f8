"""Steps of the certificate book on one connection. Each looks first and writes last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from handfast.certificates import format_serial
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Intention, Page
from handfast_ca.stores import verdicts
from handfast_ca.stores.prepared import Prepared
from handfast_ca.stores.registration_steps import find_entry, look_up_token, redeem_token
from handfast_ca.stores.rows import ceiling, dump_certificate, dump_number, epoch, load_certificate, load_number
from handfast_ca.stores.schema import blocked, certificates, issuers, tokens

__all__ = ["answered", "complete", "find", "forget_expired", "intend", "list_certificates", "row_of"]

SCAN = 1000
_c = certificates.c

_ANSWERED = Prepared(
    select(certificates)
    .where(_c.request_digest == bindparam("digest"), _c.der.is_not(None), _c.revoked_at.is_(None))
    .where(_c.not_after >= bindparam("now"))
    .order_by(_c.seq.desc())
    .limit(1)
)
_OF_ISSUER = Prepared(
    select(certificates).where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer"))
)
_BY_SERIAL = Prepared(select(certificates).where(_c.serial == bindparam("number")).order_by(_c.seq).limit(1))
_JUDGE_KEY = Prepared(
    select(
        exists().where(blocked.c.spki_sha256 == bindparam("key")).label("blocked"),
        exists()
        .where(_c.spki_sha256 == bindparam("key"), _c.spiffe_id != bindparam("identity"))
        .where(_c.revoked_at.is_(None), _c.not_after >= bindparam("now"))
        .label("shared"),
        exists().where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer")).label("used"),
    )
)
_INSERT = Prepared(
    insert(certificates),
    [
        *("issuer_key_id", "serial", "spiffe_id", "spki_sha256", "request_digest", "dns_names"),
        *("not_before", "not_after", "obtained_by", "parent_serial"),
    ],
)
_COMPLETE = Prepared(update(certificates).where(_c.seq == bindparam("row")).values(der=bindparam("octets")))
_SCAN = Prepared(select(certificates).where(_c.seq > bindparam("after")).order_by(_c.seq).limit(SCAN))
_parent = certificates.alias("parent")
_DUE = Prepared(
    select(
        _c.seq,
        _c.serial,
        _c.parent_serial,
        _parent.c.serial.is_not(None).label("has_parent"),
    )
    .outerjoin_from(certificates, issuers, issuers.c.issuer_key_id == _c.issuer_key_id)
    .outerjoin(_parent, _parent.c.serial == _c.parent_serial)
    .where(_c.not_after < bindparam("until"))
    .where(_c.revoked_at.is_(None) | (_c.carried_by < issuers.c.crl_number))
    .order_by(_c.seq)
)
_FORGET = Prepared(delete(certificates).where(_c.seq == bindparam("row")))
_FORGET_TOKENS = Prepared(delete(tokens).where(tokens.c.expires_at < bindparam("until")))


def answered(connection: Connection, request_digest: bytes, now: datetime) -> CertificateRecord | None:
    row = _ANSWERED(connection, digest=request_digest, now=ceiling(now)).first()
    return load_certificate(row) if row is not None else None


def row_of(connection: Connection, serial: int) -> Row[Any]:
    row = _BY_SERIAL(connection, number=dump_number(serial)).first()
    if row is None:
        raise verdicts.no_certificate(f"serial {format_serial(serial)}")
    return row


def find(connection: Connection, serial: int) -> CertificateRecord:
    return load_certificate(row_of(connection, serial))


def _of_issuer(connection: Connection, serial: int, issuer_key_id: bytes) -> Row[Any] | None:
    return _OF_ISSUER(connection, number=dump_number(serial), issuer=issuer_key_id).first()


def intend(connection: Connection, intention: Intention) -> CertificateRecord | None:
    if (known := answered(connection, intention.request_digest, intention.now)) is not None:
        return known
    if intention.entry_version:
        verdicts.check_entry(find_entry(connection, intention.spiffe_id), intention)
    if intention.token_digest is not None:
        verdicts.check_token(look_up_token(connection, intention.token_digest), intention)
    _check_presented(connection, intention)
    _check_key(connection, intention)
    if intention.token_digest is not None:
        redeem_token(connection, intention.token_digest)
    _INSERT(connection, **dump_certificate(intention))
    return None


def _check_presented(connection: Connection, intention: Intention) -> None:
    if (presented := intention.presented) is not None:
        row = _of_issuer(connection, presented.serial, presented.issuer_key_id)
        verdicts.check_presented(load_certificate(row) if row is not None else None, intention)


def _check_key(connection: Connection, intention: Intention) -> None:
    found = _JUDGE_KEY(
        connection,
        key=intention.spki_sha256,
        identity=str(intention.spiffe_id),
        now=ceiling(intention.now),
        number=dump_number(intention.serial),
        issuer=intention.issuer_key_id,
    ).one()
    verdicts.check_key(intention, blocked=bool(found.blocked), shared=bool(found.shared))
    if found.used:
        raise verdicts.serial_exists(intention.serial)


def complete(connection: Connection, serial: int, issuer_key_id: bytes, der: bytes) -> CertificateRecord:
    row = _of_issuer(connection, serial, issuer_key_id)
    record = load_certificate(row) if row is not None else None
    fresh = verdicts.check_completion(record, serial, der)
    assert record is not None
    assert row is not None
    if not fresh:
        return record
    _COMPLETE(connection, row=row.seq, octets=der)
    return record.completed(der)


def list_certificates(
    connection: Connection, wanted: CertificateFilter, limit: int, token: str
) -> Page[CertificateRecord]:
    """Filters here and not in SQL: shell patterns mean the same in every store."""
    size = verdicts.page_size(limit)
    found: list[tuple[int, CertificateRecord]] = []
    for seq, record in _scan(connection, verdicts.page_start(token)):
        if verdicts.selects(wanted, record):
            found.append((seq, record))
        if len(found) > size:
            break
    more = len(found) > size
    return Page(tuple(record for _, record in found[:size]), str(found[size - 1][0]) if more else "")


def _scan(connection: Connection, after: int) -> Iterator[tuple[int, CertificateRecord]]:
    while rows := _SCAN(connection, after=after).all():
        yield from ((row.seq, load_certificate(row)) for row in rows)
        after = rows[-1].seq


def forget_expired(connection: Connection, now: datetime, keep: timedelta) -> int:
    until = epoch(now) - int(keep.total_seconds())
    _FORGET_TOKENS(connection, until=until)
    due = _DUE(connection, until=until).all()
    gone = set(_forgettable(due))
    _FORGET.many(connection, [{"row": row.seq} for row in due if load_number(row.serial) in gone])
    return len(gone)


def _forgettable(due: Sequence[Row[Any]]) -> list[int]:
    pairs = [(load_number(row.serial), load_number(row.parent_serial) if row.has_parent else None) for row in due]
    own = {serial for serial, _ in pairs}
    kept = frozenset(parent for _, parent in pairs if parent is not None and parent not in own)
    return verdicts.forgettable(pairs, kept)
