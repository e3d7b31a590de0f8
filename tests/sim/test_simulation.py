"""Seeds: what each of them must keep, that a run can be repeated, and that a fault would be found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sim.faults import FAULTS
from tests.sim.run import Size, simulate

QUICK = 200
CHUNK = 10
THOUSANDS = 3000
LONG_CHUNK = 100
SEEDS_FOR_A_FAULT = 30
SMALL = Size(agents=4, lives=0.9, gap=8.0)


def keep_every_promise(seeds: range) -> None:
    for seed in seeds:
        outcome = simulate(seed)
        assert not outcome.broken, f"\n{outcome.story()}"


@pytest.mark.parametrize("first", range(0, QUICK, CHUNK))
def test_whatever_happens_every_promise_is_kept(first: int) -> None:
    """Threats B1, C1, C4, C6, D1, J1, J8: see the list of promises in docs/simulation.md."""
    keep_every_promise(range(first, first + CHUNK))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(QUICK, THOUSANDS, LONG_CHUNK))
def test_whatever_happens_every_promise_is_kept_for_thousands_of_seeds(first: int) -> None:
    """Threats B1, C1, C4, C6, D1, J1, J8."""
    keep_every_promise(range(first, first + LONG_CHUNK))


def test_the_runs_hold_what_they_are_made_for() -> None:
    """A run in which nothing happens keeps every promise, too."""
    outcomes = [simulate(seed) for seed in range(8)]
    refused = sum((outcome.refused for outcome in outcomes[1:]), outcomes[0].refused)
    told = "\n".join(line for outcome in outcomes for line in outcome.timeline)
    assert all(outcome.accepted > 50 for outcome in outcomes)
    assert {"REVOKED", "EXPIRED", "NO_CREDENTIALS"} <= set(refused)
    for event in ("crashes", "parts", "is lost", "arrives twice", "stalls", "reads slowly", "is suspended", "is killed",
                  "the clock is set", "removes the entry", "revoked with CRL", "ends a stream"):  # fmt: skip
        assert event in told, event


def test_a_seed_tells_the_same_story_twice() -> None:
    """Line by line, also in another process whose sets and dictionaries have another order."""
    first, second = simulate(8), simulate(8)
    assert first.timeline == second.timeline
    assert simulate(7).timeline != first.timeline
    for order in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.sim", "8"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": order, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        ).stdout
        assert told.splitlines()[: len(first.timeline)] == list(first.timeline)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_deliberate_fault_is_found_within_a_few_seeds(name: str) -> None:
    """And told with its story and the command that repeats it."""
    for seed in range(SEEDS_FOR_A_FAULT):
        outcome = simulate(seed, size=SMALL, faults=FAULTS[name])
        if outcome.broken:
            assert f"python -m tests.sim {seed}" in outcome.story()
            assert simulate(seed, size=SMALL, faults=FAULTS[name]).broken == outcome.broken
            return
    pytest.fail(f"{SEEDS_FOR_A_FAULT} seeds did not find {name}")


def test_a_run_that_fails_says_so_to_a_shell() -> None:
    """The timeline on stdout, the verdict on stderr, exit code 1."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sim", "0", "--fault", "judge-caches"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert ran.returncode == 1
    assert "BROKEN REVOKED" in ran.stdout
    assert "again: python -m tests.sim 0 --fault judge-caches" in ran.stdout
    assert ran.stderr.startswith("seed 0: REVOKED")
