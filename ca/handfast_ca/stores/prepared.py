"""SQL that SQLAlchemy compiled once, run by the driver: its handling of results costs more than SQLite does
(``tests/bench/bench_store.py``).
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.sql.expression import ClauseElement, Executable

__all__ = ["Found", "Prepared", "Row", "Transaction"]

Row = Any
"""A named tuple with the columns of its statement."""


class Transaction:
    """What a step runs its statements on: the driver's connection, inside a transaction that SQLAlchemy began and ends.

    Errors are the driver's own; :mod:`handfast_ca.stores.trouble` translates them.
    """

    __slots__ = ("cursor", "dialect")

    def __init__(self, connection: Connection) -> None:
        self.dialect = connection.dialect
        self.cursor: Callable[[], Any] = connection.connection.cursor


class Found:
    """The rows of one statement, read once."""

    __slots__ = ("_cursor", "_row")

    def __init__(self, cursor: Any, row: Callable[[Any], Row]) -> None:
        self._cursor = cursor
        self._row = row

    def _values(self) -> Any:
        """Of the first row. Closed at once: a statement that could still give rows would hold the commit up."""
        values = self._cursor.fetchone()
        self._cursor.close()
        return values

    def first(self) -> Row | None:
        values = self._values()
        return None if values is None else self._row(values)

    def one(self) -> Row:
        return self._row(self._values())

    def scalar(self) -> Any:
        """The first column of the first row; None when there is none."""
        values = self._values()
        return None if values is None else values[0]

    def all(self) -> list[Row]:
        return [self._row(values) for values in self._cursor.fetchall()]

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._cursor)


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]
    row: Callable[[Any], Row]

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple([values[name] if name in values else self.fixed[name] for name in self.names])


class Prepared:
    """One Core statement, with values by name. Column types here need no conversion: integers, texts and octets.

    ``columns`` are those that an INSERT sets; the statement needs it where not all of them are given.
    """

    def __init__(self, statement: Executable, columns: Collection[str] | None = None) -> None:
        self._statement = statement
        self._columns = list(columns) if columns is not None else None
        self._compile = cache(self._compiled)

    def _compiled(self, dialect: Dialect) -> _Compiled:
        assert isinstance(self._statement, ClauseElement)
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        columns = tuple(column.key for column in getattr(self._statement, "exported_columns", ()))
        row: Any = namedtuple("Row", columns)  # type: ignore[misc]  # the names are the statement's
        return _Compiled(
            str(compiled),
            tuple(compiled.positiontup or ()),  # type: ignore[attr-defined]
            compiled.params,
            row._make,
        )

    def __call__(self, transaction: Transaction, **values: Any) -> Found:
        compiled = self._compile(transaction.dialect)
        cursor = transaction.cursor()
        cursor.execute(compiled.text, compiled.parameters(values))
        return Found(cursor, compiled.row)

    def many(self, transaction: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            compiled = self._compile(transaction.dialect)
            transaction.cursor().executemany(compiled.text, [compiled.parameters(row) for row in rows])
