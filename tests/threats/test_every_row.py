"""docs/threat-model.md names, for every threat of this part, the tests that hold it; this reads the table and checks it."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "threat-model.md"
ROW = re.compile(r"^\| ([A-J]\d+) \| [^|]+ \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
OPEN = "no test yet"
LENGTHS = {"A": 20, "C": 9, "E": 11, "G": 5, "H": 8}
REQUIRED = {f"{group}{number}" for group, last in LENGTHS.items() for number in range(1, last + 1)}
REQUIRED |= {
    "B1",
    "B2",
    "B3",
    "B8",
    "B9",
    "D1",
    "D2",
    "D3",
    "D4",
    "D5",
    "D6",
    "D7",
    "D11",
    "D12",
    "J1",
    "J2",
    "J3",
    "J4",
    "J5",
    "J6",
    "J7",
    "J8",
    "J9",
    "J10",
}


def rows() -> dict[str, str]:
    """The table of the page: the id of a threat, and the cell that names its tests."""
    return dict(ROW.findall(PAGE.read_text(encoding="utf-8")))


def docstring(file: str, name: str) -> str:
    """What the named test says about itself; empty when there is no such test."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((ast.get_docstring(node) or "" for node in functions if node.name == name), "")


def test_every_required_row_is_in_the_table() -> None:
    """Each row of this part is listed, once, whether or not a test holds it already."""
    listed = [identifier for identifier, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    assert sorted(listed) == sorted(set(listed))
    assert REQUIRED - set(listed) == set()


def test_every_named_test_exists_and_names_its_row() -> None:
    """A row names tests whose docstrings name the row, or says that there is none yet."""
    for identifier, cell in rows().items():
        tests = TEST.findall(cell)
        assert tests or cell == OPEN, identifier
        for file, name in tests:
            assert re.search(rf"\b{identifier}\b", docstring(file, name)), f"{identifier}: {file}::{name}"
