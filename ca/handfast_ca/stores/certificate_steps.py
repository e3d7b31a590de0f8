"""Steps of the certificate book on one transaction. Each looks first and writes last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, exists, insert, select, update

from handfast.certificates import format_serial
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Intention, Page
from handfast_ca.stores import verdicts
from handfast_ca.stores.prepared import Prepared, Row, Transaction
from handfast_ca.stores.registration_steps import look_up_token, redeem_token
from handfast_ca.stores.rows import ceiling, dump_certificate, dump_number, epoch, load_certificate, load_number
from handfast_ca.stores.schema import blocked, certificates, entries, issuers, tokens

__all__ = ["answered", "complete", "find", "forget_expired", "intend", "list_certificates", "row_of"]

SCAN = 1000
_c = certificates.c

_repeats = [
    _c.request_digest == bindparam("digest"),
    *(_c.der.is_not(None), _c.revoked_at.is_(None), _c.not_after >= bindparam("now")),
]
_ANSWERED = Prepared(select(certificates).where(*_repeats).order_by(_c.seq.desc()).limit(1))
_OF_ISSUER = Prepared(
    select(certificates).where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer"))
)
_BY_SERIAL = Prepared(select(certificates).where(_c.serial == bindparam("number")).order_by(_c.seq).limit(1))
_JUDGE = Prepared(
    select(
        exists().where(*_repeats).label("repeated"),
        select(entries.c.version)
        .where(entries.c.spiffe_id == bindparam("identity"))
        .scalar_subquery()
        .label("version"),
        exists().where(blocked.c.spki_sha256 == bindparam("key")).label("blocked"),
        exists()
        .where(_c.spki_sha256 == bindparam("key"), _c.spiffe_id != bindparam("identity"))
        .where(_c.revoked_at.is_(None), _c.not_after >= bindparam("now"))
        .label("shared"),
        exists().where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer")).label("used"),
    )
)
"""All that an intention is judged by but its proof, in one look."""
_INSERT = Prepared(
    insert(certificates),
    [
        *("issuer_key_id", "serial", "spiffe_id", "spki_sha256", "request_digest", "dns_names"),
        *("not_before", "not_after", "obtained_by", "parent_serial"),
    ],
)
_COMPLETE = Prepared(
    update(certificates)
    .where(_c.serial == bindparam("number"), _c.issuer_key_id == bindparam("issuer"))
    .where(_c.der.is_(None), _c.revoked_at.is_(None))
    .values(der=bindparam("octets"))
    .returning(certificates)
)
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


def answered(transaction: Transaction, request_digest: bytes, now: datetime) -> CertificateRecord | None:
    row = _ANSWERED(transaction, digest=request_digest, now=ceiling(now)).first()
    return load_certificate(row) if row is not None else None


def row_of(transaction: Transaction, serial: int) -> Row:
    row = _BY_SERIAL(transaction, number=dump_number(serial)).first()
    if row is None:
        raise verdicts.no_certificate(f"serial {format_serial(serial)}")
    return row


def find(transaction: Transaction, serial: int) -> CertificateRecord:
    return load_certificate(row_of(transaction, serial))


def _of_issuer(transaction: Transaction, serial: int, issuer_key_id: bytes) -> Row | None:
    return _OF_ISSUER(transaction, number=dump_number(serial), issuer=issuer_key_id).first()


def intend(transaction: Transaction, intention: Intention) -> CertificateRecord | None:
    found = _JUDGE(
        transaction,
        digest=intention.request_digest,
        now=ceiling(intention.now),
        identity=str(intention.spiffe_id),
        key=intention.spki_sha256,
        number=dump_number(intention.serial),
        issuer=intention.issuer_key_id,
    ).one()
    if found.repeated:
        return answered(transaction, intention.request_digest, intention.now)
    verdicts.check_entry(found.version, intention)
    if intention.token_digest is not None:
        verdicts.check_token(look_up_token(transaction, intention.token_digest), intention)
    if (presented := intention.presented) is not None:
        row = _of_issuer(transaction, presented.serial, presented.issuer_key_id)
        verdicts.check_presented(load_certificate(row) if row is not None else None, intention)
    verdicts.check_key(intention, blocked=bool(found.blocked), shared=bool(found.shared))
    if found.used:
        raise verdicts.serial_exists(intention.serial)
    if intention.token_digest is not None:
        redeem_token(transaction, intention.token_digest)
    _INSERT(transaction, **dump_certificate(intention))
    return None


def complete(transaction: Transaction, serial: int, issuer_key_id: bytes, der: bytes) -> CertificateRecord:
    done = _COMPLETE(transaction, number=dump_number(serial), issuer=issuer_key_id, octets=der).first()
    if done is not None:
        return load_certificate(done)
    row = _of_issuer(transaction, serial, issuer_key_id)
    record = load_certificate(row) if row is not None else None
    verdicts.check_completion(record, serial, der)
    assert record is not None, "what has no row is refused"
    return record


def list_certificates(
    transaction: Transaction, wanted: CertificateFilter, limit: int, token: str
) -> Page[CertificateRecord]:
    """Filters here and not in SQL: shell patterns mean the same in every store."""
    size = verdicts.page_size(limit)
    found: list[tuple[int, CertificateRecord]] = []
    for seq, record in _scan(transaction, verdicts.page_start(token)):
        if verdicts.selects(wanted, record):
            found.append((seq, record))
        if len(found) > size:
            break
    more = len(found) > size
    return Page(tuple(record for _, record in found[:size]), str(found[size - 1][0]) if more else "")


def _scan(transaction: Transaction, after: int) -> Iterator[tuple[int, CertificateRecord]]:
    while rows := _SCAN(transaction, after=after).all():
        yield from ((row.seq, load_certificate(row)) for row in rows)
        after = rows[-1].seq


def forget_expired(transaction: Transaction, now: datetime, keep: timedelta) -> int:
    until = epoch(now) - int(keep.total_seconds())
    _FORGET_TOKENS(transaction, until=until)
    due = _DUE(transaction, until=until).all()
    gone = set(_forgettable(due))
    _FORGET.many(transaction, [{"row": row.seq} for row in due if load_number(row.serial) in gone])
    return len(gone)


def _forgettable(due: Sequence[Row]) -> list[int]:
    pairs = [(load_number(row.serial), load_number(row.parent_serial) if row.has_parent else None) for row in due]
    own = {serial for serial, _ in pairs}
    kept = frozenset(parent for _, parent in pairs if parent is not None and parent not in own)
    return verdicts.forgettable(pairs, kept)
