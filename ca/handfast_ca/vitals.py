"""Whether the CA can write what it would have to write: asked, not remembered (threat J2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from handfast.errors import HandfastError, Unavailable
from handfast_ca.audit_trail import AuditLog
from handfast_ca.ledger import Ledger
from handfast_ca.status import Level, StatusLine

__all__ = ["storage_lines"]

PATIENCE = 1.0
"""Seconds until a store that does not answer counts as one that cannot: whoever asks for readiness waits no longer."""


async def storage_lines(ledger: Ledger, audit: AuditLog) -> tuple[StatusLine, ...]:
    """One line for the ledger and one for the audit trail, both asked at once. Does not raise what they raise."""
    return tuple(await asyncio.gather(_line("ledger", ledger.check()), _line("audit", audit.check())))


async def _line(name: str, question: Awaitable[None]) -> StatusLine:
    try:
        async with asyncio.timeout(PATIENCE):
            await question
    except HandfastError as error:
        problem = error
    except TimeoutError:
        problem = Unavailable(
            f"it did not answer within {PATIENCE:.0f}s", hint="end what holds it, or look at its disk"
        )
    else:
        return StatusLine("storage", name, Level.OK, "it can be written")
    return StatusLine("storage", name, Level.FAILED, problem.message, problem.hint)
