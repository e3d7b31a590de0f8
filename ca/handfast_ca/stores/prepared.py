"""SQL that SQLAlchemy compiled once: what is left at run time is the driver (``tests/bench/bench_store.py``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.sql.expression import ClauseElement, Executable

__all__ = ["Prepared"]


class Prepared:
    """One Core statement, with values by name. Column types here need no conversion: integers, texts and octets.

    ``columns`` are those that an INSERT sets; the statement needs it where not all of them are given.
    """

    def __init__(self, statement: Executable, columns: Collection[str] | None = None) -> None:
        self._statement = statement
        self._columns = list(columns) if columns is not None else None
        self._compile = cache(self._compiled)

    def _compiled(self, dialect: Dialect) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
        assert isinstance(self._statement, ClauseElement)
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        return str(compiled), tuple(compiled.positiontup or ()), compiled.params  # type: ignore[attr-defined]

    def __call__(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        text, names, fixed = self._compile(connection.dialect)
        return connection.exec_driver_sql(text, tuple(map({**fixed, **values}.__getitem__, names)))

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            text, names, fixed = self._compile(connection.dialect)
            parameters = [tuple(row.get(name, fixed[name]) for name in names) for row in rows]
            connection.exec_driver_sql(text, parameters)
