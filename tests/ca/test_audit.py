"""The audit trail: threats G1 to G5 and J4."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Broken, Unavailable
from handfast.testing import ManualClock
from handfast_ca.audit import FileAudit, MemoryAudit, verify_audit
from tests.ca.core import NOW


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def _written(trail: Path, count: int = 5) -> list[bytes]:
    audit = FileAudit(trail, ManualClock(NOW))
    for number in range(count):
        await audit.append({"event": "enrol", "decision": "granted", "detail": f"line {number}"})
    await audit.close()
    return trail.read_bytes().splitlines(keepends=True)


def _reasons(trail: Path, *, at_least: int = 0) -> list[tuple[int, str]]:
    return [(problem.line, problem.reason) for problem in verify_audit(trail, at_least=at_least).problems]


async def test_an_untouched_trail_verifies_and_goes_on_after_a_restart(trail: Path) -> None:
    """G3."""
    await _written(trail, 3)
    await _written(trail, 2)
    report = verify_audit(trail, at_least=5)
    assert report.intact
    assert report.lines == report.position.seq == 5


async def test_appends_at_the_same_time_share_a_group_and_get_their_own_numbers(trail: Path) -> None:
    audit = FileAudit(trail, ManualClock(NOW))
    numbers = await asyncio.gather(*(audit.append({"event": "enrol"}) for _ in range(200)))
    await audit.close()
    assert numbers == list(range(1, 201))
    assert verify_audit(trail).intact


@pytest.mark.parametrize("line", range(5))
async def test_a_changed_byte_names_its_line(trail: Path, line: int) -> None:
    """G3."""
    lines = await _written(trail)
    lines[line] = lines[line].replace(b"granted", b"refused")
    trail.write_bytes(b"".join(lines))
    assert _reasons(trail)[0] == (line + 1, "CHANGED")


async def test_a_removed_line_is_found(trail: Path) -> None:
    """G3."""
    lines = await _written(trail)
    trail.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert _reasons(trail) == [(3, "REMOVED")]


async def test_two_lines_that_changed_places_are_found(trail: Path) -> None:
    """G3."""
    lines = await _written(trail)
    lines[1], lines[2] = lines[2], lines[1]
    trail.write_bytes(b"".join(lines))
    assert [reason for _, reason in _reasons(trail)] == ["REMOVED", "MOVED", "REMOVED"]


async def test_a_tail_that_was_cut_off_is_found_and_the_ca_does_not_go_on_with_it(trail: Path) -> None:
    """G3."""
    lines = await _written(trail)
    trail.write_bytes(b"".join(lines[:3]))
    assert _reasons(trail) == [(4, "CUT_OFF")]
    with pytest.raises(Broken) as refused:
        FileAudit(trail, ManualClock(NOW))
    assert refused.value.reason == "AUDIT_BROKEN"


async def test_a_tail_cut_off_together_with_its_head_shows_against_the_ledger_s_mark(trail: Path) -> None:
    """G3: the whole pair replaced by an older one."""
    lines = await _written(trail, 3)
    head = trail.with_name("audit.jsonl.head").read_bytes()
    await _written(trail, 2)
    trail.write_bytes(b"".join(lines))
    trail.with_name("audit.jsonl.head").write_bytes(head)
    assert _reasons(trail) == []
    assert _reasons(trail, at_least=5) == [(4, "CUT_OFF")]


async def test_a_line_that_was_forged_with_a_right_hash_does_not_fit_the_next(trail: Path) -> None:
    """G3."""
    lines = await _written(trail)
    other = MemoryAudit(ManualClock(NOW))
    for number in range(3):
        await other.append({"event": "enrol", "decision": "granted", "detail": f"forged {number}"})
    trail.write_bytes(b"".join(lines[:2] + other.raw[2:] + lines[3:]))
    assert [reason for _, reason in _reasons(trail)] == ["CHANGED", "CHANGED"]


@pytest.mark.parametrize("forged", [False, True], ids=["changed", "forged with a right hash"])
async def test_a_ca_does_not_go_on_after_a_last_line_that_it_did_not_write(trail: Path, forged: bool) -> None:
    """G3: the head beside the trail remembers it."""
    lines = await _written(trail)
    other = MemoryAudit(ManualClock(NOW))
    for number in range(5):
        await other.append({"event": "enrol", "decision": "granted", "detail": f"forged {number}"})
    last = other.raw[4] if forged else lines[4].replace(b"granted", b"refused")
    trail.write_bytes(b"".join([*lines[:4], last]))
    with pytest.raises(Broken) as refused:
        FileAudit(trail, ManualClock(NOW))
    assert refused.value.reason == "AUDIT_BROKEN"


async def test_a_trail_is_not_written_through_a_link(trail: Path, tmp_path: Path) -> None:
    """E6."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    trail.symlink_to(victim)
    with pytest.raises(Unavailable) as refused:
        FileAudit(trail, ManualClock(NOW))
    assert refused.value.reason == "AUDIT_UNAVAILABLE"
    assert victim.read_bytes() == b"untouched"


async def test_delete_is_no_more_written_as_it_is_than_other_control_characters(trail: Path) -> None:
    """G1: JSON may hold it bare."""
    audit = FileAudit(trail, ManualClock(NOW))
    await audit.append({"event": "enrol", "detail": "a\x7fb"})
    await audit.close()
    assert b"\x7f" not in trail.read_bytes()
    assert json.loads(trail.read_bytes())["detail"] == "a\x7fb"


