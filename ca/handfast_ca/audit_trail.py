"""The audit trail: one JSON line for every decision, each chained to the one before by its hash.

A line is ``{"seq": …, "time": …, "monotonic": …, "boot": …, "prev": …, <fields>, "hash": …}``, all ASCII. ``hash`` is
SHA-256 over the bytes of the line before ``,"hash":``; ``prev`` is the ``hash`` of the line before. A changed line
breaks its own hash, a removed, added or moved one breaks a ``prev`` and a ``seq``; what the chain alone can't show, a
tail cut off, shows against a :class:`Position` kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from handfast.clock import Clock
from handfast.errors import HandfastError, Unavailable
from handfast_ca.ledger import Page

__all__ = [
    "FIELDS",
    "MAX_ITEMS",
    "MAX_TEXT",
    "START",
    "AuditLog",
    "AuditValue",
    "Chain",
    "MemoryAudit",
    "Position",
    "check_fields",
    "read_page",
    "written_refusals",
]

AuditValue = str | int | bool | Sequence[str] | None

MAX_TEXT = 512
"""Characters of one value that are kept; what is cut is said."""

MAX_ITEMS = 256
"""Items of one list that are kept: a restore learns revocations from these lines, so that no batch is longer."""

CLOCK_STEP = timedelta(seconds=5)
"""Wall and monotonic time may drift apart by this much between two lines before the trail says so."""

FIELDS = frozenset(
    {
        "event", "decision", "reason", "message", "violations",
        "spiffe_id", "serial", "serials", "issuer_key_id", "dns_names", "not_before", "not_after",
        "public_key_sha256", "csr_sha256", "token_prefix", "expires_at", "obtained_by", "repeated",
        "peer_address", "by", "method", "crl_number", "this_update", "entries", "step_seconds", "detail", "version", "count",
    }
)  # fmt: skip
"""An allow-list: what is not here can't be written, so that no request body or secret gets in by a slip (threat G2)."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last line of a trail: its number and its hash."""

    seq: int
    hash: str


START = Position(0, "0" * 64)
"""Before the first line."""


class AuditLog(Protocol):
    """Where decisions are written down."""

    async def append(self, event: Mapping[str, AuditValue], *, essential: bool = False) -> int:
        """Returns the line's number once it is durable. ``Unavailable`` (``AUDIT_UNAVAILABLE``) when it can't be, and
        then nothing of it stays. ``essential`` lines (revocations) may use space that is kept in reserve (threat J4).
        """
        ...

    async def append_all(self, events: Sequence[Mapping[str, AuditValue]]) -> Sequence[int]:
        """Their numbers, once all of them are durable. Raises as :meth:`append` does, and then none of them stays."""
        ...

    async def check(self) -> None:
        """``Unavailable`` (``AUDIT_UNAVAILABLE``) while lines can't be written: asked before anything is begun
        (threat G4).
        """
        ...

    async def read(self, *, newest_first: bool = False, limit: int = 100, token: str = "") -> Page[str]:
        """Lines as they stand in the trail, at most 500."""
        ...

    @property
    def position(self) -> Position:
        """The last durable line."""
        ...

    async def close(self) -> None: ...


@asynccontextmanager
async def written_refusals(audit: AuditLog, facts: Mapping[str, AuditValue]) -> AsyncIterator[None]:
    """Whatever is refused inside gets its one line, with all that ``facts`` holds by then, before the caller hears of
    it.
    """
    try:
        yield
    except HandfastError as error:
        await write_refusal(audit, facts, error)
        raise


async def write_refusal(audit: AuditLog, facts: Mapping[str, AuditValue], error: HandfastError) -> None:
    """The line of one refusal. None for "the trail can't be written": nobody could write that down."""
    if error.reason != "AUDIT_UNAVAILABLE":
        violations = [str(violation) for violation in error.violations]
        refusal = {"decision": "refused", "reason": error.reason, "message": error.message}
        await audit.append({**facts, **refusal, "violations": violations or None})


def check_fields(event: Mapping[str, AuditValue]) -> None:
    """Raises ``ValueError`` for a field that is not in the allow-list: a fault of the caller's code."""
    unknown = event.keys() - FIELDS
    if unknown:
        raise ValueError(f"audit fields {sorted(unknown)} are not in the allow-list")


