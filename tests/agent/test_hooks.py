"""Hooks: no shell, no environment, no waiting for ever; and one that failed is not forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from handfast.testing import ManualClock
from handfast_agent.config import HookConfig
from handfast_agent.hooks import LONGEST, Hooks


async def run_hooks(hooks: list[HookConfig], directory: Path) -> tuple[str, ...]:
    """Once, as after a change. Returns what failed."""
    made = Hooks(hooks, directory, clock=ManualClock(), draw=lambda: 1.0)
    await made.run()
    return made.failing


async def test_words_reach_the_program_as_they_are(tmp_path: Path) -> None:
    """E11: nothing between us and the program reads ; or $()."""
    out, evil = tmp_path / "out", f"; touch {tmp_path}/owned; $(touch {tmp_path}/owned)"
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    assert await run_hooks([HookConfig((sys.executable, "-c", code, str(out), evil))], tmp_path) == ()
    assert out.read_text() == evil
    assert not (tmp_path / "owned").exists()


async def test_the_environment_is_cleared(tmp_path: Path) -> None:
    """E11."""
    code = "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(' '.join(sorted(os.environ)))"
    await run_hooks([HookConfig((sys.executable, "-c", code, str(tmp_path / "out")))], tmp_path)
    assert set((tmp_path / "out").read_text().split()) <= {"PATH", "HANDFAST_CREDENTIALS_DIR", "LC_CTYPE"}


async def test_a_hook_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """E11: what it started ends with it."""
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    failures = await run_hooks([HookConfig(("/bin/sh", "-c", script), timeout=1)], tmp_path)
    assert failures == ("/bin/sh was ended after 1 s (attempt 1)",)
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(10):
        while lives(child):
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_failing_hook_is_named_and_the_next_one_still_runs(tmp_path: Path) -> None:
    hooks = [HookConfig(("/bin/false",)), HookConfig(("/no/such/program",)), HookConfig(("/bin/true",))]
    failures = await run_hooks(hooks, tmp_path)
    assert failures == (
        "/bin/false ended with status 1 (attempt 1)",
        "/no/such/program cannot be started: No such file or directory (attempt 1)",
    )


async def test_a_process_is_told_by_its_pid_file_and_never_a_group(tmp_path: Path) -> None:
    told: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _frame: told.append(number))
    try:
        file = tmp_path / "pid"
        file.write_text(f"{os.getpid()}\n")
        assert await run_hooks([HookConfig(pid_file=file, signal="SIGUSR1")], tmp_path) == ()
        for nobody in ("-1", "0", "1", "x"):
            file.write_text(nobody)
            assert len(await run_hooks([HookConfig(pid_file=file, signal="SIGUSR1")], tmp_path)) == 1
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert told == [signal.SIGUSR1]


class Program:
    """A hook that writes a line each time, and fails until ``ready`` is there, as a reload does before its server runs."""

    def __init__(self, home: Path, name: str = "program") -> None:
        self._told, self.ready = home / f"{name}.told", home / f"{name}.ready"
        self.hook = HookConfig(("/bin/sh", "-c", f"echo told >> {self._told}; test -e {self.ready}"))

    @property
    def told(self) -> int:
        return len(self._told.read_text().splitlines()) if self._told.exists() else 0


async def test_a_hook_that_failed_is_repeated_until_it_succeeds_and_those_that_did_not_fail_are_not(
    tmp_path: Path,
) -> None:
    """C6: a reload that failed once must not leave a server with an old list."""
    late, fine, clock = Program(tmp_path), Program(tmp_path, "fine"), ManualClock()
    fine.ready.touch()
    hooks = Hooks([late.hook, fine.hook], tmp_path, clock=clock, draw=lambda: 1.0)
    failures: list[int] = []
    hooks.on_failure = lambda: failures.append(late.told)
    await hooks.run()
    waits = []
    for _ in range(7):
        waits.append(await hooks.repeat())
        clock.advance(timedelta(seconds=waits[-1]))
    assert waits == [1, 2, 4, 8, 16, LONGEST, LONGEST]
    assert failures == [1, 2, 3, 4, 5, 6, 7]
    assert hooks.failing == ("/bin/sh ended with status 1 (attempt 7)",)
    late.ready.touch()
    assert await hooks.repeat() > LONGEST
    assert not hooks.failing
    assert (late.told, fine.told) == (8, 1)
    clock.advance(timedelta(days=1))
    await hooks.repeat()
    assert (late.told, fine.told) == (8, 1)


async def test_it_is_not_repeated_before_its_time(tmp_path: Path) -> None:
    program = Program(tmp_path)
    clock = ManualClock()
    hooks = Hooks([program.hook], tmp_path, clock=clock, draw=lambda: 0.5)
    await hooks.run()
    clock.advance(timedelta(seconds=0.25))
    assert await hooks.repeat() == 0.25
    assert program.told == 1


async def test_the_next_change_runs_all_hooks_at_once_and_begins_to_count_anew(tmp_path: Path) -> None:
    program = Program(tmp_path)
    clock = ManualClock()
    hooks = Hooks([program.hook], tmp_path, clock=clock, draw=lambda: 1.0)
    await hooks.run()
    clock.advance(timedelta(seconds=await hooks.repeat()))
    await hooks.repeat()
    assert hooks.failing == ("/bin/sh ended with status 1 (attempt 2)",)
    await hooks.run()
    assert hooks.failing == ("/bin/sh ended with status 1 (attempt 1)",)
    program.ready.touch()
    await hooks.run()
    assert not hooks.failing
    assert program.told == 4
    clock.advance(timedelta(seconds=LONGEST))
    await hooks.repeat()
    assert program.told == 4


async def test_a_hook_that_fails_for_days_is_a_line_for_each_doubling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    hooks = Hooks([HookConfig(pid_file=tmp_path / "none")], tmp_path, clock=clock, draw=lambda: 1.0)
    await hooks.run()
    for _ in range(1000):
        clock.advance(timedelta(seconds=LONGEST))
        await hooks.repeat()
    assert len([one for one in caplog.messages if one.startswith("hook failed")]) == 10
    (tmp_path / "none").write_text(str(os.getpid()))
    old = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        clock.advance(timedelta(seconds=LONGEST))
        await hooks.repeat()
    finally:
        signal.signal(signal.SIGHUP, old)
    assert caplog.messages[-1] == f"hook succeeded at last: {tmp_path}/none, attempt 1002"
