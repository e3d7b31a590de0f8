"""The agent's decisions, against a clock that a machine of Hypothesis moves as it likes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from handfast.lifetime import RenewalWindow, Validity
from handfast.testing import ManualClock
from handfast_agent import backoff
from handfast_agent.lifecycle import Event, State
from handfast_agent.plan import (
    LONGEST_WAIT,
    Enrol,
    Expire,
    Plan,
    Renew,
    Restore,
    Wait,
    moment_to_renew,
    next_step,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = Validity(START, START + timedelta(hours=1))
draws = st.floats(0, 1)


def serving(renew_at: datetime = START + timedelta(minutes=30)) -> Plan:
    return Plan().certified(Event.ENROLLED, HOUR, renew_at)


@given(st.integers(1, 10_000), st.integers(60, 86_400), draws, st.none() | st.floats(-1, 1e12))
def test_backoff_stays_under_a_twentieth_unless_the_ca_asks_and_then_under_a_quarter(
    failures: int, life: int, draw: float, asked: float | None
) -> None:
    wait = backoff.delay(failures, timedelta(seconds=life), draw, asked)
    assert 0 <= wait <= (life / 20 if asked is None else life / 4)


@given(draws)
def test_a_renewal_is_drawn_at_half_life_with_ten_percent_jitter(draw: float) -> None:
    moment = moment_to_renew(HOUR, None, draw)
    assert START + timedelta(minutes=27) <= moment <= START + timedelta(minutes=33)


def test_the_window_that_the_ca_suggests_is_taken_and_nonsense_is_not() -> None:
    good = RenewalWindow(START + timedelta(minutes=10), START + timedelta(minutes=12))
    late = RenewalWindow(START + timedelta(hours=2), START + timedelta(hours=3))
    turned = RenewalWindow(START + timedelta(minutes=12), START + timedelta(minutes=10))
    assert moment_to_renew(HOUR, good, 0.5) == START + timedelta(minutes=11)
    for nonsense in (late, turned):
        assert moment_to_renew(HOUR, nonsense, 0.5) == START + timedelta(minutes=30)


def test_retries_do_not_wait_longer_because_somebody_set_the_wall_clock_back() -> None:
    """J8: waiting is on the clock that nobody can set."""
    plan = Plan().failed(100.0, 1.0)
    assert next_step(plan, START - timedelta(days=1), 102.0, has_proof=True) == Enrol()


def test_a_clock_that_was_wrong_and_is_right_again_brings_the_certificate_back() -> None:
    """J8: a year ahead withdraws; back again restores, without a new enrolment."""
    plan = serving()
    assert next_step(plan, START + timedelta(days=365), 1.0, has_proof=False) == Expire()
    plan = plan.moved(Event.EXPIRED)
    assert next_step(plan, START + timedelta(minutes=1), 2.0, has_proof=False) == Restore()


def test_a_certificate_that_is_due_when_it_arrives_is_not_renewed_at_once() -> None:
    """J8: a clock that is ahead by most of a lifetime would ask without a pause."""
    late = START + timedelta(minutes=50)
    plan = serving().due_on_arrival(100.0)
    assert next_step(plan, late, 101.0, has_proof=False) == Wait(LONGEST_WAIT)
    assert next_step(plan, late, 100.0 + backoff.longest(HOUR.duration), has_proof=False) == Renew()


def test_without_a_proof_an_agent_waits_and_does_not_ask() -> None:
    assert next_step(Plan(), START, 0.0, has_proof=False) == Wait(LONGEST_WAIT)


def test_a_revoked_agent_asks_again_only_with_a_new_proof() -> None:
    plan = serving().moved(Event.REVOKED)
    assert next_step(plan, START, 0.0, has_proof=False) == Wait(LONGEST_WAIT)
    assert next_step(plan, START, 0.0, has_proof=True) == Enrol()


class Agent(RuleBasedStateMachine):
    """A loop as dumb as the driver's, under a clock that runs, sleeps and jumps, and a CA that comes and goes."""

    @initialize(life=st.integers(60, 86_400))
    def begin(self, life: int) -> None:
        self.clock = ManualClock(START)
        self.life = timedelta(seconds=life)
        self.plan = Plan()
        self.ca_up = True
        self.allowed_at = 0.0
        self.draw = 0.5

    @rule(up=st.booleans(), draw=draws)
    def the_ca_changes(self, up: bool, draw: float) -> None:
        self.ca_up, self.draw = up, draw

    @rule(share=st.floats(0, 2))
    def time_passes(self, share: float) -> None:
        self.clock.advance(self.life * share)
        self.settle()

    @rule(share=st.floats(-2, 2))
    def somebody_sets_the_clock(self, share: float) -> None:
        self.clock.step(self.life * share)
        self.settle()

    @rule()
    def it_always_renews_in_the_end(self) -> None:
        """With the CA up, the loop run for one lifetime and a bit ends with a certificate that is not due."""
        self.ca_up = True
        for _ in range(400):
            step = self.settle()
            due = self.plan.renew_at is None or self.plan.renew_at <= self.clock.now()
            if self.plan.state is State.SERVING and isinstance(step, Wait) and not due:
                return
            self.clock.advance(timedelta(seconds=step.seconds + 0.001 if isinstance(step, Wait) else 0.001))
        raise AssertionError(f"not serving after 400 steps: {self.plan}")

    @invariant()
    def it_never_serves_after_not_after(self) -> None:
        if self.plan.state is State.SERVING:
            assert self.plan.validity is not None
            assert self.clock.now() <= self.plan.validity.not_after

    def settle(self) -> Wait | Enrol | Renew | Expire | Restore:
        """Steps until there is something to wait for, as the driver does."""
        step: Wait | Enrol | Renew | Expire | Restore = Wait(0)
        for _ in range(5):
            step = next_step(self.plan, self.clock.now(), self.clock.monotonic(), has_proof=True)
            if isinstance(step, Wait):
                assert 0 < step.seconds <= LONGEST_WAIT
                return step
            self.act(step)
        return step

    def act(self, step: Enrol | Renew | Expire | Restore) -> None:
        if isinstance(step, Expire):
            self.plan = self.plan.moved(Event.EXPIRED)
        elif isinstance(step, Restore):
            self.plan = self.plan.moved(Event.RESTORED)
        else:
            self.ask(Event.ENROLLED if isinstance(step, Enrol) else Event.RENEWED)

    def ask(self, event: Event) -> None:
        now, monotonic = self.clock.now(), self.clock.monotonic()
        assert monotonic >= self.allowed_at, "asked before the backoff allowed it"
        if self.ca_up:
            validity = Validity(now, now + self.life)
            self.plan = self.plan.certified(event, validity, moment_to_renew(validity, None, self.draw))
            self.allowed_at = monotonic
        else:
            self.plan = self.plan.failed(monotonic, self.draw)
            assert self.plan.retry_at is not None
            self.allowed_at = self.plan.retry_at


