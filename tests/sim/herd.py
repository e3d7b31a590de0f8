"""Ten thousand agents after an outage: the real plan and the real backoff, one event for each thing that an agent does.

The driver itself is too heavy for so many: what decides when an agent asks (:mod:`handfast_agent.plan`,
:mod:`handfast_agent.backoff`) is the real code, and the CA is a queue that serves so many a second. A request that would wait
longer than the agent's fifteen seconds is not served.

``python -m tests.sim.herd`` prints the table.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from handfast.lifetime import Validity
from handfast_agent.lifecycle import Event
from handfast_agent.plan import Expire, Plan, Renew, moment_to_renew, next_step
from tests.sim.network import CALL_SECONDS
from tests.sim.world import START

__all__ = ["Herd", "Outage", "after", "fixed_retry", "full_jitter", "table"]

Failed = Callable[[Plan, float, float, float], Plan]
BACKDATE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Outage:
    """``capacity``: certificates a second. Times in hours. Agents enrolled evenly over ``spread``, of which the last ended ``age``
    before the outage began.
    """

    agents: int = 10_000
    capacity: float = 20.0
    life: float = 24.0
    spread: float = 12.0
    age: float = 0.0
    lasts: float = 8.0


@dataclass(frozen=True, slots=True)
class Herd:
    """What the CA saw from the moment when it came back, until everybody had a certificate again."""

    expired: int
    peak: int
    """Requests in the busiest second."""
    requests: int
    served: int
    drained: float
    """Seconds until the last agent that was overdue had its certificate."""


def full_jitter(plan: Plan, monotonic: float, draw: float, back: float) -> Plan:
    """What the agent does."""
    return plan.failed(monotonic, draw)


def fixed_retry(plan: Plan, monotonic: float, draw: float, back: float) -> Plan:
    """What many do: again in a minute. Those minutes are skipped in which nobody answers, since nothing comes of them."""
    minutes = max(1, math.ceil((back - monotonic) / 60.0))
    return replace(plan, failures=plan.failures + minutes, retry_at=monotonic + 60.0 * minutes)


class _Simulation:
    def __init__(self, outage: Outage, failed: Failed, seed: int) -> None:
        self._outage = outage
        self._failed = failed
        self._chance = Random(seed)
        self._back = outage.lasts * 3600
        self._free_at = self._back
        self._due: list[tuple[float, int]] = []
        self._seconds: Counter[int] = Counter()
        self._served = self._expired = 0
        self._drained = self._back
        self._plans = [self._enrolled(number) for number in range(outage.agents)]
        self._behind = {number for number, plan in enumerate(self._plans) if _seconds(plan.renew_at) <= self._back}

    def _enrolled(self, number: int) -> Plan:
        """Second 0 is the beginning of the outage. Whoever was due before it has renewed since."""
        at = -3600 * (self._outage.age + self._chance.uniform(0, self._outage.spread))
        while True:
            plan = self._certified(at)
            due = _seconds(plan.renew_at)
            if due > 0:
                heapq.heappush(self._due, (due, number))
                return plan
            at = due

    def _certified(self, at: float) -> Plan:
        begin = START + timedelta(seconds=at) - BACKDATE
        validity = Validity(begin, begin + timedelta(hours=self._outage.life) - timedelta(seconds=1))
        return Plan().certified(Event.ENROLLED, validity, moment_to_renew(validity, None, self._chance.random()))

    def run(self) -> Herd:
        while self._behind and self._due:
            at, number = heapq.heappop(self._due)
            self._step(number, at)
        requests = sum(self._seconds.values())
        return Herd(self._expired, max(self._seconds.values()), requests, self._served, self._drained - self._back)

    def _step(self, number: int, at: float) -> None:
        plan = self._plans[number]
        match next_step(plan, START + timedelta(seconds=at), at, has_proof=False):
            case Expire():
                self._expired += 1
                self._behind.discard(number)
            case Renew():
                self._ask(number, plan, at)
            case _:
                heapq.heappush(self._due, (_next(plan, at), number))

    def _ask(self, number: int, plan: Plan, at: float) -> None:
        if at >= self._back:
            self._seconds[int(at)] += 1
        done = max(at, self._free_at) + 1 / self._outage.capacity
        if at < self._back or done - at > CALL_SECONDS:
            told = at if at < self._back else at + CALL_SECONDS
            plan = self._failed(plan, told, self._chance.random(), self._back)
            self._plans[number] = plan
            heapq.heappush(self._due, (_next(plan, told), number))
            return
        self._free_at = done
        self._served += 1
        self._plans[number] = self._certified(done)
        heapq.heappush(self._due, (_seconds(self._plans[number].renew_at), number))
        if number in self._behind:
            self._behind.discard(number)
            self._drained = max(self._drained, done)


def _seconds(moment: datetime | None) -> float:
    assert moment is not None
    return (moment - START).total_seconds()


def _next(plan: Plan, at: float) -> float:
    """When the agent has something to do: it looks every fifteen seconds, and finds nothing before."""
    assert plan.validity is not None
    asks = max(_seconds(plan.renew_at), plan.retry_at or at)
    return max(at, min(asks, _seconds(plan.validity.not_after) + 0.001))


def after(outage: Outage, failed: Failed = full_jitter, *, seed: int = 1) -> Herd:
    return _Simulation(outage, failed, seed).run()


def table() -> str:
    """Both ways of trying again, from the same beginnings."""
    outages = {
        "L = 24 h, 8 h, 20/s": Outage(),
        "the same, enrolled in one hour": Outage(spread=1.0, age=6.0),
        "L = 1 h, 20 min, 100/s": Outage(capacity=100.0, life=1.0, spread=0.5, lasts=1 / 3),
    }
    rows = [
        "| outage | retry | expired | peak, requests/s | of capacity | requests | served | drained after |",
        "|---" * 8 + "|",
    ]
    for name, outage in outages.items():
        for kind, failed in (("full jitter", full_jitter), ("fixed 60 s", fixed_retry)):
            herd = after(outage, failed)
            share = f"{herd.peak / outage.capacity:.2f}"
            rows.append(
                f"| {name} | {kind} | {herd.expired} | {herd.peak} | {share} | {herd.requests:,} | {herd.served:,} "
                f"| {herd.drained / 60:.0f} min |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
