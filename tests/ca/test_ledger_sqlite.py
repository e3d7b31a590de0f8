"""The ledger in SQLite keeps the contract, and what only a file can break."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Broken, Conflict, HandfastError, Refused, Unavailable
from handfast.revocation import Reason
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, LedgerContract, intention, issue, unknown

SMALL = 64 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[SqliteLedger]:
    opened = await SqliteLedger.open(path, reserve=SMALL)
    yield opened
    await opened.close()


class TestSqliteLedger(LedgerContract):
    """The fixture of this module gives the ledger."""


async def refusal(path: Path) -> HandfastError:
    with pytest.raises(HandfastError) as refused:
        await SqliteLedger.open(path, reserve=SMALL)
    return refused.value


async def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    """J1: numbers go on, revocations stay."""
    first = await SqliteLedger.open(path, reserve=SMALL)
    await issue(first, 1)
    await first.revoke_serial(1, Reason.UNSPECIFIED, now=NOW)
    number = (await first.plan_crl(ISSUER, now=NOW)).number
    await first.close()
    second = await SqliteLedger.open(path, reserve=SMALL)
    plan = await second.plan_crl(ISSUER, now=NOW)
    await second.close()
    assert plan.number == number + 1
    assert [entry.serial for entry in plan.entries] == [1]


async def test_a_second_process_on_the_file_is_refused(ledger: SqliteLedger, path: Path) -> None:
    """J5: one writer; the first one goes on."""
    error = await refusal(path)
    assert isinstance(error, Conflict)
    assert error.reason == "LEDGER_IN_USE"
    await issue(ledger, 1)


async def test_files_are_readable_by_their_owner_only(ledger: SqliteLedger, path: Path) -> None:
    """Mode 0600, whatever the umask says."""
    await issue(ledger, 1)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


async def test_wide_modes_are_refused(path: Path) -> None:
    """A ledger that others can read, or a directory that others can write."""
    path.touch(mode=0o644)
    path.chmod(0o644)
    assert (await refusal(path)).reason == "LEDGER_MODE"
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert (await refusal(path)).reason == "LEDGER_DIRECTORY"


async def test_a_newer_schema_is_refused(path: Path) -> None:
    """A program never writes into what it does not know."""
    await (await SqliteLedger.open(path, reserve=SMALL)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    error = await refusal(path)
    assert isinstance(error, Refused)
    assert error.reason == "LEDGER_NEWER"


async def test_flipped_bytes_are_refused(path: Path) -> None:
    """J3: damage is found before anything is signed."""
    opened = await SqliteLedger.open(path, reserve=SMALL)
    for serial in range(1, 80):
        await opened.intend(intention(serial))
    await opened.close()
    octets = bytearray(path.read_bytes())
    for page in range(2, len(octets) // 4096):
        octets[page * 4096 : page * 4096 + 64] = bytes(64 * [0xA5])
    path.write_bytes(octets)
    error = await refusal(path)
    assert isinstance(error, Broken)
    assert error.reason == "LEDGER_DAMAGED"


async def test_a_lock_of_a_stranger_is_waited_for_and_then_named(ledger: SqliteLedger, path: Path) -> None:
    """J12: bounded, clear, and clean afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as refused:
            await ledger.intend(intention(1))
        stranger.execute("ROLLBACK")
    assert refused.value.reason == "LEDGER_BUSY"
    assert await unknown(ledger, 1)
    await issue(ledger, 1)


async def test_a_backup_is_a_ledger_and_overwrites_nothing(ledger: SqliteLedger, tmp_path: Path) -> None:
    """J9: one consistent copy while serving."""
    await issue(ledger, 1)
    copy = tmp_path / "state" / "copy.db"
    await ledger.backup(str(copy))
    with pytest.raises(FileExistsError):
        await ledger.backup(str(copy))
    restored = await SqliteLedger.open(copy, reserve=SMALL)
    assert await restored.find(1) == await ledger.find(1)
    await restored.close()


async def test_a_ledger_of_the_version_before_is_taken_over(path: Path) -> None:
    """D4: what it had on its list stays on it, what it had carried past expiry stays away."""
    first = await SqliteLedger.open(path, reserve=SMALL)
    for serial in (1, 2):
        await issue(first, serial, not_after=NOW + timedelta(hours=serial))
        await first.revoke_serial(serial, Reason.UNSPECIFIED, now=NOW)
    later = NOW + timedelta(minutes=90)
    for moment in (NOW, later):
        plan = await first.plan_crl(ISSUER, now=moment)
        await first.record_crl(plan, b"list", moment)
    await first.close()
    with closing(sqlite3.connect(path)) as old:
        for index in ("ending", "unlisted", "carried"):
            old.execute(f"DROP INDEX certificates_{index}")
        old.execute("ALTER TABLE certificates DROP COLUMN listed_by")
        old.execute("PRAGMA user_version=1")
        old.commit()
    second = await SqliteLedger.open(path, reserve=SMALL)
    plan = await second.plan_crl(ISSUER, now=later + timedelta(seconds=1))
    assert ([entry.serial for entry in plan.entries], plan.unlisted) == ([2], (2,))
    await second.record_crl(plan, b"next", later)
    after = await second.plan_crl(ISSUER, now=later + timedelta(seconds=2), base=plan.number)
    assert (after.entries, after.removed, after.total) == ((), (), 1)
    await second.close()
