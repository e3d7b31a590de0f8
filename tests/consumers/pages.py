"""The pages of docs/consumers are where the configurations stand: a test runs what a reader would copy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / "docs" / "consumers"
_BLOCK = re.compile(r"^```[a-z]+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(page: str, title: str, changes: Mapping[str, str]) -> str:
    """The code block of a page whose first line is a comment with this title.

    ``changes`` puts this test's directories and ports in place of the page's; each of them must be there.
    """
    found = [text for text in _blocks(page) if _title(text) == title]
    assert len(found) == 1, f"{page} has {len(found)} blocks that are called {title}"
    made = found[0]
    for old, new in changes.items():
        assert old in made, f"{title} in {page} does not say {old}"
        made = made.replace(old, new)
    return made


def titles(page: str) -> list[str]:
    """What the code blocks of a page are called."""
    return [_title(text) for text in _blocks(page)]


def _blocks(page: str) -> list[str]:
    return [str(text) for text in _BLOCK.findall((DIRECTORY / page).read_text(encoding="utf-8"))]


def _title(text: str) -> str:
    return text.partition("\n")[0].partition(" ")[2]
