"""The third column of docs/threat-model.md, made from what the tests say about themselves.

``python -m tests.threats.table`` writes it anew. Which rows there are, and what can go wrong in each, is the page's own.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "threat-model.md"
ROW = re.compile(r"^\| ([A-J]\d+) \| ([^|]+) \| (.+) \|$", re.MULTILINE)
IDENTIFIER = re.compile(r"\b[A-J]\d{1,2}\b")
OPEN = "no test yet"

KEYS = "comes with the issue *The keys and issuers people already have: Vault PKI, AWS Private CA, HSM; and rotation of issuing CA and root*"
KUBERNETES = "comes with the issue *Kubernetes: a mesh by `kubectl apply -k`, for pods that trust nobody*"
ASKING = "comes with the issue *Who may ask: operators, robots, tokens, webhooks, and knowing when somebody tries*"
LATER = {
    "A18": f"labels and annotations as names: {KUBERNETES}",
    **{f"B{number}": KUBERNETES for number in range(4, 8)},
    "D11": f"a root that was trusted leaves the bundle only when it is tainted: {KEYS}",
    "D13": "that CA, agents and guards take the bundles of other trust domains (federation) belongs to no issue yet: they know one",
    "H8": f"alerts: {ASKING}",
    "J2": "a database that is another machine: comes with PostgreSQL, behind the same port",
    "J5": "a lease that passes from one machine to another, and its fence: comes with PostgreSQL; until then one process holds the ledger",
    "J11": KEYS,
}
"""What no test of this part holds, or not wholly, in words: where it comes from."""


def naming() -> dict[str, list[str]]:
    """For each id, the tests whose docstrings name it, as ``file::name``, in the order of files and lines."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted((REPOSITORY / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for identifier in dict.fromkeys(IDENTIFIER.findall(ast.get_docstring(node) or "")):
                    found[identifier].append(f"{file.relative_to(REPOSITORY)}::{node.name}")
    return found


def cell(identifier: str, tests: list[str]) -> str:
    words = [f"`{test}`" for test in tests] + ([LATER[identifier]] if identifier in LATER else [])
    return "<br>".join(words) or OPEN


def written(page: str) -> str:
    """The page with its third column made anew."""
    tests = naming()
    return ROW.sub(lambda row: f"| {row[1]} | {row[2]} | {cell(row[1], tests[row[1]])} |", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
