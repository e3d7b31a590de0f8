"""What only moves forward, from one closed ledger into another: CRL numbers, marks, entry versions, blocked keys; and the epoch
of CRL numbers, which every restore raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, insert, select, update

from handfast_ca.ledger import CRL_EPOCH
from handfast_ca.stores.database import open_writer
from handfast_ca.stores.rows import epoch
from handfast_ca.stores.schema import blocked, issuers, marks, tokens, versions

__all__ = ["carry_forward", "raise_crl_epoch"]

_KEYED: Sequence[tuple[Table, str, str]] = (
    (issuers, "issuer_key_id", "number"),
    (marks, "name", "value"),
    (versions, "spiffe_id", "version"),
    (blocked, "spki_sha256", "spki_sha256"),
)


def carry_forward(source: Path, target: Path) -> None:
    """The greater of both wins, row by row. Join tokens of ``target`` go: they may have been spent since."""
    found = _inside(source, lambda connection: [connection.execute(select(table)).all() for table, _, _ in _KEYED])
    _inside(target, lambda connection: _receive(connection, found))


def raise_crl_epoch(path: Path, now: datetime) -> int:
    """For a closed ledger that came out of a backup: its next CRL number is past every number that was ever published, also by
    another restore of the same backup, since an epoch is the time in seconds when it began (threats J9, D1).

    Returns the epoch. A clock behind an earlier restore's still gives one more than the backup knows.
    """
    return int(_inside(path, lambda connection: _raise_epoch(connection, epoch(now))))


def _raise_epoch(connection: Connection, seconds: int) -> int:
    known = connection.execute(select(marks.c.value).where(marks.c.name == CRL_EPOCH)).scalar()
    raised = max(seconds, (known or 0) + 1)
    connection.execute(delete(marks).where(marks.c.name == CRL_EPOCH))
    connection.execute(insert(marks).values(name=CRL_EPOCH, value=raised))
    return raised


def _inside(path: Path, step: Callable[[Connection], Any]) -> Any:
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            return step(connection)
    finally:
        engine.dispose()


def _receive(connection: Connection, found: Sequence[Sequence[Row[Any]]]) -> None:
    connection.execute(delete(tokens))
    for (table, key, rises), rows in zip(_KEYED, found, strict=True):
        for row in rows:
            _raise_row(connection, table, key, rises, dict(row._mapping))


def _raise_row(connection: Connection, table: Table, key: str, rises: str, values: dict[str, Any]) -> None:
    mine = connection.execute(select(table.c[rises]).where(table.c[key] == values[key])).scalar()
    if mine is None:
        connection.execute(insert(table).values(values))
    elif mine < values[rises]:
        connection.execute(update(table).where(table.c[key] == values[key]).values(values))
