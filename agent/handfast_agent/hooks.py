"""What happens when the files changed: a program is run, or a process is told. Never through a shell (threat E11)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from handfast_agent.config import HookConfig

__all__ = ["run_hooks"]

_log = logging.getLogger(__name__)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def run_hooks(hooks: Sequence[HookConfig], directory: Path) -> tuple[str, ...]:
    """Runs all of them, one after another, and returns a sentence for each that failed. Never raises for a hook's fault."""
    failures = [await _run(hook, directory) for hook in hooks]
    for failure in failures:
        if failure:
            _log.warning("hook failed: %s", failure)
    return tuple(failure for failure in failures if failure)


async def _run(hook: HookConfig, directory: Path) -> str:
    if hook.pid_file is not None:
        return _tell(hook.pid_file, signal.Signals[hook.signal])
    return await _start(hook, directory)


def _tell(pid_file: Path, number: signal.Signals) -> str:
    """1 and negative numbers would reach init or whole groups of processes."""
    try:
        pid = int(pid_file.read_text().strip())
        if pid <= 1:
            return f"{pid_file} holds {pid}, which is no process to signal"
        os.kill(pid, number)
    except (OSError, ValueError) as error:
        return f"process of {pid_file} cannot be signalled: {error}"
    return ""


async def _start(hook: HookConfig, directory: Path) -> str:
    environment = {"PATH": _PATH, "HANDFAST_CREDENTIALS_DIR": str(directory)}
    try:
        process = await asyncio.create_subprocess_exec(
            *hook.command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"{hook.command[0]} cannot be started: {error.strerror}"
    try:
        status = await asyncio.wait_for(process.wait(), hook.timeout)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return f"{hook.command[0]} was ended after {hook.timeout:g} s"
    return "" if status == 0 else f"{hook.command[0]} ended with status {status}"
