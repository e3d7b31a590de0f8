"""What only moves forward, from one closed ledger into another: CRL numbers, marks, entry versions, blocked keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, insert, select, update

from handfast_ca.stores.database import open_writer
from handfast_ca.stores.schema import blocked, issuers, marks, tokens, versions

__all__ = ["carry_forward"]

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
