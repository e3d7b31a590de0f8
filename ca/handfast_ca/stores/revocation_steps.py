"""Steps of revocations, CRLs and marks on one transaction. Each looks first and writes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, func, insert, select, update

from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.ledger import CRL_EPOCH, CertificateRecord, CrlPlan, RevokedEntry
from handfast_ca.stores import verdicts
from handfast_ca.stores.certificate_steps import row_of
from handfast_ca.stores.prepared import Prepared, Row, Transaction
from handfast_ca.stores.registration_steps import bump_entry, drop_tokens, find_entry
from handfast_ca.stores.rows import ceiling, dump_number, epoch, load_certificate, load_number, moment
from handfast_ca.stores.schema import blocked, certificates, entries, issuers, marks, tokens

__all__ = [
    "block_keys",
    "counts",
    "latest_crl",
    "mark",
    "plan_crl",
    "raise_mark",
    "record_crl",
    "revoke_dangling",
    "revoke_identity",
    "revoke_rows",
    "revoke_serial",
    "rows_of_identity",
    "set_marks",
]

Revoked = tuple[tuple[CertificateRecord, ...], bool]
_c, _i, _m = certificates.c, issuers.c, marks.c

_tree = select(_c.seq, _c.serial).where(_c.seq == bindparam("first")).cte("tree", recursive=True)
_tree = _tree.union(select(_c.seq, _c.serial).where(_c.parent_serial == _tree.c.serial))
_DESCENDANTS = Prepared(select(certificates).join(_tree, _tree.c.seq == _c.seq).order_by(_c.seq))
_OF_IDENTITY = Prepared(
    select(certificates).where(_c.spiffe_id == bindparam("identity"), _c.not_after >= bindparam("now")).order_by(_c.seq)
)
_ANY_OF_IDENTITY = Prepared(select(_c.seq).where(_c.spiffe_id == bindparam("identity")).limit(1))
_DANGLING = Prepared(select(certificates).where(_c.der.is_(None), _c.revoked_at.is_(None)).order_by(_c.seq))
_REVOKE = Prepared(
    update(certificates).where(_c.seq == bindparam("row")).values(revoked_at=bindparam("at"), reason=bindparam("why"))
)
_IS_BLOCKED = Prepared(select(blocked.c.spki_sha256).where(blocked.c.spki_sha256 == bindparam("key")))
_BLOCK = Prepared(insert(blocked))
_ISSUER = Prepared(select(_i.number, _i.this_update, _i.crl_number).where(_i.issuer_key_id == bindparam("issuer")))
_KEPT = Prepared(select(_i.crl).where(_i.issuer_key_id == bindparam("issuer")))
_ADD_ISSUER = Prepared(insert(issuers), ["issuer_key_id", "number", "this_update"])
_SPEND_NUMBER = Prepared(
    update(issuers)
    .where(_i.issuer_key_id == bindparam("issuer"))
    .values(number=bindparam("next"), this_update=bindparam("at"))
)
_entry = select(_c.serial, _c.revoked_at, _c.reason)
_of_issuer = (_c.issuer_key_id == bindparam("issuer"), _c.revoked_at.is_not(None))
_listed = (*_of_issuer, _c.carried_by.is_(None))
_UNLISTED = Prepared(_entry.where(*_listed, _c.listed_by.is_(None)).order_by(_c.seq))
_LISTED = Prepared(_entry.add_columns(_c.listed_by).where(*_listed).order_by(_c.seq))
_HOW_MANY = Prepared(select(func.count().label("many")).select_from(certificates).where(*_listed))
_LEAVING = Prepared(
    select(_c.serial)
    .where(_c.issuer_key_id == bindparam("issuer"), _c.carried_by == bindparam("by"))
    .where(_c.carried_by.is_not(None))
)
_KEEP_CRL = Prepared(
    update(issuers)
    .where(_i.issuer_key_id == bindparam("issuer"))
    .values(crl_number=bindparam("number_of_it"), crl=bindparam("octets"), next_update=bindparam("until"))
)
_LIST = Prepared(
    update(certificates)
    .where(_c.issuer_key_id == bindparam("issuer"), _c.serial == bindparam("of"))
    .values(listed_by=bindparam("by"))
)
_CARRY = Prepared(
    update(certificates)
    .where(*_listed, _c.listed_by.is_not(None), _c.not_after < bindparam("at"))
    .values(carried_by=bindparam("by"))
)
_MARK = Prepared(select(_m.value).where(_m.name == bindparam("called")))
_ADD_MARK = Prepared(insert(marks))
_SET_MARK = Prepared(update(marks).where(_m.name == bindparam("called")).values(value=bindparam("raised")))
_revoked, _unexpired, _issued = _c.revoked_at.is_not(None), _c.not_after >= bindparam("now"), _c.der.is_not(None)
_count = func.count()
_COUNTS = Prepared(
    select(
        select(_count).select_from(entries).scalar_subquery().label("entries"),
        select(_count).where(tokens.c.expires_at >= bindparam("now")).scalar_subquery().label("tokens"),
        select(_count).where(~_revoked, _unexpired, _issued).scalar_subquery().label("valid"),
        select(_count).where(_revoked).select_from(certificates).scalar_subquery().label("revoked"),
        select(_count).where(~_revoked, _unexpired, ~_issued).scalar_subquery().label("intended"),
    )
)


def revoke_serial(transaction: Transaction, serial: int, reason: Reason, now: datetime) -> Revoked:
    first = row_of(transaction, serial)
    return revoke_rows(transaction, _DESCENDANTS(transaction, first=first.seq).all(), reason, now)


def revoke_identity(transaction: Transaction, spiffe_id: SpiffeId, reason: Reason, now: datetime) -> Revoked:
    identity = str(spiffe_id)
    known = find_entry(transaction, spiffe_id) is not None
    if not known and _ANY_OF_IDENTITY(transaction, identity=identity).first() is None:
        raise verdicts.no_certificate(identity)
    return revoke_rows(transaction, rows_of_identity(transaction, spiffe_id, now), reason, now)


def rows_of_identity(transaction: Transaction, spiffe_id: SpiffeId, now: datetime) -> Sequence[Row]:
    """Its unexpired rows, after its tokens went and its entry's version rose, so that nothing in flight commits."""
    if find_entry(transaction, spiffe_id) is not None:
        bump_entry(transaction, spiffe_id)
    drop_tokens(transaction, spiffe_id)
    return _OF_IDENTITY(transaction, identity=str(spiffe_id), now=epoch(now)).all()


