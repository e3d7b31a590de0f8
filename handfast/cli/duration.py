"""Durations among the words of a command: one that cannot be read is a command used wrongly, said before any CA is asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from handfast.errors import Invalid
from handfast.lifetime import parse_duration

__all__ = ["DURATION"]


class _DurationType(click.ParamType[timedelta]):
    """``90s``, ``15m``, ``24h``, ``30d`` or a sum, as a ``timedelta``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except Invalid as error:
            self.fail(f"{error.message}: {error.hint}", param, ctx)


DURATION = _DurationType()