class Chain:
    """Makes lines. It moves on when it is told that a line is durable, so that a failed write leaves no gap."""

    def __init__(self, clock: Clock, *, boot: str, position: Position = START) -> None:
        self._clock = clock
        self._boot = boot
        self._last: tuple[datetime, float] | None = None
        self.position = position

    def lines(self, events: Sequence[Mapping[str, AuditValue]]) -> tuple[list[bytes], Position]:
        """The lines for these events, and where the chain will stand after them: one line more when the clock
        stepped.
        """
        now, monotonic = self._clock.now(), self._clock.monotonic()
        step = self._step(now, monotonic)
        if step:
            events = [{"event": "CLOCK_STEP", "step_seconds": step}, *events]
        self._last = (now, monotonic)
        position, made = self.position, []
        for event in events:
            line, position = self._line(event, position, now, monotonic)
            made.append(line)
        return made, position

    def _step(self, now: datetime, monotonic: float) -> int:
        """By how many seconds wall time ran away from monotonic time since the last lines (threat G5)."""
        if self._last is None:
            return 0
        drift = (now - self._last[0]) - timedelta(seconds=monotonic - self._last[1])
        return round(drift.total_seconds()) if abs(drift) > CLOCK_STEP else 0

    def _line(
        self, event: Mapping[str, AuditValue], after: Position, now: datetime, monotonic: float
    ) -> tuple[bytes, Position]:
        record: dict[str, object] = {
            "seq": after.seq + 1,
            "time": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "monotonic": round(monotonic, 6),
            "boot": self._boot,
            "prev": after.hash,
        }
        record.update((name, _clean(value)) for name, value in event.items() if value is not None)
        body = json.dumps(record, ensure_ascii=True, separators=(",", ":"))[:-1].encode("ascii")
        digest = hashlib.sha256(body).hexdigest()
        return body + b',"hash":"' + digest.encode("ascii") + b'"}\n', Position(after.seq + 1, digest)


def _clean(value: AuditValue) -> object:
    """Cut to size; JSON in ASCII escapes control and direction characters by itself (threat G1)."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}... ({len(value) - MAX_TEXT} more)"
    if isinstance(value, Sequence):
        return [_clean(item) for item in value[:MAX_ITEMS]]
    return value


class MemoryAudit:
    """A trail in memory, for tests. Its lever: set ``broken`` to True, and nothing can be written."""

    def __init__(self, clock: Clock) -> None:
        self._chain = Chain(clock, boot="memory")
        self.raw: list[bytes] = []
        self.broken = False

    async def append(self, event: Mapping[str, AuditValue], *, essential: bool = False) -> int:
        check_fields(event)
        await self.check()
        lines, self._chain.position = self._chain.lines([event])
        self.raw += lines
        return self._chain.position.seq

    async def append_all(self, events: Sequence[Mapping[str, AuditValue]]) -> Sequence[int]:
        return [await self.append(event) for event in events]

    async def check(self) -> None:
        if self.broken:
            raise Unavailable("the audit trail cannot be written", reason="AUDIT_UNAVAILABLE")

    async def read(self, *, newest_first: bool = False, limit: int = 100, token: str = "") -> Page[str]:
        return read_page(self.raw, newest_first=newest_first, limit=limit, token=token)

    @property
    def position(self) -> Position:
        return self._chain.position

    @property
    def records(self) -> list[dict[str, object]]:
        """What was written, read back."""
        return [json.loads(line) for line in self.raw]

    async def close(self) -> None:
        """Nothing to close."""


def read_page(lines: Sequence[bytes], *, newest_first: bool, limit: int, token: str) -> Page[str]:
    """One page of lines; ``token`` is the number of lines that were shown before."""
    start = int(token) if token.isdecimal() else 0
    ordered = lines[::-1] if newest_first else lines
    shown = ordered[start : start + min(max(limit, 1), 500)]
    end = start + len(shown)
    return Page(tuple(line.decode("ascii").rstrip("\n") for line in shown), str(end) if end < len(lines) else "")
