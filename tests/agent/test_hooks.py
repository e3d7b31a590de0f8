"""Hooks: no shell, no environment, no waiting for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil

from handfast_agent.config import HookConfig
from handfast_agent.hooks import run_hooks


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
    assert failures == ("/bin/sh was ended after 1 s",)
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
        "/bin/false ended with status 1",
        "/no/such/program cannot be started: No such file or directory",
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
