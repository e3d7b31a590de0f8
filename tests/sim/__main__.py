"""``python -m tests.sim SEED``: one run, with its timeline. ``python -m tests.sim SEED:SEED``: many, with those that fail."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from tests.sim.faults import FAULTS, Faults
from tests.sim.loop import Process
from tests.sim.run import Outcome, Size, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seeds", help="a seed, or FIRST:END, the end not among them")
    parser.add_argument("--size", type=Size.parse, metavar="AGENTS,LIVES,GAP", help="instead of the seed's own size")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="with this fault switched on")
    parser.add_argument("--logs", action="store_true", help="with what agents and CA log, on stderr")
    wanted = parser.parse_args()
    if wanted.logs:
        _show_logs()
    first, _, end = wanted.seeds.partition(":")
    faults = FAULTS[wanted.fault] if wanted.fault else Faults()
    failed = 0
    for seed in range(int(first), int(end or int(first) + 1)):
        outcome = simulate(seed, size=wanted.size, faults=faults, logs=wanted.logs)
        failed += bool(outcome.broken)
        _tell(outcome, whole=not end)
    return min(failed, 1)


def _show_logs() -> None:
    """Each line with the virtual time and the process it comes from."""

    def stamp(record: logging.LogRecord) -> bool:
        process = Process.current()
        record.who = process.name if process else "-"
        record.at = asyncio.get_running_loop().time()
        return True

    handler = logging.StreamHandler()
    handler.addFilter(stamp)
    handler.setFormatter(logging.Formatter("[%(at)10.3f] %(who)-10s log: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _tell(outcome: Outcome, *, whole: bool) -> None:
    if whole or outcome.broken:
        print(outcome.story(0 if whole else 60))
    print(
        f"seed {outcome.seed}: {outcome.broken or 'every promise held'}; {outcome.size.agents} agents, "
        f"{outcome.seconds:.0f} s, {outcome.certificates} certificates, {outcome.revocations} revocations, "
        f"{outcome.accepted} accepted, {sum(outcome.refused.values())} refused",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
