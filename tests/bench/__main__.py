"""Runs every ``bench_*.py`` beside this file, each in a process of its own: ``python -m tests.bench [NAME…] [--json]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    names = {argument for argument in sys.argv[1:] if not argument.startswith("--")}
    options = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    found = [path.stem for path in sorted(HERE.glob("bench_*.py"))]
    chosen = [name for name in found if not names or name in names or name.removeprefix("bench_") in names]
    failed = [
        name
        for name in chosen
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *options], check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