def revoke_dangling(transaction: Transaction, now: datetime) -> Sequence[CertificateRecord]:
    return revoke_rows(transaction, _DANGLING(transaction).all(), Reason.UNSPECIFIED, now)[0]


def revoke_rows(transaction: Transaction, rows: Sequence[Row], reason: Reason, now: datetime) -> Revoked:
    """The first reason and time stay."""
    fresh = [row for row in rows if row.revoked_at is None]
    at = epoch(now)
    _REVOKE.many(transaction, [{"row": row.seq, "at": at, "why": reason.value} for row in fresh])
    if reason is Reason.KEY_COMPROMISE:
        block_keys(transaction, {row.spki_sha256 for row in rows})
    chosen = {row.seq for row in fresh}
    records = tuple(
        replace(load_certificate(row), revoked_at=moment(at), reason=reason)
        if row.seq in chosen
        else load_certificate(row)
        for row in rows
    )
    return records, bool(rows) and not fresh


def block_keys(transaction: Transaction, keys: set[bytes]) -> int:
    """Returns how many of them were not blocked before."""
    unknown = [key for key in sorted(keys) if _IS_BLOCKED(transaction, key=key).first() is None]
    _BLOCK.many(transaction, [{"spki_sha256": key} for key in unknown])
    return len(unknown)


