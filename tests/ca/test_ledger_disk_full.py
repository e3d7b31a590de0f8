"""A full disk stops issuing and never a revocation (threat J4). Needs root for a small tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.errors import Unavailable
from handfast.revocation import Reason
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, issue, publish, unknown

RESERVE = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def fill(file: Path) -> None:
    """Until not one more page fits."""
    with file.open("wb", buffering=0) as target, pytest.raises(OSError, match="No space left"):
        while True:
            target.write(bytes(4096))


async def test_on_a_full_disk_issuing_is_refused_and_revoking_works(small_disk: Path) -> None:
    """J4: refused with its reason, revoked all the same, and well again when there is room."""
    ledger = await SqliteLedger.open(small_disk / "ledger.db", reserve=RESERVE)
    await issue(ledger, 1)
    fill(small_disk / "ballast")
    last = 1
    with pytest.raises(Unavailable) as refused:
        for last in range(2, 2000):
            await issue(ledger, last)
    assert refused.value.reason == "DISK_FULL"
    if not await unknown(ledger, last):
        assert (await ledger.find(last)).der is None
    await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW)
    assert 1 in await publish(ledger, NOW)
    (small_disk / "ballast").unlink()
    await issue(ledger, 5000)
    assert (await ledger.find(5000)).issuer_key_id == ISSUER
    await ledger.close()
