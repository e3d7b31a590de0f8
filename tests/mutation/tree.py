"""A copy of the working tree, in which one control at a time is missing. The checkout itself is never touched."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.control import REPOSITORY, Control

PARTS = ("handfast", "ca", "agent", "tests", "examples", "docs", "pyproject.toml", "README.md")
PATIENCE = 600
"""Seconds for the tests of one mutant; a single test is ended by its own, shorter limit."""

NOTICED, UNNOTICED, NO_IMPORT = 1, 0, 100
"""How the tests end when one failed, when none did, and when the mutant is no program. Every other end is a mistake too."""

LOST = 255
"""What ``multiprocessing`` says when it did not hear how a process ended; it is begun again."""

# Every mutant has a process of its own, which begins with other people's code loaded and none of ours.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["pytest", "pytest_asyncio", "hypothesis", "cryptography.x509", "grpc.aio", "sqlalchemy"]
)


@dataclass(frozen=True, slots=True)
class Outcome:
    control: Control
    verdict: str
    """``killed``, ``survived``, or what is wrong with the list."""

    output: str = ""

    @property
    def killed(self) -> bool:
        return self.verdict == "killed"


class Tree:
    """One copy; mutants are tried in it one after the other."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._written = 0
        ignored = shutil.ignore_patterns("__pycache__", ".*", "_build", "*.egg-info", "dist", "build")
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, place / part, ignore=ignored)
            else:
                shutil.copy2(source, place / part)

    def as_they_are(self, tests: Sequence[str]) -> tuple[bool, str]:
        """Whether the tests pass with all controls in place: one that fails anyway notices nothing."""
        code, output = self._run(None, tests)
        return code == UNNOTICED, output

    def try_one(self, control: Control) -> Outcome:
        with self._without(control):
            code, output = self._run(control.file, control.tests)
        verdicts = {NOTICED: "killed", UNNOTICED: "survived", NO_IMPORT: "is no program"}
        return Outcome(control, verdicts.get(code, f"the tests ended with {code}"), output)

    @contextlib.contextmanager
    def _without(self, control: Control) -> Iterator[None]:
        file = self._place / control.file
        source = file.read_text(encoding="utf-8")
        self._write(file, control.mutated(source))
        try:
            yield
        finally:
            self._write(file, source)

    def _write(self, file: Path, source: str) -> None:
        """With a time that no compiled file beside it has: Python compares whole seconds and the size."""
        self._written += 1
        file.write_text(source, encoding="utf-8")
        moment = 1_000_000_000 + self._written
        os.utime(file, (moment, moment))

    def _run(self, file: str | None, tests: Sequence[str]) -> tuple[int | None, str]:
        log = self._place / "output"
        code: int | None = LOST
        for _attempt in range(3):
            if code == LOST:
                code = self._run_once(file, tests, log)
        return code, log.read_text(encoding="utf-8", errors="replace")

    def _run_once(self, file: str | None, tests: Sequence[str], log: Path) -> int | None:
        process = _PROCESSES.Process(target=_in_the_copy, args=(self._place, file, tuple(tests), log))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode


def _in_the_copy(place: Path, file: str | None, tests: tuple[str, ...], log: Path) -> None:
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(place)
    paths = [str(place / part) for part in ("", "ca", "agent")]
    sys.path[:0] = paths
    # CI: Hypothesis draws the same examples each time, so that a mutant that died does not live again.
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "CI": "1"}
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # what follows finds the copy's
    if file is not None and not _imports(place, file):
        sys.exit(NO_IMPORT)
    import pytest

    code = pytest.main(["-x", "-q", "--no-header", "--assert=plain", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    sys.exit(int(code))


def _imports(place: Path, file: str) -> bool:
    """Also shows that it is this copy that the tests will see, and not what is installed."""
    module = file.removeprefix("ca/").removeprefix("agent/").removesuffix(".py").replace("/", ".")
    try:
        found = importlib.import_module(module).__file__
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return False
    return found is not None and Path(found) == place / file
