"""The one shape of every benchmark's result: a table for people, and one JSON line a row for programs.

A row holds ``what`` was measured, its ``value`` and ``unit``, what it was compared with in the same run (``baseline``, in the
same unit), their ``ratio``, and the ``goal`` as a sentence with ``met``. Absent keys are left out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ("what", "value", "unit", "baseline", "ratio", "goal", "met")


def report(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints JSON on stdout when ``BENCH_JSON`` is set or ``--json`` was given, else a table."""
    rows = [dict(row) for row in rows]
    if os.environ.get("BENCH_JSON") or "--json" in sys.argv:
        for row in rows:
            print(json.dumps({"benchmark": name, **row}), flush=True)
        return
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    cells = [columns, *([_shown(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    print(f"\n{name}")
    for line in cells:
        print(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True
        )


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
