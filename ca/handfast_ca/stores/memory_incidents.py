"""What concerns many certificates at once, over the rows of the ledger in memory: looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Protocol

from handfast_ca.incident import LiveCertificate, MassFilter, Reissue, Standing
from handfast_ca.ledger import CertificateRecord, Status

__all__ = ["live", "standings"]


class Kept(Protocol):
    """A record and its place in the book."""

    seq: int
    record: CertificateRecord


def live(rows: Iterable[Kept], wanted: MassFilter, now: datetime) -> Sequence[LiveCertificate]:
    chosen: set[int] = set()
    found: list[LiveCertificate] = []
    for row in rows:  # renewals come after what they were renewed from
        record = row.record
        if not (_fits(row, wanted) or (wanted.renewals and record.parent_serial in chosen)):
            continue
        chosen.add(record.serial)
        if record.not_after >= now and _of_issuer(record, wanted) and _named(record, wanted):
            found.append(
                LiveCertificate(
                    record.serial,
                    record.issuer_key_id,
                    str(record.spiffe_id),
                    record.not_after,
                    revoked=record.revoked_at is not None,
                )
            )
    return found


def _fits(row: Kept, wanted: MassFilter) -> bool:
    record = row.record
    return (
        _of_issuer(record, wanted)
        and wanted.spki_sha256 in (b"", record.spki_sha256)
        and (wanted.issued_from is None or record.not_before >= wanted.issued_from.replace(microsecond=0))
        and (wanted.issued_until is None or record.not_before <= wanted.issued_until)
        and (wanted.up_to is None or row.seq <= wanted.up_to)
    )


def _of_issuer(record: CertificateRecord, wanted: MassFilter) -> bool:
    return wanted.issuer_key_id in (b"", record.issuer_key_id)


def _named(record: CertificateRecord, wanted: MassFilter) -> bool:
    return fnmatchcase(str(record.spiffe_id), wanted.identity_glob or "*")


def standings(rows: Iterable[Kept], order: Reissue) -> Sequence[Standing]:
    of_name: dict[str, list[Kept]] = {}
    for row in rows:
        if row.record.not_after >= order.tainted_at and row.record.status is Status.ISSUED:
            of_name.setdefault(str(row.record.spiffe_id), []).append(row)
    found = (_standing(name, own, order) for name, own in sorted(of_name.items()))
    return [standing for standing in found if standing is not None]


def _standing(name: str, rows: Sequence[Kept], order: Reissue) -> Standing | None:
    old = [row.record for row in rows if row.seq <= order.up_to]
    if not any(record.revoked_at is None or record.revoked_at >= order.tainted_at for record in old):
        return None
    return Standing(
        name,
        max(record.obtained_by for record in old),
        max((record.not_after for record in old if record.revoked_at is None), default=None),
        min((_issued_at(row.record, order.backdate) for row in rows if row.seq > order.up_to), default=None),
    )


def _issued_at(record: CertificateRecord, backdate: timedelta) -> datetime:
    """As the profile backdates, to the second."""
    tenth = int((record.not_after - record.not_before).total_seconds() + 1) // 10
    return record.not_before + min(backdate, timedelta(seconds=tenth))
