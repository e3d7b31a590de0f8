"""Groups of ``√ ‼ ×`` lines: how ``status`` and ``doctor`` say what is well and what is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import click

from handfast.cli.output import colour_wanted
from handfast.cli.terminal import printable
from handfast.errors import HandfastError

__all__ = ["Check", "Level", "any_failed", "as_rows", "failed", "print_checks"]


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_MARKS = {Level.OK: ("√", "green"), Level.WARNING: ("‼", "yellow"), Level.FAILED: ("×", "red")}


@dataclass(frozen=True, slots=True)
class Check:
    """One line. ``hint`` says what to do, and stands only where something is to be done."""

    group: str
    name: str
    level: Level
    detail: str = ""
    hint: str = ""


def failed(group: str, name: str, error: HandfastError, hint: str) -> Check:
    """A check that ended in an error; ``hint`` stands in where the error has none."""
    return Check(group, name, Level.FAILED, error.message, error.hint or hint)


def any_failed(checks: Iterable[Check]) -> bool:
    return any(check.level is Level.FAILED for check in checks)


def as_rows(checks: Iterable[Check]) -> list[dict[str, str]]:
    """As the ``json`` output shows them."""
    return [
        {
            "group": check.group,
            "name": check.name,
            "level": check.level.value,
            "detail": check.detail,
            "hint": "" if check.level is Level.OK else check.hint,
        }
        for check in checks
    ]


def print_checks(checks: Iterable[Check]) -> None:
    """In the order given; a heading whenever the group changes."""
    for index, (group, lines) in enumerate(itertools.groupby(checks, key=lambda check: check.group)):
        print(f"\n{group}" if index else group)
        for line in lines:
            mark, colour = _MARKS[line.level]
            shown = click.style(mark, fg=colour) if colour_wanted() else mark
            print(f"  {shown} {line.name}" + (f": {printable(line.detail)}" if line.detail else ""))
            if line.hint and line.level is not Level.OK:
                print(f"    hint: {printable(line.hint)}")
