"""`tests/README.md`: every promise names tests, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS / "README.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+) \| (.+) \|$", PAGE.partition("## The workspace")[2], re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@cache
def defined_in(file: str) -> frozenset[str]:
    found = ast.walk(ast.parse((TESTS / file).read_text("utf-8")))
    return frozenset(one.name for one in found if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in defined_in(file)] == []


def test_every_promise_names_what_holds_it() -> None:
    promises = [(said, held) for said, held in ROWS if said != "promise"]
    assert promises
    assert [said for said, held in promises if not NAMED.search(held) and "a figure, not a test" not in held] == []


def test_every_directory_of_tests_is_on_the_page() -> None:
    there = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.glob("*/*.py")}
    assert sorted(name for name in there if f"`{name}`" not in PAGE) == []
