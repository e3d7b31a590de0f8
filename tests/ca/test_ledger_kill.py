"""Kill -9 at any moment: what was reported is there, and nothing is there by half (threats B1, J1)."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from handfast_ca.stores.rows import load_number
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, der, digest

ROOT = Path(__file__).parents[2]


def reported_until_killed(path: Path, chance: random.Random) -> list[tuple[str, int]]:
    """Kills after a random number of reports, so that the moment depends on no clock."""
    command = [sys.executable, "-m", "tests.ca.ledger_victim", str(path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as victim:
        assert victim.stdout is not None
        lines = [victim.stdout.readline() for _ in range(chance.randint(1, 200))]
        victim.send_signal(signal.SIGKILL)
        lines += victim.stdout.readlines()
    assert victim.returncode == -signal.SIGKILL
    return [(word, int(number)) for word, number in (line.decode().split() for line in lines)]


async def check_survivor(path: Path, reported: list[tuple[str, int]]) -> None:
    ledger = await SqliteLedger.open(path, reserve=65536)
    try:
        for what, number in reported:
            if what == "issued":
                assert (await ledger.find(number)).der == der(number)
            if what == "revoked":
                assert (await ledger.find(number)).revoked_at is not None
        highest = max((number for what, number in reported if what == "crl"), default=0)
        await ledger.revoke_dangling(now=NOW)
        row = await ledger.plan_crl(ISSUER, now=NOW.replace(year=2030))
        assert row.number > highest
    finally:
        await ledger.close()


def check_tokens(path: Path) -> None:
    """B1: a token is gone exactly when its intention stands."""
    with closing(sqlite3.connect(path)) as connection:
        intended = {load_number(row[0]) for row in connection.execute("SELECT serial FROM certificates")}
        kept = {row[0] for row in connection.execute("SELECT digest FROM tokens")}
    assert not kept & {digest(f"token {serial}") for serial in intended}


async def run(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / f"run{seed}"
    directory.mkdir(mode=0o700)
    reported = reported_until_killed(directory / "ledger.db", random.Random(seed))
    await check_survivor(directory / "ledger.db", reported)
    check_tokens(directory / "ledger.db")


@pytest.mark.parametrize("seed", range(20))
async def test_a_killed_ledger_keeps_what_it_reported(tmp_path: Path, seed: int) -> None:
    """J1, B1: every reported serial, rising CRL numbers, no token spent for nothing."""
    await run(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 200))
async def test_a_ledger_that_is_killed_two_hundred_times_keeps_what_it_reported(tmp_path: Path, seed: int) -> None:
    """J1, B1: the same, more often."""
    await run(tmp_path, seed)
