"""``python -m tests.mutation [NAME...]``: the tests without each control in turn; prints ``killed N of N``.

Names are those in ``controls.py``, or shell patterns for them. Exit code 1 when a mutant lives, with its name: then a test
is missing. Exit code 2 when the list itself is wrong, or the tests fail already with all controls in place.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.control import Control
from tests.mutation.controls import CONTROLS
from tests.mutation.tree import Outcome, Tree

JOBS = min(2 * (os.cpu_count() or 1), 8)
"""More than cores: what a missing control lets hang waits, without work, until its test's own limit ends it."""

SHOWN = 3000
"""Characters of the output of tests that did not end as they should."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Whether the tests notice a missing control."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="controls, or patterns for them (default: all)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many mutants at a time")
    chosen = parser.parse_args(arguments)
    controls = [
        one for one in CONTROLS if not chosen.names or any(fnmatchcase(one.name, name) for name in chosen.names)
    ]
    if not controls:
        parser.error("no control has such a name")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="handfast-mutation-") as place:
        trees = [Tree(Path(place) / str(number)) for number in range(min(chosen.jobs, len(controls)))]
        if not _pass_as_they_are(trees[0], controls):
            return 2
        outcomes = _try(trees, controls)
    return _report(outcomes, time.monotonic() - began)


def _pass_as_they_are(tree: Tree, controls: Sequence[Control]) -> bool:
    tests = sorted({test for control in controls for test in control.tests})
    passed, output = tree.as_they_are(tests)
    if not passed:
        print(output[-SHOWN:], file=sys.stderr)
        print("the tests fail with all controls in place: nothing can be told from them", file=sys.stderr)
    return passed


def _try(trees: Sequence[Tree], controls: Sequence[Control]) -> list[Outcome]:
    free: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(control: Control) -> Outcome:
        tree = free.get()
        try:
            outcome = tree.try_one(control)
        finally:
            free.put(tree)
        print(f"{outcome.verdict:9} {control.name}", flush=True)
        return outcome

    with ThreadPoolExecutor(len(trees)) as threads:
        return list(threads.map(one, controls))


def _report(outcomes: Sequence[Outcome], seconds: float) -> int:
    wrong = [outcome for outcome in outcomes if outcome.verdict not in ("killed", "survived")]
    alive = [outcome for outcome in outcomes if outcome.verdict == "survived"]
    for outcome in wrong:
        print(f"\n{outcome.control.name}: {outcome.verdict}\n{outcome.output[-SHOWN:]}", file=sys.stderr)
    for outcome in alive:
        print(
            f"survived: {outcome.control.name} ({outcome.control.file}): {', '.join(outcome.control.tests)}",
            file=sys.stderr,
        )
    killed = sum(outcome.killed for outcome in outcomes)
    print(f"killed {killed} of {len(outcomes)} in {seconds:.0f} s")
    return 2 if wrong else 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
