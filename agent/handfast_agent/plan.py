"""What to do next, as a pure function of what is known and of two clocks.

Certificates speak wall time, so validity is judged on the wall clock. Retries wait on the monotonic clock, which nobody
can set. A wait is never longer than :data:`LONGEST_WAIT`, so that a clock that was set, or a machine that slept, is
noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from handfast.lifetime import RenewalWindow, Validity, renewal_window
from handfast_agent import backoff
from handfast_agent.lifecycle import Event, State, move
from handfast_agent.order import Order

__all__ = [
    "LONGEST_WAIT",
    "Enrol",
    "Expire",
    "Plan",
    "Renew",
    "Restore",
    "Step",
    "Wait",
    "hurried",
    "moment_to_renew",
    "next_step",
]

LONGEST_WAIT = 15.0
ASSUMED_LIFETIME = timedelta(minutes=20)
"""Before the first certificate nobody knows the lifetime: retries are then at most a minute apart."""
LATEST_SPREAD = timedelta(minutes=1)
"""Who hears of an order to renew when its time is over spreads over so much, or over its window when that is less."""
WINDOW_SHARE = 0.9
"""Of what is left of a window: an attempt that fails has the rest for another."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the next step depends on. ``retry_at`` is monotonic seconds; None means that nothing holds us back."""

    state: State = State.UNENROLLED
    validity: Validity | None = None
    renew_at: datetime | None = None
    failures: int = 0
    retry_at: float | None = None

    def certified(self, event: Event, validity: Validity, renew_at: datetime) -> Plan:
        """After a certificate arrived (ENROLLED, RENEWED) or was found good (RESTORED)."""
        return Plan(move(self.state, event), validity, renew_at)

    def moved(self, event: Event) -> Plan:
        return replace(self, state=move(self.state, event))

    def failed(self, monotonic: float, draw: float, retry_after: float | None = None) -> Plan:
        """After an attempt that failed: counts it and says when the next may be made."""
        failures = self.failures + 1
        wait = backoff.delay(failures, self.lifetime, draw, retry_after)
        return replace(self, failures=failures, retry_at=monotonic + wait)

    def due_on_arrival(self, monotonic: float) -> Plan:
        """For a certificate whose moment to renew is past already, as under a clock that is ahead of the CA's.

        Without a pause the next one would be asked for at once, and the next.
        """
        return replace(self, retry_at=monotonic + backoff.longest(self.lifetime))

    @property
    def lifetime(self) -> timedelta:
        return self.validity.duration if self.validity else ASSUMED_LIFETIME


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Enrol:
    """Ask for a first certificate with the proof."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask for the next certificate over the present identity."""


@dataclass(frozen=True, slots=True)
class Expire:
    """The certificate's last second is over: withdraw key and certificate."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The clock was wrong and is right again: what was withdrawn for expiry is valid."""


Step = Wait | Enrol | Renew | Expire | Restore


def next_step(plan: Plan, now: datetime, monotonic: float, *, has_proof: bool) -> Step:
    """The one thing to do now. ``has_proof``: there is a join token that the CA has not refused yet."""
    expired = plan.validity is None or now > plan.validity.not_after
    match plan.state:
        case State.STOPPED:
            return Wait(LONGEST_WAIT)
        case State.SERVING | State.UNTRUSTING if expired:
            return Expire()
        case State.EXPIRED if not expired:
            return Restore()
        case State.SERVING:
            return _when_due(plan, now, monotonic, Renew())
        case State.UNTRUSTING:
            return Wait(_until_end(plan, now))
        case _ if not has_proof:
            return Wait(LONGEST_WAIT)
        case _:
            return _when_due(plan, now, monotonic, Enrol())


def _when_due(plan: Plan, now: datetime, monotonic: float, step: Step) -> Step:
    held_back = (plan.retry_at or monotonic) - monotonic
    early = 0.0
    if isinstance(step, Renew) and plan.renew_at is not None:
        early = (plan.renew_at - now).total_seconds()
    wait = max(held_back, early)
    if wait <= 0:
        return step
    return Wait(min(wait, _until_end(plan, now)))


def _until_end(plan: Plan, now: datetime) -> float:
    """Seconds until the certificate must be withdrawn: just after its last second, or the longest wait."""
    if plan.validity is None or plan.state not in (State.SERVING, State.UNTRUSTING):
        return LONGEST_WAIT
    return min(LONGEST_WAIT, max((plan.validity.not_after - now).total_seconds() + 0.001, 0.001))


def hurried(plan: Plan, order: Order, now: datetime, draw: float) -> Plan:
    """With a moment inside of the order's window, when the certificate is one that it means.

    A plan that renews in time anyway is left as it is, so that the moment is drawn once however often the order is heard.
    """
    if plan.validity is None or plan.renew_at is None or not order.concerns(plan.validity):
        return plan
    spread = order.left if order.left > timedelta() else min(order.window, LATEST_SPREAD)
    if plan.renew_at <= now + spread:
        return plan
    return replace(plan, renew_at=now + spread * (WINDOW_SHARE * draw))


def moment_to_renew(validity: Validity, suggested: RenewalWindow | None, draw: float) -> datetime:
    """Drawn once for each certificate, and kept: inside the CA's window, or at half life with ten percent jitter.

    A window that does not lie within the certificate's life is no advice, and is ignored.
    """
    own = renewal_window(validity)
    usable = (
        suggested is not None
        and validity.not_before <= suggested.opens <= suggested.closes
        and suggested.closes < validity.not_after
    )
    return (suggested if usable and suggested else own).at(draw)