Agent.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgentNeverServesExpiredNeverHammersAlwaysRenews = Agent.TestCase


def test_an_agent_that_trusts_nothing_waits_for_trust_and_for_its_end() -> None:
    """D12: it renews nothing meanwhile, however due that is."""
    plan = serving(START).moved(Event.TRUST_WITHDRAWN)
    assert next_step(plan, START + timedelta(minutes=59, seconds=50), 0.0, has_proof=True) == Wait(10.001)
    assert next_step(plan, START + timedelta(hours=1, seconds=1), 0.0, has_proof=True) == Expire()


def test_a_stopped_agent_has_nothing_to_do() -> None:
    assert next_step(serving().moved(Event.STOPPED), START, 0.0, has_proof=True) == Wait(LONGEST_WAIT)


def test_a_withdrawn_certificate_comes_back_only_when_the_clock_says_that_it_is_valid() -> None:
    """J8."""
    expired = serving().moved(Event.EXPIRED)
    assert next_step(expired, START + timedelta(minutes=59), 0.0, has_proof=False) == Restore()
    assert next_step(expired, START + timedelta(minutes=61), 0.0, has_proof=False) == Wait(LONGEST_WAIT)
    assert next_step(expired, START + timedelta(minutes=61), 0.0, has_proof=True) == Enrol()


def test_who_never_had_a_certificate_enrols_and_with_nothing_to_renew_nothing_is_renewed() -> None:
    assert next_step(Plan(), START, 0.0, has_proof=True) == Enrol()
    assert next_step(Plan(), START, 0.0, has_proof=False) == Wait(LONGEST_WAIT)
    assert next_step(serving(START), START, 0.0, has_proof=False) == Renew()
