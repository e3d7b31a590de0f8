"""What recurs while a CA serves: that it is all there, often enough, and goes on when one attempt fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from handfast.errors import Unavailable
from handfast_ca.maintenance import Recurring, kept_up, recurring
from tests.ca.test_authority import Bench

HOUR, MINUTE, MOMENT = timedelta(hours=1), timedelta(minutes=1), timedelta(milliseconds=1)


def told(bench: Bench, *, ocsp: bool = True, life: timedelta = HOUR) -> dict[str, timedelta]:
    """Name of each call, and how often."""

    def renew_own() -> None: ...
    def tell_refusals() -> None: ...

    jobs = recurring(bench.authority, renew_own=renew_own, own_life=life, tell_refusals=tell_refusals, ocsp=ocsp)
    return {job.name: job.every for job in jobs}


async def test_each_call_recurs_as_often_as_its_promise_needs() -> None:
    """D3, D4, J10: a list before the old one ends, retention, alarms of the issuer's end, certificates of the CA's own."""
    bench = Bench()
    assert told(bench) == {
        "publish the list": HOUR,
        "renew our certificate": 3 * MINUTE,
        "renew the OCSP signer": MINUTE,
        "look for witnesses": MINUTE,
        "remember the end of the audit log": MINUTE,
        "write down refusals": MINUTE,
        "forget what expired": HOUR,
        "look at our end": HOUR,
    }
    profile = bench.authority.profile
    assert 4 * told(bench)["publish the list"] <= profile.crl_validity


async def test_where_nobody_answers_ocsp_no_signer_is_renewed() -> None:
    assert "renew the OCSP signer" not in told(Bench(), ocsp=False)


async def test_what_fails_is_called_again_in_its_turn() -> None:
    calls, again = 0, asyncio.Event()

    async def fails() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            again.set()
        raise Unavailable("the disk is full")

    with kept_up([Recurring("fail", fails, 10 * MOMENT)], now=datetime.now(UTC)):
        await within_a_minute(again.is_set)


async def test_what_takes_long_never_runs_beside_itself() -> None:
    running, most, calls = 0, 0, 0

    async def slow() -> None:
        nonlocal running, most, calls
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        calls += 1

    with kept_up([Recurring("take long", slow, 5 * MOMENT)], now=datetime.now(UTC)):
        await within_a_minute(lambda: calls >= 3)
    assert most == 1


async def test_only_what_asks_for_it_is_called_at_the_start() -> None:
    at_once, later = asyncio.Event(), asyncio.Event()
    jobs = [Recurring("later", later.set, HOUR), Recurring("at once", at_once.set, HOUR, at_start=True)]
    with kept_up(jobs, now=datetime.now(UTC)):
        await within_a_minute(at_once.is_set)
    assert not later.is_set()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What APScheduler says of a job that fails is what the test wants."""
    caplog.set_level("CRITICAL", logger="apscheduler")


async def within_a_minute(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)
