"""Tells every watcher what trust means now: the whole state first, then every change.

Latest wins: a watcher that is slow skips states in between, and never misses the last. What it gets is the difference
between the last state *it* saw and the present one, so nothing that was skipped is lost.

News come before proofs: a list that says no more than what was announced waits until all have been told of that, and each watcher gets
it at a moment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from handfast.bundle import TrustBundle
from handfast.crl_change import ListStep
from handfast.crl_history import StepHistory
from handfast.revocation import Reason, RevocationList
from handfast_ca.incident import Reissue

__all__ = ["Announcement", "Feed", "TrustChange", "TrustState"]

PROOF_AFTER, FOR_EACH, LONGEST = 0.05, 0.0025, 0.3
"""Seconds that such a list waits, for each watcher there is, and altogether; up to twice of that, each watcher at its own turn. Agents that
verify it, and their services, do not take the processors from those who are still to be told. It comes sooner with news that do not wait.
"""
_TURNS = 32


@dataclass(frozen=True, slots=True)
class Announcement:
    """A revocation that is durable, ahead of the CRL that proves it."""

    issuer_key_id: bytes
    serial: int
    revoked_at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class TrustState:
    """All that somebody must know to judge a peer. ``crls`` by issuer key identifier, the roots' own among them.

    ``news`` is the revision that last said something new; those since only prove.
    """

    bundle: TrustBundle
    crls: Mapping[bytes, RevocationList] = field(default_factory=lambda: MappingProxyType({}))
    announced: tuple[Announcement, ...] = ()
    revision: int = 1
    reissue: Reissue | None = None
    news: int = 1

    def revoked(self, issuer_key_id: bytes, serial: int) -> bool:
        """On a list, or announced and soon on one."""
        if _carried(self.crls.get(issuer_key_id), serial):
            return True
        return any(news.serial == serial and news.issuer_key_id == issuer_key_id for news in self.announced)


@dataclass(frozen=True, slots=True)
class TrustChange:
    """What changed since the last message of one stream; everything when ``whole``. ``bundle`` None: unchanged.

    ``steps`` lead to those of ``crls`` that can be told of so, from the lists that the last message brought, by issuer.
    ``proves``: there is nothing in it but proofs of what was announced.
    """

    whole: bool
    revision: int
    bundle: TrustBundle | None
    crls: tuple[RevocationList, ...]
    announced: tuple[Announcement, ...]
    reissue: Reissue | None = None
    steps: Mapping[bytes, tuple[ListStep, ...]] = field(default_factory=lambda: MappingProxyType({}))
    proves: bool = False

    @classmethod
    def whole_of(cls, state: TrustState) -> TrustChange:
        return cls(True, state.revision, state.bundle, tuple(state.crls.values()), state.announced, state.reissue)

    @classmethod
    def between(cls, old: TrustState, new: TrustState, history: StepHistory) -> TrustChange:
        """An announcement leaves ``announced`` only with a CRL that carries it, so the difference loses nothing."""
        known = frozenset(old.announced)
        crls = tuple(crl for key_id, crl in new.crls.items() if old.crls.get(key_id) is not crl)
        steps = {
            crl.issuer_key_id: history.steps(old.crls[crl.issuer_key_id].number, crl)
            for crl in crls
            if crl.issuer_key_id in old.crls
        }
        return cls(
            whole=False,
            revision=new.revision,
            bundle=None if new.bundle is old.bundle else new.bundle,
            crls=crls,
            announced=tuple(news for news in new.announced if news not in known),
            reissue=None if new.reissue == old.reissue else new.reissue,
            steps=MappingProxyType({key_id: found for key_id, found in steps.items() if found}),
            proves=new.news == old.news,
        )


class Feed:
    """The present state and those who watch it. Used from one event loop.

    ``changed_at`` is when the present state became so, in seconds of ``monotonic``.
    """

    def __init__(self, state: TrustState, monotonic: Callable[[], float] = lambda: 0.0) -> None:
        self._state = state
        self._monotonic = monotonic
        self.changed_at = monotonic()
        self._changed = asyncio.Event()
        self._latest: tuple[TrustState, TrustChange] | None = None
        self._watchers = self._opened = 0
        self.history = StepHistory()

    @property
    def state(self) -> TrustState:
        return self._state

    @property
    def watchers(self) -> int:
        return self._watchers

    def announce(self, news: Iterable[Announcement]) -> None:
        """Tells of revocations at once. Those that are known already change nothing."""
        state = self._state
        known = frozenset(state.announced)
        fresh = tuple(
            one for one in news if one not in known and not _carried(state.crls.get(one.issuer_key_id), one.serial)
        )
        if fresh:
            self._become(replace(state, announced=state.announced + fresh))

    def publish(self, crl: RevocationList) -> None:
        """A newer CRL takes the older one's place, and the announcements that it proves go."""
        known = self._state.crls.get(crl.issuer_key_id)
        if known is not None and not known.check_successor(crl):
            return
        announced = tuple(
            news
            for news in self._state.announced
            if news.issuer_key_id != crl.issuer_key_id or news.serial not in crl.serials
        )
        self.history.note(crl)
        crls = MappingProxyType({**self._state.crls, crl.issuer_key_id: crl})
        told = {news.serial for news in self._state.announced if news.issuer_key_id == crl.issuer_key_id}
        proves = known is not None and crl.serials - known.serials <= told
        self._become(replace(self._state, crls=crls, announced=announced), proves=proves)

    def replace_bundle(self, bundle: TrustBundle) -> None:
        """Raises ``Refused`` when the bundle is not a successor of the present one."""
        if self._state.bundle.check_successor(bundle):
            self._become(replace(self._state, bundle=bundle))

    def order_renewals(self, order: Reissue) -> None:
        """Whoever holds an older certificate is to renew it; those who are away find it in the whole state."""
        if self._state.reissue is None or self._state.reissue.tainted_at < order.tainted_at:
            self._become(replace(self._state, reissue=order))

    def _become(self, state: TrustState, *, proves: bool = False) -> None:
        revision = self._state.revision + 1
        self._state = replace(state, revision=revision, news=self._state.news if proves else revision)
        self.changed_at = self._monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def watch(self) -> AsyncIterator[TrustChange]:
        """The whole state, then changes, until the reader closes it.

        Readers that are equally far get the same object, so that whoever encodes it needs to do so once.
        """
        self._watchers += 1
        self._opened += 1
        turn = 1 + self._opened % _TURNS / _TURNS
        try:
            seen = self._state
            yield TrustChange.whole_of(seen)
            while True:
                while self._state is seen:
                    await self._changed.wait()
                await self._news_since(seen, turn * min(PROOF_AFTER + FOR_EACH * self._watchers, LONGEST))
                old, seen = seen, self._state
                yield self._between(old, seen)
        finally:
            self._watchers -= 1

    async def _news_since(self, seen: TrustState, pause: float) -> None:
        """Returns at once when there are some, else when some come, and after ``pause`` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                while self._state.news == seen.news:
                    await self._changed.wait()

    def _between(self, old: TrustState, new: TrustState) -> TrustChange:
        if self._latest is None or self._latest[0] is not old or self._latest[1].revision != new.revision:
            self._latest = (old, TrustChange.between(old, new, self.history))
        return self._latest[1]


def _carried(crl: RevocationList | None, serial: int) -> bool:
    return crl is not None and serial in crl.serials