def plan_crl(transaction: Transaction, issuer_key_id: bytes, now: datetime, base: int) -> CrlPlan:
    row = _ISSUER(transaction, issuer=issuer_key_id).first()
    last = moment(row.this_update) if row is not None else None
    this_update = verdicts.next_this_update(last, verdicts.whole_seconds(now))
    last_number, turn = (load_number(row.number), load_number(row.crl_number)) if row is not None else (0, 0)
    number = verdicts.next_number(last_number, mark(transaction, CRL_EPOCH))
    spent = {"next": dump_number(number), "at": epoch(this_update)}
    if row is None:
        _ADD_ISSUER(transaction, issuer_key_id=issuer_key_id, number=spent["next"], this_update=spent["at"])
    else:
        _SPEND_NUMBER(transaction, issuer=issuer_key_id, **spent)
    if base and base == turn:
        return _difference(transaction, CrlPlan(issuer_key_id, number, this_update, (), base=base, turn=turn))
    rows = _LISTED(transaction, issuer=issuer_key_id).all()
    unlisted = tuple(load_number(found.serial) for found in rows if found.listed_by is None)
    entries_of_it = tuple(map(_load_entry, rows))
    return CrlPlan(issuer_key_id, number, this_update, entries_of_it, total=len(rows), unlisted=unlisted, turn=turn)


def _difference(transaction: Transaction, plan: CrlPlan) -> CrlPlan:
    """What the list ``plan.base`` lacks and has too much. The rows that stay are counted, not read."""
    fresh = tuple(map(_load_entry, _UNLISTED(transaction, issuer=plan.issuer_key_id)))
    leaving = _LEAVING(transaction, issuer=plan.issuer_key_id, by=dump_number(plan.base))
    return replace(
        plan,
        entries=fresh,
        removed=tuple(load_number(found.serial) for found in leaving),
        total=int(_HOW_MANY(transaction, issuer=plan.issuer_key_id).scalar()),
        unlisted=tuple(entry.serial for entry in fresh),
    )


def _load_entry(found: Row) -> RevokedEntry:
    return RevokedEntry(load_number(found.serial), moment(found.revoked_at), Reason(found.reason))


def record_crl(transaction: Transaction, plan: CrlPlan, der: bytes, next_update: datetime) -> None:
    row = _ISSUER(transaction, issuer=plan.issuer_key_id).first()
    planned, recorded = (load_number(row.number), load_number(row.crl_number)) if row is not None else (0, 0)
    verdicts.check_turn(plan, planned, recorded)
    number, issuer = dump_number(plan.number), plan.issuer_key_id
    _KEEP_CRL(transaction, issuer=issuer, number_of_it=number, octets=der, until=epoch(next_update))
    _LIST.many(transaction, [{"issuer": issuer, "by": number, "of": dump_number(one)} for one in plan.unlisted])
    _CARRY(transaction, issuer=issuer, by=number, at=epoch(plan.this_update))


def latest_crl(transaction: Transaction, issuer_key_id: bytes) -> bytes | None:
    crl: bytes | None = _KEPT(transaction, issuer=issuer_key_id).scalar()
    return crl


def mark(transaction: Transaction, name: str) -> int:
    return int(_MARK(transaction, called=name).scalar() or 0)


def set_marks(transaction: Transaction, values: Mapping[str, int]) -> None:
    """Writes them as they are, together."""
    for name, value in values.items():
        if _MARK(transaction, called=name).scalar() is None:
            _ADD_MARK(transaction, name=name, value=value)
        else:
            _SET_MARK(transaction, called=name, raised=value)


def raise_mark(transaction: Transaction, name: str, value: int) -> int:
    known = _MARK(transaction, called=name).scalar()
    if known is None:
        _ADD_MARK(transaction, name=name, value=max(value, 0))
        return max(value, 0)
    if value > known:
        _SET_MARK(transaction, called=name, raised=value)
    return max(int(known), value)


def counts(transaction: Transaction, now: datetime) -> dict[str, int]:
    return dict(_COUNTS(transaction, now=ceiling(now)).one()._asdict())
