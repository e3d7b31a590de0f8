"""What machines keep when a process of theirs dies: the CA's ledger, the agent's files."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from handfast_agent.memory import Remembered
from handfast_ca.stores.memory import MemoryLedger

__all__ = ["AgentFiles", "AgentState", "LedgerDisk", "Slow"]

LONGEST_WRITE = 0.008
"""Seconds before, and again after, each step of a store that writes."""
WRITES = ("intend", "complete", "append", "add_", "remove_", "revoke_", "plan_", "record_", "raise_")


class Slow:
    """A port whose every step that writes takes time before and after it is done, so that steps of many callers mix, and a process that
    dies does so before a step, or after it and before anybody hears of it.
    """

    def __init__(self, inner: Any, chance: Random) -> None:
        self._inner = inner
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not (inspect.iscoroutinefunction(found) and name.startswith(WRITES)):
            return found
        slow = self._slowed(found)
        setattr(self, name, slow)
        return slow

    def _slowed(self, step: Callable[..., Any]) -> Callable[..., Any]:
        async def slow(*args: Any, **named: Any) -> Any:
            await asyncio.sleep(LONGEST_WRITE * self._chance.random())
            found = await step(*args, **named)
            await asyncio.sleep(LONGEST_WRITE * self._chance.random())
            return found

        return slow


class LedgerDisk:
    """The ledger as values. ``lies``: a disk that says "written" and loses, when the power goes, what came last."""

    def __init__(self, *, lies: bool = False) -> None:
        self.ledger = MemoryLedger()
        self._lies = lies
        self._written = b""

    def sync(self) -> None:
        """What a lying disk has really written."""
        if self._lies:
            self._written = pickle.dumps(self.ledger)

    def after_a_crash(self) -> MemoryLedger:
        """A copy, so that no process of before the crash can reach it."""
        values = self._written if self._lies and self._written else pickle.dumps(self.ledger)
        self.ledger = pickle.loads(values)
        return self.ledger


class AgentFiles:
    """What :class:`handfast_agent.storage.Directory` promises: one whole generation, or the one before it."""

    def __init__(self) -> None:
        self._present: dict[str, bytes] = {}

    def prepare(self) -> None:
        """Nothing is left over in here."""

    def read(self) -> dict[str, bytes]:
        return dict(self._present)

    def write(self, number: int, private: Mapping[str, bytes], public: Mapping[str, bytes]) -> None:
        self._present = {**private, **public}


class AgentState:
    """What :class:`handfast_agent.memory.Memory` promises, without its JSON."""

    def __init__(self) -> None:
        self._kept = Remembered()

    def load(self) -> Remembered:
        return self._kept

    def save(self, remembered: Remembered) -> None:
        self._kept = remembered
