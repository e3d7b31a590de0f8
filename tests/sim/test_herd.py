"""Ten thousand agents whose CA was away for eight hours."""

from __future__ import annotations

import pytest

from tests.sim.herd import Outage, after, fixed_retry, full_jitter

ANY_TIME, ONE_HOUR = Outage(), Outage(spread=1.0, age=6.0)


@pytest.mark.parametrize("outage", [ANY_TIME, ONE_HOUR], ids=["enrolled at any time", "enrolled within one hour"])
def test_after_eight_hours_nobody_expired_and_the_ca_is_not_run_over(outage: Outage) -> None:
    """Threats, 2.5: full jitter stays under twice the capacity; a retry each minute, from the same beginnings, does not."""
    jitter, fixed = after(outage, full_jitter), after(outage, fixed_retry)
    print(f"\nfull jitter: {jitter}\nfixed 60 s:  {fixed}")
    assert jitter.expired == 0
    assert jitter.peak < 2 * outage.capacity
    assert jitter.requests < 1.1 * jitter.served
    assert fixed.peak > 5 * outage.capacity
    assert fixed.requests > 2 * jitter.requests


def test_an_outage_that_is_longer_than_what_is_left_expires_those_who_are_due() -> None:
    """The model would show it: after 14 hours of 24, with renewals from 10.8 hours on, some are past their end."""
    assert after(Outage(agents=1000, capacity=2.0, lasts=14.0)).expired > 0
