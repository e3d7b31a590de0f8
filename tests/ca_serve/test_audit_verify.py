"""`handfast audit verify` over the trail of a CA that ran: what somebody did to the file is found and named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.ca_serve.process import RunningServe, handfast

pytestmark = pytest.mark.timeout(90)
Lines = list[bytes]


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a CA that decided some things and was stopped."""
    ca = RunningServe.initialised(tmp_path_factory.mktemp("audited") / "ca")
    with ca:
        for number in range(4):
            ca.handfast("entry", "add", f"spiffe://test.example/web{number}").check()
        assert (
            handfast("audit", "verify", ca.directory / "state" / "audit.jsonl").code == 0
        )  # beside the one who writes
        assert ca.stop() == 0
    return ca.directory / "state" / "audit.jsonl"


@pytest.fixture
def copy(trail: Path, tmp_path: Path) -> Path:
    for name in (trail.name, f"{trail.name}.head"):
        shutil.copy2(trail.with_name(name), tmp_path / name)
    return tmp_path / trail.name


def test_an_untouched_trail_is_whole(copy: Path) -> None:
    """G3."""
    report = handfast("audit", "verify", copy, "-o", "json").check().json()
    assert (report["intact"], report["problems"]) == (True, [])
    assert report["records"] == len(copy.read_bytes().splitlines())
    assert handfast("audit", "verify", copy, "-o", "name").check().out.strip() == report["head"]["hash"]


def test_a_trail_that_is_gone_is_missed(copy: Path) -> None:
    """G3."""
    copy.unlink()
    verified = handfast("audit", "verify", copy)
    assert (verified.code, "was moved or removed" in verified.err) == (1, True), verified.err


CHANGES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "a name in a line": (lambda lines: [line.replace(b"web1", b"web9") for line in lines], "CHANGED"),
    "a time in a line": (lambda lines: [lines[0].replace(b"T", b"U", 1), *lines[1:]], "CHANGED"),
    "a line is gone": (lambda lines: [*lines[:3], *lines[4:]], "REMOVED"),
    "the first line is gone": (lambda lines: lines[1:], "REMOVED"),
    "two lines changed places": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "MOVED"),
    "a line stands twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "MOVED"),
    "the last line is gone": (lambda lines: lines[:-1], "CUT_OFF"),
    "nothing is left": (lambda _lines: [], "CUT_OFF"),
    "a line of another kind": (lambda lines: [*lines[:2], b"hello\n", *lines[2:]], "CHANGED"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_did_to_it_is_named_and_ends_with_1(copy: Path, change: str) -> None:
    """G3: with the line, the reason, and what to do."""
    alter, reason = CHANGES[change]
    before = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(alter(before)))
    assert copy.read_bytes() != b"".join(before)
    found = handfast("audit", "verify", copy, "-o", "json")
    assert found.code == 1
    assert reason in {problem["reason"] for problem in json.loads(found.out)["problems"]}
    shown = handfast("audit", "verify", copy)
    assert shown.code == 1
    assert f"× {reason}: " in shown.out
    assert "hint: compare with the copy that your log collector keeps" in shown.out


def test_without_the_head_file_it_says_what_it_can_no_longer_see(copy: Path) -> None:
    """G3: a tail cut off together with the head file is what another memory is for."""
    copy.with_name(f"{copy.name}.head").unlink()
    done = handfast("audit", "verify", copy)
    assert done.code == 1
    assert "× HEAD_MISSING" in done.out


def test_a_line_that_was_being_written_is_a_warning(copy: Path) -> None:
    """J1: a crash may leave one, and it was never acknowledged."""
    with copy.open("ab") as file:
        file.write(b'{"seq":')
    done = handfast("audit", "verify", copy).check()
    assert "‼ last line: unfinished" in done.out


@pytest.mark.parametrize("memory", ["the ledger", "an older report"])
def test_a_tail_that_went_together_with_its_head_is_missed_by_whoever_remembers_it(
    copy: Path, trail: Path, memory: str
) -> None:
    """G3: the head file is written anew by the forger; the ledger, or a person, still knows."""
    lines = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[:3]))
    head = {"seq": 3, "hash": json.loads(lines[2])["hash"]}
    copy.with_name(f"{copy.name}.head").write_text(json.dumps(head))
    handfast("audit", "verify", copy).check()
    if memory == "the ledger":
        shutil.copy2(trail.with_name("ledger.db"), copy.with_name("ledger.db"))
        with closing(sqlite3.connect(copy.with_name("ledger.db"))) as ledger, ledger:
            ledger.execute("INSERT OR REPLACE INTO marks VALUES ('audit', ?)", (len(lines),))
        words: list[str] = []
    else:
        words = ["--at-least", str(len(lines))]
    done = handfast("audit", "verify", copy, *words)
    assert done.code == 1
    assert f"× CUT_OFF: records 4 to {len(lines)} are missing at the end" in done.out
