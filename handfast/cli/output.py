"""Results on stdout: a table for people, JSON, YAML or names for programs. Everything else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from handfast.cli.terminal import printable

__all__ = [
    "Column",
    "Row",
    "colour_wanted",
    "emit",
    "emit_one",
    "note",
    "output_option",
    "print_document",
    "shown_time",
]

Row = Mapping[str, Any]
FORMATS = ("table", "json", "yaml", "name")


class Column:
    """One column of a table: its heading, and how it reads a row."""

    def __init__(self, heading: str, read: str | Callable[[Row], object]) -> None:
        self.heading = heading
        self._read = read

    def text(self, row: Row) -> str:
        value = row.get(self._read) if isinstance(self._read, str) else self._read(row)
        if value is None or value == "":
            return "-"
        if isinstance(value, list | tuple):
            return ", ".join(printable(str(item)) for item in value) or "-"
        return printable(str(value))


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-o/--output`` as on every command that prints a result."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print the result.",
    )(command)


def emit(
    rows: Sequence[Row], columns: Sequence[Column], output: str, *, name: str, empty: str = "nothing found"
) -> None:
    """Prints a list. ``name`` is the key that ``-o name`` prints, one a line; an empty table says so on stderr."""
    if output == "table":
        if rows:
            _print_table(rows, columns)
        else:
            note(empty)
    elif output == "name":
        for row in rows:
            print(printable(str(row[name])))
    else:
        print_document([dict(row) for row in rows], output)


def emit_one(row: Row, columns: Sequence[Column], output: str, *, name: str) -> None:
    """Prints one thing: as ``heading: value`` lines, as one document, or by its name."""
    if output == "table":
        width = max(len(column.heading) for column in columns)
        for column in columns:
            print(f"{column.heading + ':':<{width + 1}} {column.text(row)}")
    elif output == "name":
        print(printable(str(row[name])))
    else:
        print_document(dict(row), output)


def note(text: str) -> None:
    """One line for the person, on stderr."""
    print(printable(text), file=sys.stderr)


def colour_wanted() -> bool:
    """Only on a terminal, and not when NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def shown_time(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds.

    >>> shown_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2026-01-02T03:04:05Z'
    """
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_document(value: object, output: str) -> None:
    if output == "json":
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        if not text.replace("\n", "").isprintable():
            text = json.dumps(value, indent=2, default=str)
        print(text)
        return
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():
        text = yaml.safe_dump(value, sort_keys=False)
    print(text, end="")


def _print_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    cells = [[column.text(row) for column in columns] for row in rows]
    widths = [max(len(column.heading), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    heading = "  ".join(column.heading.upper().ljust(width) for column, width in zip(columns, widths, strict=True))
    print(click.style(heading.rstrip(), bold=True) if colour_wanted() else heading.rstrip())
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
