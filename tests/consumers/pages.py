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
    text = (DIRECTORY / page).read_text(encoding="utf-8")
    found = [one for one in _BLOCK.findall(text) if one.partition("\n")[0].partition(" ")[2] == title]
    assert len(found) == 1, f"{page} has {len(found)} blocks that are called {title}"
    made = str(found[0])
    for old, new in changes.items():
        assert old in made, f"{title} in {page} does not say {old}"
        made = made.replace(old, new)
    return made
