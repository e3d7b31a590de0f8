"""Readiness asks the stores, and never waits long for them (threat J2)."""

from __future__ import annotations

import asyncio

from handfast.testing import ManualClock
from handfast_ca.audit_trail import MemoryAudit
from handfast_ca.status import Level
from handfast_ca.stores.memory import MemoryLedger
from handfast_ca.vitals import storage_lines


class Silent(MemoryLedger):
    """The real ledger with a lever: it never answers."""

    async def check(self) -> None:
        await asyncio.Event().wait()


async def test_stores_that_can_be_written_are_well() -> None:
    """J2."""
    lines = await storage_lines(MemoryLedger(), MemoryAudit(ManualClock()))
    assert {line.name: line.level for line in lines} == {"ledger": Level.OK, "audit": Level.OK}


async def test_a_store_that_is_silent_or_broken_has_failed_and_says_why() -> None:
    """J2, G4."""
    audit = MemoryAudit(ManualClock())
    audit.broken = True
    ledger_line, audit_line = await storage_lines(Silent(), audit)
    assert (ledger_line.level, audit_line.level) == (Level.FAILED, Level.FAILED)
    assert ledger_line.detail == "it did not answer within 1s"
    assert audit_line.detail == "the audit trail cannot be written"