async def test_an_unfinished_last_line_is_no_problem_and_is_cut_at_the_next_start(trail: Path) -> None:
    """J1: it was never acknowledged."""
    await _written(trail, 2)
    with trail.open("ab") as file:
        file.write(b'{"seq":3,"time":"2026')
    report = verify_audit(trail)
    assert report.intact
    assert report.unfinished
    await _written(trail, 1)
    assert verify_audit(trail).lines == 3


async def test_hostile_text_stays_on_one_line_and_reads_back_equal(trail: Path) -> None:
    """G1."""
    hostile = 'x\n{"event":"enrol"}\r\x1b[31m\u202e\x7f\x00\u2028"'
    audit = FileAudit(trail, ManualClock(NOW))
    await audit.append({"event": "enrol", "detail": hostile, "dns_names": [hostile]})
    await audit.close()
    raw = trail.read_bytes()
    assert raw.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in raw[:-1])
    record = json.loads(raw)
    assert record["detail"] == hostile
    assert record["dns_names"] == [hostile]


async def test_a_long_value_is_cut_and_says_so(trail: Path) -> None:
    """G1."""
    audit = MemoryAudit(ManualClock(NOW))
    await audit.append({"event": "enrol", "detail": "a" * 600})
    assert audit.records[0]["detail"] == "a" * 512 + "... (88 more)"


async def test_a_field_outside_the_allow_list_is_never_written(trail: Path) -> None:
    """G2."""
    audit = FileAudit(trail, ManualClock(NOW))
    with pytest.raises(ValueError, match="join_token"):
        await audit.append({"event": "enrol", "join_token": "hft_secret"})
    await audit.close()
    assert trail.read_bytes() == b""


async def test_a_clock_that_was_set_back_leaves_a_line_and_the_numbers_rise(trail: Path) -> None:
    """G5."""
    clock = ManualClock(NOW)
    audit = MemoryAudit(clock)
    await audit.append({"event": "enrol"})
    clock.advance(timedelta(seconds=30))
    clock.step(-timedelta(hours=1))
    await audit.append({"event": "renew"})
    assert [(record["seq"], record["event"]) for record in audit.records] == [
        (1, "enrol"),
        (2, "CLOCK_STEP"),
        (3, "renew"),
    ]
    assert audit.records[1]["step_seconds"] == -3600
    assert audit.records[2]["monotonic"] == 30.0


async def test_one_trail_has_one_writer(trail: Path) -> None:
    first = FileAudit(trail, ManualClock(NOW))
    with pytest.raises(Unavailable) as refused:
        FileAudit(trail, ManualClock(NOW))
    assert refused.value.reason == "AUDIT_IN_USE"
    await first.close()


async def test_the_files_are_for_their_owner_alone_whatever_the_umask(trail: Path) -> None:
    before = os.umask(0)
    try:
        await _written(trail, 1)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in trail.parent.iterdir()} == {0o600}


class _FullDisk(FileAudit):
    """The real trail with a lever: while the reserve is there, the disk is full."""

    def _write(self, events: object) -> int:
        if self._reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._write(events)  # type: ignore[arg-type]


async def test_on_a_full_disk_issuing_stops_and_revoking_goes_on_from_the_reserve(trail: Path) -> None:
    """G4, J4."""
    audit = _FullDisk(trail, ManualClock(NOW))
    with pytest.raises(Unavailable) as refused:
        await audit.append({"event": "enrol"})
    assert refused.value.reason == "AUDIT_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await audit.check()
    assert await audit.append({"event": "revoke"}, essential=True) == 1
    await audit.check()
    await audit.close()
    assert [json.loads(line)["event"] for line in trail.read_text().splitlines()] == ["revoke", "audit-resumed"]
    assert verify_audit(trail).intact


async def test_lines_of_a_group_stand_together_and_each_learns_its_number(trail: Path) -> None:
    """G4: whoever else writes meanwhile."""
    audit = FileAudit(trail, ManualClock(NOW))
    groups = [[{"event": "renew", "detail": f"{group}"} for _ in range(3)] for group in range(4)]
    together = asyncio.gather(*map(audit.append_all, groups))
    numbers, alone = await asyncio.gather(together, audit.append({"event": "enrol"}))
    await audit.close()
    assert [list(one) for one in numbers] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert alone == 13
    details = [json.loads(line).get("detail") for line in trail.read_text().splitlines()]
    assert details == [*"000111222333", None]
    assert verify_audit(trail).intact


async def test_of_a_group_that_the_disk_has_no_room_for_no_line_stays(trail: Path) -> None:
    """G4, J4."""
    audit = _FullDisk(trail, ManualClock(NOW))
    with pytest.raises(Unavailable) as refused:
        await audit.append_all([{"event": "renew"}, {"event": "renew"}])
    assert refused.value.reason == "AUDIT_UNAVAILABLE"
    await audit.close()
    assert trail.read_bytes() == b""


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_together_are_the_whole_trail(trail: Path, newest_first: bool) -> None:
    """H7: a page never has more than was asked for."""
    lines = [line.decode().rstrip("\n") for line in await _written(trail, 7)]
    audit = FileAudit(trail, ManualClock(NOW))
    read: list[str] = []
    token = ""
    while True:
        page = await audit.read(newest_first=newest_first, limit=3, token=token)
        assert len(page.items) <= 3
        read += page.items
        token = page.next_token
        if not token:
            break
    await audit.close()
    assert read == (lines[::-1] if newest_first else lines)
