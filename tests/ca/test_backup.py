"""One file goes out, and comes back without losing a revocation (threat J9; quarantine comes with a later issue)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Conflict, Invalid, Refused
from handfast.revocation import Reason
from handfast_ca.backup import back_up, restore
from handfast_ca.ledger import CRL_EPOCH
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, issue


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


async def backed_up(state: Path, target: Path) -> None:
    """A ledger with one certificate, in a backup."""
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await issue(ledger, 1)
    await back_up(ledger, target, {}, now=NOW)
    await ledger.close()


async def test_a_backup_comes_back_into_an_empty_directory(state: Path, tmp_path: Path) -> None:
    """J9: the same certificates, mode 0600."""
    await backed_up(state, tmp_path / "one.tar")
    assert (tmp_path / "one.tar").stat().st_mode & 0o777 == 0o600
    fresh = tmp_path / "fresh"
    fresh.mkdir(mode=0o700)
    assert await restore(tmp_path / "one.tar", fresh, merge=False, now=NOW) == 0
    ledger = await SqliteLedger.open(fresh / "ledger.db", reserve=4096)
    assert (await ledger.find(1)).revoked_at is None
    assert await ledger.mark(CRL_EPOCH) == int(NOW.timestamp())
    await ledger.close()


async def test_restoring_over_a_ledger_is_refused_or_keeps_its_revocations(state: Path, tmp_path: Path) -> None:
    """J9: what was revoked after the backup stays revoked."""
    await backed_up(state, tmp_path / "one.tar")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await ledger.revoke_serial(1, Reason.SUPERSEDED, now=NOW)
    number = (await ledger.plan_crl(ISSUER, now=NOW)).number
    await ledger.raise_mark("seen", 7)
    with pytest.raises(Conflict) as running:
        await restore(tmp_path / "one.tar", state, merge=True, now=NOW)
    await ledger.close()
    with pytest.raises(Refused) as refused:
        await restore(tmp_path / "one.tar", state, merge=False, now=NOW)
    assert (running.value.reason, refused.value.reason) == ("LEDGER_IN_USE", "STATE_EXISTS")
    assert await restore(tmp_path / "one.tar", state, merge=True, now=NOW) == 1
    merged = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    assert (await merged.find(1)).reason is Reason.SUPERSEDED
    assert (await merged.plan_crl(ISSUER, now=NOW)).number == (int(NOW.timestamp()) << 64) + 1 > number
    assert await merged.mark("seen") == 7
    await merged.close()


async def test_each_restore_of_one_backup_numbers_its_lists_past_all_others(state: Path, tmp_path: Path) -> None:
    """J9, D1: also when the state was lost, so that nobody knows what the restore before had published."""
    await backed_up(state, tmp_path / "one.tar")
    highest = 0
    for days in range(3):
        fresh = tmp_path / f"fresh {days}"
        fresh.mkdir(mode=0o700)
        await restore(tmp_path / "one.tar", fresh, merge=False, now=NOW + timedelta(days=days))
        ledger = await SqliteLedger.open(fresh / "ledger.db", reserve=4096)
        numbers = [(await ledger.plan_crl(ISSUER, now=NOW + timedelta(days=days))).number for _ in range(2)]
        await ledger.close()
        assert highest < numbers[0] < numbers[1]
        highest = numbers[1]


async def test_a_revocation_that_the_backup_never_saw_stops_the_restore(state: Path, tmp_path: Path) -> None:
    """J9: and the present ledger stays as it is."""
    await backed_up(state, tmp_path / "one.tar")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await issue(ledger, 2)
    await ledger.revoke_serial(2, Reason.UNSPECIFIED, now=NOW)
    await ledger.close()
    with pytest.raises(Refused) as refused:
        await restore(tmp_path / "one.tar", state, merge=True, now=NOW)
    assert refused.value.reason == "RESTORE_UNKNOWN"
    kept = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    assert (await kept.find(2)).revoked_at == NOW
    await kept.close()


async def test_a_changed_backup_is_refused(state: Path, tmp_path: Path) -> None:
    """J3: the manifest holds the digest of every member."""
    await backed_up(state, tmp_path / "one.tar")
    octets = bytearray((tmp_path / "one.tar").read_bytes())
    octets[len(octets) // 2] ^= 1
    (tmp_path / "bad.tar").write_bytes(octets)
    with pytest.raises(Invalid) as refused:
        await restore(tmp_path / "bad.tar", tmp_path / "nowhere", merge=False, now=NOW)
    assert refused.value.reason == "BACKUP_DAMAGED"


async def test_a_private_key_never_gets_into_a_backup(state: Path, tmp_path: Path) -> None:
    """E: keys have their own safe."""
    (tmp_path / "key.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    with pytest.raises(Invalid) as refused:
        await back_up(ledger, tmp_path / "one.tar", {"issuer.crt": tmp_path / "key.pem"}, now=NOW)
    await ledger.close()
    assert refused.value.reason == "BACKUP_MEMBER"
    assert not (tmp_path / "one.tar").exists()
