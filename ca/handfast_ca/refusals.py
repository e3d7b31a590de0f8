"""The audit records of what an edge refuses: a storm of refusals is a few lines, never a storm of lines (threat H8)."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from handfast.errors import HandfastError
from handfast_ca.audit_trail import AuditValue

__all__ = ["MOST_SOURCES", "RefusalLog"]

MOST_SOURCES = 1000
"""Kinds of refusal and who caused them, kept apart at one time; all others share a line for each kind."""


class _Refuse(Protocol):
    """``Authority.refuse``."""

    def __call__(self, event: str, error: HandfastError, **facts: AuditValue) -> Awaitable[None]: ...


@dataclass(slots=True)
class _Storm:
    """What came after the line that was written."""

    facts: dict[str, AuditValue]
    error: HandfastError
    more: int = 0


class RefusalLog:
    """The first refusal of a kind from a source is written at once; further ones are counted until :meth:`flush`.

    Used from one event loop.
    """

    def __init__(self, refuse: _Refuse) -> None:
        self._refuse = refuse
        self._storms: dict[tuple[str, str, str], _Storm] = {}

    async def note(self, event: str, error: HandfastError, *, source: str, **facts: AuditValue) -> None:
        """Returns when the record is durable, or the refusal is counted."""
        key = (event, error.reason, source)
        if key not in self._storms and len(self._storms) >= MOST_SOURCES:
            key, facts = (event, error.reason, ""), {"detail": f"one of more than {MOST_SOURCES} sources"}
        storm = self._storms.get(key)
        if storm is not None:
            storm.more += 1
            storm.error = error
            return
        self._storms[key] = _Storm(facts, error)
        await self._refuse(event, error, **facts)

    async def flush(self) -> None:
        """One record for each source that went on, with their number; a source that has stopped is forgotten."""
        for key, storm in list(self._storms.items()):
            if not storm.more:
                del self._storms[key]
                continue
            more = storm.more
            await self._refuse(key[0], storm.error, **storm.facts, count=more)
            storm.more -= more
