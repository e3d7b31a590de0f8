"""The ledger in memory keeps the contract."""

from __future__ import annotations

import pytest

from handfast_ca.stores.memory import MemoryLedger
from tests.ca.ledger_contract import LedgerContract


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> MemoryLedger:
        return MemoryLedger()
