"""Which mass revocations are under way, and which were cut off: for people, who finish one by saying it again (threat C5).

Nothing is resumed by itself: a filter that was wrong must not go on because somebody started the CA. What the ledger had
revoked when the process ended and the audit trail did not hold yet is written down at the next start, since a restore learns
revocations from the trail (threat J9).

Both ends of a run stand in the trail; two marks of the ledger, which only rise, say from which line on somebody must look.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from handfast.certificates import format_serial
from handfast.errors import Unavailable
from handfast_ca.audit_trail import MAX_TEXT, AuditLog, AuditValue
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Ledger
from handfast_ca.status import Level, StatusLine
from handfast_ca.timekeeper import Timekeeper

__all__ = ["BATCH", "MassRuns"]

_log = logging.getLogger(__name__)
BATCH = 200
"""Certificates of one audit line: all of their serials stand in it."""
BEGUN, SETTLED = "mass-revocation-begun", "mass-revocation-settled"
"""Numbers of audit lines: of the last run that began, and of a line up to which none is open."""
BEGIN, END = "mass-revocation", "mass-revocation-done"


@dataclass(slots=True)
class _Run:
    """``seq``: the line of its beginning, 0 when that could not be written."""

    said: str
    by: str
    seq: int
    began_at: datetime
    total: int
    done: int = 0
    runs: bool = False
    serials: set[str] = field(default_factory=set)


class MassRuns:
    """Used from one event loop. A run is known by the words of its filter: who says the same again finishes it."""

    def __init__(self, ledger: Ledger, audit: AuditLog, time: Timekeeper, *, longest: timedelta) -> None:
        self._ledger = ledger
        self._audit = audit
        self._time = time
        self._longest = longest
        self._open: dict[str, _Run] = {}
        self._begun = 0

    async def start(self) -> None:
        """Finds what the last process left, and writes down what it revoked without a line."""
        settled, self._begun = await self._ledger.mark(SETTLED), await self._ledger.mark(BEGUN)
        if self._begun <= settled:
            return
        async for line in self._lines_after(settled):
            self._replay(line)
        for run in self._open.values():
            try:
                run.done += await self._write_missing(run)
            except Unavailable as error:
                _log.error("revoked and not in the audit trail yet, the next start tries again: %s", error.message)

    async def begin(self, said: str, facts: dict[str, AuditValue], total: int, identities: int) -> None:
        """Before the first batch. A trail that cannot be written stops no revocation: the first batch tells of it."""
        key = said[:MAX_TEXT]
        before = self._open.get(key)
        seq = before.seq if before else 0
        line = {**facts, "event": BEGIN, "decision": "granted", "count": total, "entries": identities}
        with suppress(Unavailable):
            self._begun = await self._audit.append(line, essential=True)
            seq = seq or self._begun
            await self._ledger.raise_mark(BEGUN, self._begun)
        self._open[key] = _Run(said, str(facts["by"]), seq, self._time.wall(), total, runs=True)

    def advance(self, said: str, done: int, total: int) -> None:
        run = self._open.get(said[:MAX_TEXT])
        if run is not None:
            run.done, run.total = done, total

    def stopped(self, said: str) -> None:
        """By whoever said it, or by what failed. It stays open."""
        run = self._open.get(said[:MAX_TEXT])
        if run is not None:
            run.runs = False

    async def end(self, said: str, facts: dict[str, AuditValue]) -> None:
        """All of it is revoked, and with it what an earlier run of the same words had left."""
        run = self._open.get(said[:MAX_TEXT])
        count = run.done if run else 0
        line = {**facts, "event": END, "decision": "granted", "count": count}
        with suppress(Unavailable):
            await self._audit.append(line, essential=True)
        self._forget(said)
        await self._ledger.raise_mark(SETTLED, min((one.seq - 1 for one in self._open.values()), default=self._begun))

    def lines(self) -> tuple[StatusLine, ...]:
        """Of what runs, and of what was cut off while a certificate that it meant may still be valid."""
        since = self._time.wall() - self._longest
        shown = [run for run in self._open.values() if run.runs or run.began_at >= since]
        return tuple(_line(run) for run in sorted(shown, key=lambda run: (run.runs, -run.seq)))

    # --- what the last process left ---------------------------------------------------------------------------------

    async def _lines_after(self, settled: int) -> AsyncIterator[dict[str, Any]]:
        """Of mass revocations and of revocations, oldest first."""
        found: list[str] = []
        token = ""
        while True:
            page = await self._audit.read(newest_first=True, limit=500, token=token)
            found += [text for text in page.items if '"event":"revoke"' in text or f'"event":"{BEGIN}' in text]
            token = page.next_token
            if not token or json.loads(page.items[-1])["seq"] <= settled:
                break
        for text in reversed(found):
            line = json.loads(text)
            if line["seq"] > settled and line.get("decision") == "granted":
                yield line

    def _replay(self, line: dict[str, Any]) -> None:
        said = line.get("detail", "")
        if line["event"] == BEGIN:
            began_at = datetime.fromisoformat(line["time"])
            before = self._open.get(said[:MAX_TEXT])
            seq = before.seq if before else line["seq"]
            self._open[said[:MAX_TEXT]] = _Run(said, line.get("by", ""), seq, began_at, line.get("count", 0))
        elif line["event"] == END:
            self._forget(said)
        else:
            for run in self._open.values():
                run.serials.update(line.get("serials", ()))
                run.done += line.get("count", 0) if run.said == said else 0

    def _forget(self, said: str) -> None:
        self._open.pop(said[:MAX_TEXT], None)

    async def _write_missing(self, run: _Run) -> int:
        """Between the commit of a batch and its line: revoked since the run began, and named by no line since."""
        since = run.began_at.replace(microsecond=0)
        missing = [
            record
            async for record in self._revoked()
            if record.revoked_at is not None
            and record.revoked_at >= since
            and format_serial(record.serial) not in run.serials
        ]
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            serials = [format_serial(record.serial) for record in some]
            line: dict[str, AuditValue] = {"event": "revoke", "decision": "granted", "by": run.by}
            line |= {"reason": str(some[0].reason), "count": len(some), "serials": serials, "detail": run.said}
            await self._audit.append(line, essential=True)
            self._note_written(serials)
        return len(missing)

    def _note_written(self, serials: Iterable[str]) -> None:
        for run in self._open.values():
            run.serials.update(serials)

    async def _revoked(self) -> AsyncIterator[CertificateRecord]:
        token = ""
        while True:
            wanted = CertificateFilter(status="revoked", now=self._time.wall())
            page = await self._ledger.list_certificates(wanted, limit=500, token=token)
            for record in page.items:
                yield record
            token = page.next_token
            if not token:
                return


def _line(run: _Run) -> StatusLine:
    what = f"of {run.said} by {run.by}, begun {run.began_at:%Y-%m-%dT%H:%M:%SZ}: {run.done} of {run.total} revoked"
    if run.runs:
        return StatusLine("revocation", "mass", Level.OK, f"{what} until now")
    hint = "say the same again to finish it: what is revoked stays so; `--dry-run` shows what is left"
    return StatusLine("revocation", "mass", Level.WARNING, f"{what} when it was cut off", hint)
