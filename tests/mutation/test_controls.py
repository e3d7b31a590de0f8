"""Keeps the list of controls alive while the code changes; the run itself is ``python -m tests.mutation``."""

from __future__ import annotations

from collections import Counter

from tests.mutation.control import REPOSITORY, missing
from tests.mutation.controls import CONTROLS
from tests.threats.table import LATER, PAGE, ROW

WITHOUT = {
    "B9": "no header is read that says who calls; there is nothing to take away",
    "J6": "order is that of the ledger's own rows: no clock is asked, so there is no check to take away",
    "E10": "that no descriptor is left behind is no check",
}
"""Rows that no control of the list holds, and why."""


def test_every_control_stands_once_in_its_file_and_without_it_there_is_still_a_program() -> None:
    for one in CONTROLS:
        assert one.old != one.new
        one.mutated((REPOSITORY / one.file).read_text(encoding="utf-8"))


def test_every_test_that_is_expected_to_notice_is_there() -> None:
    assert {one.name for one in CONTROLS if not one.tests} == set()
    assert {test for one in CONTROLS for test in one.tests if missing(test)} == set()


def test_a_test_that_is_not_there_is_missed() -> None:
    """The control of the test above: classes, what they inherit, and state machines."""
    assert missing("tests/ca/test_parts.py::test_no_such_thing")
    assert missing("tests/ca/test_parts.py")
    assert missing("tests/ca/test_ledger_sqlite.py::TestSqliteLedger::test_no_such_thing")
    assert not missing("tests/ca/test_ledger_sqlite.py::TestSqliteLedger::test_marks_only_rise")
    assert not missing("tests/ca/test_ledger_stateful.py::TestLedgers")


def test_every_name_is_one_control() -> None:
    assert [name for name, count in Counter(one.name for one in CONTROLS).items() if count > 1] == []


def test_every_row_of_the_threats_has_a_control_unless_it_is_said_why_not() -> None:
    rows = {identifier for identifier, _, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    held = {threat for one in CONTROLS for threat in one.threats}
    assert held <= rows
    assert rows - held - LATER.keys() == WITHOUT.keys()
