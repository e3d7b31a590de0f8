"""Random faults against real processes (threat J6 on one machine, and J1, C5, D1, D4 under whatever comes together).

Replicas of a CA over one ledger whose clocks differ are in ``tests/sim/test_replicas.py``, on virtual time: processes on
several machines come with PostgreSQL.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.mix import run

SEED = os.environ.get("FAULTS_SEED")
SHORT = [int(SEED)] if SEED else [1]
LONG = [int(SEED)] if SEED else list(range(2, 12))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SHORT)
def test_whatever_strikes_nothing_revoked_comes_back_and_everybody_recovers(tmp_path: Path, seed: int) -> None:
    """J6, J1, J4, C5, D1, D4: kills, restarts, a cut network, full disks, clocks that step, rotations, revocations."""
    run(tmp_path, seed, steps=12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", LONG)
def test_whatever_strikes_for_long_nothing_revoked_comes_back(tmp_path: Path, seed: int) -> None:
    """J6, J1, J4, C5, D1, D4: ten seeds of sixty steps."""
    run(tmp_path, seed, steps=60)
