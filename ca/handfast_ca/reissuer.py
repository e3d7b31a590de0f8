"""A mass reissue: every certificate that is out is tainted, agents are told to renew, and the ledger says who did.

The issuing key stays: this is the drill for the day on which it must not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from handfast.errors import Conflict, HandfastError, NotFound
from handfast.lifetime import format_duration
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.feed import Feed
from handfast_ca.incident import (
    REISSUE_GIVEN,
    REISSUE_WANTED,
    Reissue,
    Timeline,
    check_window,
    timeline,
    wished_window,
)
from handfast_ca.ledger import Ledger
from handfast_ca.profile import Profile
from handfast_ca.registration import is_reserved
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Reissuer"]

_log = logging.getLogger(__name__)


class Reissuer:
    """Gives the order and follows it. The CA's own certificate and its operators' are not part of it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        profile: Profile,
        hold: Callable[[], HandfastError | None],
    ) -> None:
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._backdate = profile.backdate
        self._hold = hold

    async def load(self) -> None:
        """An order outlives the process that gave it: agents that come back still find it."""
        order = await self._ledger.reissue()
        if order is not None:
            self._feed.order_renewals(order)

    async def begin(self, window: timedelta, *, by: str) -> Timeline:
        """Taints what is out now and tells every agent to renew within ``window``.

        Raises ``Invalid`` (``INVALID_WINDOW``), or ``Conflict`` (``REISSUE_RUNNING``) while the window of the last one
        is open and somebody has not renewed yet.
        """
        facts: dict[str, AuditValue] = {"event": "reissue", "by": by, "detail": f"window {format_duration(window)}"}
        async with written_refusals(self._audit, facts):
            check_window(window)
            await self._refuse_second()
            order = await self._give(window, facts)
        return await self._timeline(order)

    async def give_wanted(self) -> None:
        """What ``ca restore --reissue-all`` left to be done, as soon as the CA signs; nothing when that was done.

        Called often: in quarantine nobody could obey it, and what keeps it from being given is logged. Whatever order there was
        before, this one is newer. A stop between the order and its mark gives it once more: agents that renewed meanwhile
        renew again.
        """
        wanted = await self._ledger.mark(REISSUE_WANTED)
        if self._hold() is not None or wanted <= await self._ledger.mark(REISSUE_GIVEN):
            return
        window = wished_window(wanted)
        facts: dict[str, AuditValue] = {"event": "reissue", "by": "ca restore"}
        try:
            await self._give(window, {**facts, "detail": f"window {format_duration(window)}, after a restore"})
        except HandfastError as error:
            _log.error("the reissue that a restore asked for is not ordered yet: %s", error.message)
            return
        await self._ledger.raise_mark(REISSUE_GIVEN, wanted)

    async def _give(self, window: timedelta, facts: dict[str, AuditValue]) -> Reissue:
        now = await self._time.now()
        await self._audit.append(
            {**facts, "decision": "granted", "expires_at": (now + window).isoformat(timespec="seconds")}
        )
        order = await self._ledger.begin_reissue(now=now, renew_before=now + window, backdate=self._backdate)
        self._feed.order_renewals(order)
        return order

    async def timeline(self) -> Timeline:
        """Of the last order. Raises ``NotFound`` (``NO_REISSUE``)."""
        return await self._timeline(await self.order())

    async def order(self) -> Reissue:
        """The last one. Raises ``NotFound`` (``NO_REISSUE``)."""
        order = await self._ledger.reissue()
        if order is None:
            raise NotFound(
                "there was no reissue yet", reason="NO_REISSUE", hint="`handfast drill mass-reissue` begins one"
            )
        return order

    async def _refuse_second(self) -> None:
        running = await self._ledger.reissue()
        if running is None or self._time.wall() >= running.renew_before:
            return
        left = sum(one.state == "old" for one in (await self._timeline(running)).missing)
        if left:
            raise Conflict(
                f"a reissue runs until {running.renew_before:%Y-%m-%dT%H:%M:%SZ}, and {left} have not renewed yet",
                reason="REISSUE_RUNNING",
                hint="`handfast drill show` follows it",
            )

    async def _timeline(self, order: Reissue) -> Timeline:
        found = await self._ledger.standings(order)
        own = [one for one in found if not is_reserved(one.spiffe_id)]
        return timeline(order, own, self._time.wall())
