"""Reads `coverage json` on stdin and fails when fewer branches were taken than asked for, of all files together.

`coverage report --fail-under` counts lines and branches in one number; the promise is about branches.
"""

from __future__ import annotations

import json
import sys


def main(least: float) -> int:
    report = json.load(sys.stdin)
    for name, file in sorted(report["files"].items()):
        missing = file["missing_branches"]
        if missing:
            print(f"{name}: {', '.join(f'{start}->{end}' for start, end in missing)}")
    taken, known = report["totals"]["covered_branches"], report["totals"]["num_branches"]
    percent = 100 * taken / known
    print(f"{taken} of {known} branches of the core: {percent:.1f} %, at least {least:.0f} % asked for")
    return 0 if percent >= least else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
