"""Steps that concern many certificates at once, on one transaction. Each looks first and writes last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from sqlalchemy import bindparam, case, func, or_, select

from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.incident import LiveCertificate, MassFilter, Reissue, Standing
from handfast_ca.ledger import CertificateRecord
from handfast_ca.stores import verdicts
from handfast_ca.stores.prepared import Prepared, Row, Transaction
from handfast_ca.stores.revocation_steps import block_keys, mark, revoke_rows, rows_of_identity, set_marks
from handfast_ca.stores.rows import ceiling, dump_number, epoch, load_number, moment
from handfast_ca.stores.schema import certificates

__all__ = ["begin_reissue", "block_key", "live", "reissue", "revoke_identities", "revoke_serials", "standings"]

FOREVER = 1 << 40
"""A second that no certificate reaches."""
_c = certificates.c
_of_issuer = or_(bindparam("issuer") == b"", _c.issuer_key_id == bindparam("issuer"))
_unexpired = _c.not_after >= bindparam("now")
_fits = (
    _of_issuer,
    or_(bindparam("key") == b"", _c.spki_sha256 == bindparam("key")),
    _c.not_before >= bindparam("from_then"),
    _c.not_before <= bindparam("until_then"),
    _c.seq <= bindparam("up_to"),
)
_tree = select(_c.seq, _c.serial).where(*_fits).cte("tree", recursive=True)
_tree = _tree.union(select(_c.seq, _c.serial).join(_tree, _c.parent_serial == _tree.c.serial))
_columns = (_c.seq, _c.serial, _c.issuer_key_id, _c.spiffe_id, _c.not_after, _c.revoked_at)
_OWN = Prepared(select(*_columns).where(*_fits, _unexpired).order_by(_c.seq))
_WITH_RENEWALS = Prepared(
    select(*_columns).join(_tree, _tree.c.seq == _c.seq).where(_of_issuer, _unexpired).order_by(_c.seq)
)
_BY_SERIAL = Prepared(select(certificates).where(_c.serial == bindparam("number")).order_by(_c.seq))
_LAST = Prepared(select(func.max(_c.seq).label("last")))
_unrevoked = _c.revoked_at.is_(None)
_old = _c.seq <= bindparam("up_to")
_tenth = (_c.not_after - _c.not_before + 1) // 10
_issued_at = _c.not_before + case((_tenth < bindparam("backdate"), _tenth), else_=bindparam("backdate"))
"""As the profile backdates, to the second."""
_held = case((_old & or_(_unrevoked, _c.revoked_at >= bindparam("at")), _c.not_after))
_STANDINGS = Prepared(
    select(
        _c.spiffe_id,
        func.max(case((_old & _unrevoked, _c.not_after))).label("old_until"),
        func.min(case((~_old, _issued_at))).label("renewed"),
        func.max(case((_old, _c.obtained_by))).label("obtained_by"),
    )
    .where(_c.not_after >= bindparam("at"), _c.der.is_not(None))
    .group_by(_c.spiffe_id)
    .having(func.max(_held).is_not(None))
    .order_by(_c.spiffe_id)
)
_PLACE, _TAINTED, _BEFORE, _BACKDATE = (
    f"reissue {what}" for what in ("up to", "tainted at", "renew before", "backdate")
)


def live(transaction: Transaction, wanted: MassFilter, now: datetime) -> Sequence[LiveCertificate]:
    """Patterns are matched here and not in SQL: they mean the same in every store."""
    chosen = _WITH_RENEWALS if wanted.renewals and wanted.picks_single_ones else _OWN
    found = chosen(
        transaction,
        issuer=wanted.issuer_key_id,
        key=wanted.spki_sha256,
        from_then=epoch(wanted.issued_from) if wanted.issued_from else 0,
        until_then=epoch(wanted.issued_until) if wanted.issued_until else FOREVER,
        up_to=FOREVER if wanted.up_to is None else wanted.up_to,
        now=ceiling(now),
    )
    return [_live(row) for row in found if fnmatchcase(row.spiffe_id, wanted.identity_glob or "*")]


def _live(row: Row) -> LiveCertificate:
    number = load_number(row.serial)
    return LiveCertificate(
        number, row.issuer_key_id, row.spiffe_id, moment(row.not_after), revoked=row.revoked_at is not None
    )


def revoke_serials(
    transaction: Transaction, serials: Sequence[int], reason: Reason, now: datetime
) -> tuple[CertificateRecord, ...]:
    rows = [row for serial in serials for row in _BY_SERIAL(transaction, number=dump_number(serial)).all()]
    return _fresh(rows, revoke_rows(transaction, rows, reason, now)[0])


def _fresh(rows: Sequence[Row], records: Sequence[CertificateRecord]) -> tuple[CertificateRecord, ...]:
    return tuple(record for row, record in zip(rows, records, strict=True) if row.revoked_at is None)


def revoke_identities(
    transaction: Transaction, identities: Sequence[SpiffeId], reason: Reason, now: datetime
) -> tuple[CertificateRecord, ...]:
    found: list[CertificateRecord] = []
    for identity in identities:
        rows = rows_of_identity(transaction, identity, now)
        found += _fresh(rows, revoke_rows(transaction, rows, reason, now)[0])
    return tuple(found)


def block_key(transaction: Transaction, spki_sha256: bytes) -> bool:
    return block_keys(transaction, {spki_sha256}) > 0


def begin_reissue(transaction: Transaction, now: datetime, renew_before: datetime, backdate: timedelta) -> Reissue:
    last = int(_LAST(transaction).scalar() or 0)
    order = Reissue(last, verdicts.whole_seconds(now), verdicts.whole_seconds(renew_before), backdate)
    values = {
        _PLACE: order.up_to,
        _TAINTED: epoch(order.tainted_at),
        _BEFORE: epoch(order.renew_before),
        _BACKDATE: int(backdate.total_seconds()),
    }
    set_marks(transaction, values)
    return order


def reissue(transaction: Transaction) -> Reissue | None:
    tainted = mark(transaction, _TAINTED)
    if not tainted:
        return None
    backdate = timedelta(seconds=mark(transaction, _BACKDATE))
    return Reissue(mark(transaction, _PLACE), moment(tainted), moment(mark(transaction, _BEFORE)), backdate)


def standings(transaction: Transaction, order: Reissue) -> Sequence[Standing]:
    found = _STANDINGS(
        transaction, up_to=order.up_to, at=epoch(order.tainted_at), backdate=int(order.backdate.total_seconds())
    )
    return [Standing(row.spiffe_id, row.obtained_by, _when(row.old_until), _when(row.renewed)) for row in found.all()]


def _when(seconds: int | None) -> datetime | None:
    return None if seconds is None else moment(seconds)
