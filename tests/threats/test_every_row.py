"""docs/threat-model.md names, for every threat, the tests that hold it or the issue it comes with; this holds the page to that.

Rows of later issues stand in the table too, with their issue's name: Kubernetes labels (A18) and proofs (B4 to B7), what federation
would bring (D13), the flood of alerts (H8), a lease between machines (J5), rotation of roots (J11), and the part of J2 that
needs PostgreSQL. Group F is a later issue as a whole.
"""

from __future__ import annotations

from tests.threats.table import LATER, OPEN, PAGE, ROW, naming, written

LENGTHS = {"A": 20, "B": 9, "C": 9, "D": 15, "E": 11, "G": 5, "H": 8, "J": 12}
REQUIRED = {f"{group}{number}" for group, last in LENGTHS.items() for number in range(1, last + 1)}


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_row_is_in_the_table_once() -> None:
    """Whether or not a test holds it already."""
    listed = [identifier for identifier, _, _ in ROW.findall(page())]
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == REQUIRED


def test_the_table_names_every_test_that_names_a_row_and_no_other() -> None:
    """What the tests say about themselves is what the page says about them."""
    assert written(page()) == page(), "write it anew: python -m tests.threats.table"


def test_no_row_is_without_a_test_unless_a_later_issue_brings_it() -> None:
    """`no test yet` is no answer."""
    assert {identifier for identifier, _, cell in ROW.findall(page()) if OPEN in cell} == set()
    assert set(LATER) <= REQUIRED


def test_no_test_names_a_row_that_is_not_there() -> None:
    """A slip in a docstring would be a test that holds nothing. A0 is the rule above the rows of A."""
    unknown = {identifier for identifier in naming() if identifier not in REQUIRED | {"A0"}}
    assert unknown == set()
