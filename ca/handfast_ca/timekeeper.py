"""Refuses to sign when the clock cannot be right (threat J8).

The ledger keeps the highest time that was ever signed with. A clock behind it would issue certificates that are older
than CRLs already out; a clock far ahead would make certificates and CRLs that outlive what they should, and push that
highest time where no honest clock gets again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from handfast.clock import Clock, from_epoch, to_epoch
from handfast.errors import Unavailable
from handfast_ca.ledger import Marks

__all__ = ["Timekeeper"]

BEHIND = timedelta(seconds=60)
AHEAD = timedelta(hours=24)
KEPT_EVERY = timedelta(seconds=30)
_ERA = "time-era"


class Timekeeper:
    """``now`` for everything that gets signed. Marks only rise, so an operator who sets a wrong time right opens a
    new era.
    """

    def __init__(self, clock: Clock, marks: Marks) -> None:
        self._clock = clock
        self._marks = marks
        self._mark = ""
        self._kept: datetime | None = None
        self._highest: datetime | None = None

    async def start(self) -> None:
        """Reads what the ledger remembers."""
        self._mark = f"time-{await self._marks.mark(_ERA)}"
        seconds = await self._marks.mark(self._mark)
        self._kept = self._highest = from_epoch(seconds) if seconds else None

    async def now(self) -> datetime:
        """Raises ``Unavailable`` with ``CLOCK_BEHIND`` or ``CLOCK_AHEAD``."""
        now = self._clock.now()
        self._check(now)
        self._highest = now if self._highest is None else max(now, self._highest)
        if self._kept is None or now - self._kept >= KEPT_EVERY:
            self._kept = now
            await self._marks.raise_mark(self._mark, to_epoch(now))
        return now

    def wall(self) -> datetime:
        """What the clock says, right or wrong: for reading, not for signing."""
        return self._clock.now()

    def monotonic(self) -> float:
        """For how long something took."""
        return self._clock.monotonic()

    def problem(self) -> Unavailable | None:
        """Why nothing would be signed now, without changing anything."""
        try:
            self._check(self._clock.now())
        except Unavailable as error:
            return error
        return None

    def _check(self, now: datetime) -> None:
        if self._highest is None:
            return
        if now < self._highest - BEHIND:
            raise self._stepped("CLOCK_BEHIND", now, "is more than 60s behind")
        if now > self._highest + AHEAD:
            raise self._stepped("CLOCK_AHEAD", now, "is more than 24h ahead of")

    def _stepped(self, reason: str, now: datetime, how: str) -> Unavailable:
        return Unavailable(
            f"the clock says {now:%Y-%m-%dT%H:%M:%SZ}, which {how} {self._highest:%Y-%m-%dT%H:%M:%SZ}, "
            "the latest time signed with",
            reason=reason,
            hint="set the clock right, or start with `handfast ca serve --accept-clock` when it is right",
        )

    async def accept(self) -> tuple[datetime | None, datetime]:
        """An operator says that the clock is right. Returns the highest time until then, and the new one."""
        before, now = self._highest, self._clock.now()
        era = await self._marks.mark(_ERA) + 1
        await self._marks.raise_mark(f"time-{era}", to_epoch(now))
        await self._marks.raise_mark(_ERA, era)
        await self.start()
        return before, now
