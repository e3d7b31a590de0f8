"""The ledger in SQLite keeps the contract, and what only a file can break."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Broken, Conflict, HandfastError, Refused, Unavailable
from handfast.revocation import Reason
from handfast_ca.stores.soundness import Soundness, mark_path
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


async def closed_ledger(path: Path) -> None:
    """Of a few dozen certificates, closed in order."""
    opened = await SqliteLedger.open(path, reserve=SMALL)
    for serial in range(1, 80):
        await opened.intend(intention(serial))
    await opened.close()


def root_page(path: Path, name: str) -> int:
    """The page where a table or an index begins."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return int(found[0])


def flip(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(bytes(64 * [0xA5]))


def flip_unseen(path: Path, *pages: int) -> None:
    """As a disk does that rots. It leaves the file's times alone, which no program can do: the mark follows them here."""
    flip(path, *pages)
    mark = json.loads(mark_path(path).read_text())
    found = path.stat()
    mark |= {"modified_ns": found.st_mtime_ns, "changed_ns": found.st_ctime_ns}
    mark_path(path).write_text(json.dumps(mark))


@pytest.mark.parametrize("page", ["certificates", "certificates_by_serial", "issuers"])
async def test_flipped_bytes_are_refused(path: Path, page: str) -> None:
    """J3: damage is found before anything is signed."""
    await closed_ledger(path)
    flip(path, root_page(path, page))
    error = await refusal(path)
    assert isinstance(error, Broken)
    assert error.reason == "LEDGER_DAMAGED"


async def test_what_rotted_unseen_in_what_serving_needs_is_refused(path: Path) -> None:
    """J3: the small tables are read at every start."""
    await closed_ledger(path)
    page = root_page(path, "issuers")
    flip_unseen(path, page)
    assert (await refusal(path)).reason == "LEDGER_DAMAGED"


async def test_what_rotted_unseen_ends_signing_as_soon_as_the_reader_beside_finds_it(path: Path) -> None:
    """J3: every write is refused from then on, and the next start too."""
    await closed_ledger(path)
    page = root_page(path, "certificates_by_serial")
    flip_unseen(path, page)
    opened = await SqliteLedger.open(path, reserve=SMALL)
    await opened.checked()
    problem = opened.problem()
    assert isinstance(problem, Broken)
    assert problem.reason == "LEDGER_DAMAGED"
    for refused in (opened.intend(intention(100)), opened.plan_crl(ISSUER, now=NOW)):
        with pytest.raises(Broken, match="is damaged"):
            await refused
    await opened.close()
    assert not mark_path(path).exists()
    assert (await refusal(path)).reason == "LEDGER_DAMAGED"


async def test_a_ledger_that_was_closed_in_order_is_known_again_and_read_beside(path: Path) -> None:
    """J3: the mark is used once, and comes back when the whole file was read."""
    await closed_ledger(path)
    assert mark_path(path).exists()
    opened = await SqliteLedger.open(path, reserve=SMALL)
    assert not mark_path(path).exists()
    await opened.checked()
    assert opened.problem() is None
    await issue(opened, 100)
    await opened.close()
    assert mark_path(path).exists()


@pytest.mark.parametrize("mark", [b"", b"null", b"{}", b"[1]", b"\xff"])
async def test_a_mark_that_says_nothing_hides_no_damage(path: Path, mark: bytes) -> None:
    """J3: then the whole file is read before anything else."""
    await closed_ledger(path)
    flip(path, root_page(path, "certificates"))
    mark_path(path).write_bytes(mark)
    assert (await refusal(path)).reason == "LEDGER_DAMAGED"


async def test_a_mark_of_another_file_hides_no_damage(path: Path) -> None:
    """J3: a copy put in the ledger's place is not the file that was found whole."""
    await closed_ledger(path)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    flip(copy, root_page(path, "certificates"))
    copy.replace(path)
    assert (await refusal(path)).reason == "LEDGER_DAMAGED"


async def test_a_lock_of_a_stranger_is_waited_for_and_then_named(ledger: SqliteLedger, path: Path) -> None:
    """J12: bounded, clear, and clean afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as refused:
            await ledger.intend(intention(1))
        with pytest.raises(Unavailable) as unready:
            await ledger.check()
        stranger.execute("ROLLBACK")
    assert unready.value.reason == "LEDGER_BUSY"
    assert refused.value.reason == "LEDGER_BUSY"
    assert await unknown(ledger, 1)
    await issue(ledger, 1)


async def test_a_lock_of_a_stranger_that_goes_away_in_time_costs_nobody_anything(
    ledger: SqliteLedger, path: Path
) -> None:
    """J12: whoever asks meanwhile waits, and need not ask again."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(issue(ledger, 1))
        await asyncio.sleep(0.3)  # nothing hangs on it but that the writer has come to the lock by then
        assert not waiting.done()
        stranger.execute("ROLLBACK")
        await waiting
    assert not await unknown(ledger, 1)


async def test_a_file_that_was_not_read_to_its_end_gets_no_mark(path: Path) -> None:
    """J3: it is read before the next start serves."""
    await closed_ledger(path)
    unread = Soundness(path)
    unread.stop()
    unread.keep()
    assert not mark_path(path).exists()
    flip(path, root_page(path, "certificates"))
    assert (await refusal(path)).reason == "LEDGER_DAMAGED"


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
