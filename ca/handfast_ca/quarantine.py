"""A CA whose ledger lost its last hours signs nothing until it is whole again (threat J9, rules R1 and R7).

Kept in the ledger's marks, which only rise: it is open while more quarantines began than ended. It begins with a restore, or when
an agent shows a CRL of this CA that its ledger does not know; it ends when enough agents answered, or on an operator's word.

Its own certificate and its operators' are issued all the same: without them nobody could answer, nor end it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.certificates import Leaf
from handfast.clock import from_epoch, to_epoch
from handfast.errors import Forbidden, Unavailable
from handfast_ca.audit_trail import AuditLog
from handfast_ca.ledger import CRL_EPOCH, Ledger
from handfast_ca.status import Level, StatusLine
from handfast_ca.timekeeper import Timekeeper

__all__ = ["BEGAN_AT", "BEGUN", "ENDED", "FOUND", "Quarantine"]

BEGUN, ENDED = "quarantine-begun", "quarantine-ended"
BEGAN_AT, ENDED_AT = "quarantine-began-at", "quarantine-ended-at"
FOUND = "quarantine-found"
"""The last one that an agent brought about: nobody had said that an older ledger was put in place."""
LEARNT = "quarantine-learnt"
LOST_AT = "loss-accepted-at"
RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Marks:
    begun: int = 0
    ended: int = 0
    found: int = 0
    learnt: int = 0
    began_at: datetime | None = None
    ended_at: datetime | None = None
    lost_at: datetime | None = None


class Quarantine:
    """Used from one event loop. Reads the ledger once, at :meth:`start`."""

    def __init__(
        self, ledger: Ledger, audit: AuditLog, time: Timekeeper, *, backdate: timedelta = timedelta(seconds=30)
    ) -> None:
        self._ledger = ledger
        self._audit = audit
        self._time = time
        self._backdate = backdate
        self._marks = _Marks()
        self.found = ""
        """What the agent showed, for a quarantine that this process began."""

    async def start(self) -> None:
        """Reads what the ledger remembers."""
        read = self._ledger.mark
        self._marks = _Marks(
            await read(BEGUN),
            await read(ENDED),
            await read(FOUND),
            await read(LEARNT),
            _moment(await read(BEGAN_AT)),
            _moment(await read(ENDED_AT)),
            _moment(await read(LOST_AT)),
        )

    @property
    def is_open(self) -> bool:
        return self._marks.begun > self._marks.ended

    @property
    def is_found(self) -> bool:
        """Open, and not because of a restore that an operator made: only an operator ends it."""
        return self.is_open and self._marks.found == self._marks.begun

    @property
    def began_at(self) -> datetime:
        """Of the last one. Nothing that was issued later can be unknown to the ledger."""
        return self._marks.began_at or self._time.wall()

    @property
    def learnt(self) -> int:
        """Revocations that agents brought back, in all quarantines together."""
        return self._marks.learnt

    def problem(self) -> Unavailable | None:
        """Why nothing is signed now; None when there was no quarantine, or it is over."""
        if not self.is_open:
            return None
        why = "an agent holds a CRL that its ledger does not know" if self.is_found else "its ledger was restored"
        return Unavailable(
            f"the CA is in quarantine: {why}, and it signs nothing until it learnt from the agents what it lost",
            reason="QUARANTINED",
            hint="`handfast status` shows whom it waits for, `handfast ca release` ends it",
            retry_after=RETRY_SECONDS,
        )

    def check(self) -> None:
        """Raises ``Unavailable`` (``QUARANTINED``)."""
        problem = self.problem()
        if problem is not None:
            raise problem

    def check_operator(self, leaf: Leaf) -> None:
        """What gives power needs credentials that were made since: older ones may have been revoked after the backup.

        Raises ``Forbidden`` (``OPERATOR_BEFORE_RESTORE``).
        """
        if self.is_open and leaf.validity.not_before + self._backdate < self.began_at:
            raise Forbidden(
                f"the credentials of {leaf.spiffe_id} are of {leaf.validity.not_before:%Y-%m-%dT%H:%M:%SZ}, before the "
                f"quarantine of {self.began_at:%Y-%m-%dT%H:%M:%SZ}: what was revoked in between is not known yet",
                reason="OPERATOR_BEFORE_RESTORE",
                hint="stop the CA, `handfast ca operator --config FILE`, and start it again",
            )

    def may_lack(self, leaf: Leaf) -> bool:
        """Can this certificate be ours, and unknown to the ledger? Only one of before the last quarantine (rule R4)."""
        return self._marks.begun > 0 and leaf.validity.not_before <= self.began_at

    async def begin(self, found: str, highest: int) -> None:
        """An agent proved that the ledger is older than what was published. Durable when it returns; numbers go on
        past ``highest`` and all that may have been published in its epoch.
        """
        now = to_epoch(self._time.wall())
        self.found = found
        await self._ledger.raise_mark(CRL_EPOCH, (highest >> 64) + 1)
        await self._ledger.raise_mark(BEGAN_AT, now)
        await self._ledger.raise_mark(FOUND, self._marks.begun + 1)
        await self._ledger.raise_mark(BEGUN, self._marks.begun + 1)
        await self.start()
        await self._audit.append(
            {"event": "quarantine", "decision": "granted", "by": "ca", "detail": found}, essential=True
        )

    async def note_learnt(self, count: int) -> None:
        await self._ledger.raise_mark(LEARNT, self._marks.learnt + count)
        await self.start()

    async def end(self, *, by: str, heard: str, loss: bool) -> None:
        """Written down first. From its return on everything is signed again."""
        detail = f"{heard}; {self._marks.learnt} revocations learnt" + ("; loss accepted" if loss else "")
        await self._audit.append({"event": "release", "decision": "granted", "by": by, "detail": detail})
        now = to_epoch(self._time.wall())
        if loss:
            await self._ledger.raise_mark(LOST_AT, now)
        await self._ledger.raise_mark(ENDED_AT, now)
        await self._ledger.raise_mark(ENDED, self._marks.begun)
        await self.start()

    def lines(self, heard: str) -> tuple[StatusLine, ...]:
        """None for a CA that was never restored; for ever, once a loss was accepted."""
        marks = self._marks
        if self.is_open:
            return (self._open_line(heard),)
        lines = []
        if marks.ended_at is not None:
            detail = f"over since {_shown(marks.ended_at)}, {marks.learnt} revocations learnt from agents"
            lines.append(StatusLine("restore", "quarantine", Level.OK, detail))
        if marks.lost_at is not None:
            detail = f"accepted at {_shown(marks.lost_at)}: what was revoked before may have come back"
            hint = "revoke again what must not be trusted; this line stays"
            lines.append(StatusLine("restore", "loss", Level.WARNING, detail, hint))
        return tuple(lines)

    def _open_line(self, heard: str) -> StatusLine:
        if self.is_found:
            what = self.found or "an agent holds a CRL that this ledger does not know"
            hint = (
                "the ledger is older than what was published: restore the newest backup (`handfast ca restore`), or "
                "let it learn from the agents, then `handfast ca release`"
            )
            return StatusLine("restore", "quarantine", Level.FAILED, f"{what}; nothing is signed; {heard}", hint)
        detail = f"since {_shown(self.began_at)}: nothing is signed; {heard}"
        hint = "it ends when all answered; `handfast ca release --accept-loss` ends it now"
        return StatusLine("restore", "quarantine", Level.WARNING, detail, hint)


def _moment(seconds: int) -> datetime | None:
    return from_epoch(seconds) if seconds else None


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
