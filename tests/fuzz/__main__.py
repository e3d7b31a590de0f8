"""``python -m tests.fuzz [NAME...]``: each parser under atheris, a minute each, as many at a time as there are cores.

Exit code 1 when one of them ended in another way than its property says: what it was given is printed, and belongs as an
``@example`` into ``tests/parsers``. Where there is no atheris, Hypothesis draws a hundred times as many examples instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.harnesses import HARNESSES

REPOSITORY = Path(__file__).parents[2]
LONGEST = 8192
"""Octets; the parsers have their own bounds, and tests for them."""


def main(arguments: list[str]) -> int:
    names = [harness.name for harness in HARNESSES]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feeds each parser for a while.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each of them")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        return _hypothesis_alone()
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        sound = list(threads.map(lambda name: _fuzz(name, chosen.seconds), chosen.names or names))
    print(f"sound {sum(sound)} of {len(sound)}, {chosen.seconds} s each")
    return 0 if all(sound) else 1


def _fuzz(name: str, seconds: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="handfast-fuzz-") as place:
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            "-timeout=25",
            f"-artifact_prefix={place}/found-",
        ]
        command = [sys.executable, "-m", "tests.fuzz.one", name, str(corpus), *options]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", check=False)
        found = [file.read_bytes() for file in Path(place).glob("found-*")]
    said = done.stdout + done.stderr
    runs = next((line for line in reversed(said.splitlines()) if line.startswith("Done ")), "")
    print(f"{name}: {runs or f'ended with {done.returncode}'}", flush=True)
    if done.returncode != 0:
        print(said[-4000:], *(f"{name}: @example({data!r})" for data in found), sep="\n", file=sys.stderr)
    return done.returncode == 0


def _hypothesis_alone() -> int:
    print("there is no atheris for this Python or machine: Hypothesis alone, with its long profile", file=sys.stderr)
    command = [sys.executable, "-m", "pytest", "--hypothesis-profile=long", "--timeout=0", "tests/parsers"]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
