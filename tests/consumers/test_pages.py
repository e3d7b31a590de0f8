"""The pages and the tests hold each other: nothing is shown that is not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.consumers.pages import DIRECTORY, titles

HERE = Path(__file__).parent
PAGES = sorted(path.name for path in DIRECTORY.glob("*.md") if path.name != "index.md")


def test_the_table_and_the_contents_name_every_page() -> None:
    index = (DIRECTORY / "index.md").read_text(encoding="utf-8")
    contents = re.findall(r"^([a-z]+)$", index.partition("```{toctree}")[2], re.MULTILINE)
    assert sorted(f"{name}.md" for name in contents) == PAGES
    assert {name for name in PAGES if f"]({name})" not in index} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_run_by_the_tests_that_it_names(page: str) -> None:
    text = (DIRECTORY / page).read_text(encoding="utf-8")
    named = re.findall(r"`tests/consumers/(test_\w+\.py)`", text)
    assert named != []
    # Names that differ only in their end are made from a pattern: of a title the stem of its file is looked for.
    code = "".join((HERE / file).read_text(encoding="utf-8") for file in named)
    assert titles(page) != []
    assert [title for title in titles(page) if title not in code and Path(title).stem not in code] == []
