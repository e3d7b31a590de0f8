"""What happens when the files changed: a program is run, or a process is told. Never through a shell (threat E11).

A program that was not told goes on with the list that it has, and a revocation bites nobody there: so a hook that fails is
repeated until it succeeds, or until the next change, which runs all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from handfast.clock import Clock
from handfast_agent import backoff
from handfast_agent.config import HookConfig

__all__ = ["LONGEST", "Hooks"]

_log = logging.getLogger(__name__)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


LONGEST = 30.0
"""Seconds between two attempts of a hook that goes on failing, at most; the first is repeated within one."""
_NOTHING_TO_DO = 3600.0


@dataclass(frozen=True, slots=True)
class _Failing:
    """``again_at`` is monotonic."""

    sentence: str
    attempts: int
    again_at: float


class Hooks:
    """All hooks of an agent. Used from one event loop; no two of them run at the same time.

    ``on_failure`` is called after each attempt that failed: :meth:`repeat` then has something to do.
    """

    def __init__(
        self, hooks: Sequence[HookConfig], directory: Path, *, clock: Clock, draw: Callable[[], float]
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self._hooks = tuple(hooks)
        self._directory = directory
        self._clock = clock
        self._draw = draw
        self._failing: dict[int, _Failing] = {}
        self._running = asyncio.Lock()

    @property
    def failing(self) -> tuple[str, ...]:
        """A sentence for each hook whose last attempt failed, with how often that was since the last change. Safe to ask
        from another thread.
        """
        return tuple(f"{one.sentence} (attempt {one.attempts})" for one in tuple(self._failing.values()))

    async def run(self) -> None:
        """After a change: runs all, one after another. Never raises for a hook's fault."""
        async with self._running:
            for index in range(len(self._hooks)):
                await self._attempt(index, 1)

    async def repeat(self) -> float:
        """Runs again what failed and is due. Returns the seconds until it wants to be called again.

        A change need not wait for more than the one hook that is running (its ``timeout``, at most).
        """
        for index in range(len(self._hooks)):
            async with self._running:
                failing = self._failing.get(index)
                if failing is not None and self._clock.monotonic() >= failing.again_at:
                    await self._attempt(index, failing.attempts + 1)
        due = min((failing.again_at for failing in self._failing.values()), default=None)
        return _NOTHING_TO_DO if due is None else max(due - self._clock.monotonic(), 0.0)

    async def _attempt(self, index: int, number: int) -> None:
        sentence = await _run(self._hooks[index], self._directory)
        if not sentence:
            if self._failing.pop(index, None) is not None:
                _log.warning("hook succeeded at last: %s, attempt %d", self._hooks[index].subject, number)
            return
        wait = backoff.jittered(number, LONGEST, self._draw())
        self._failing[index] = _Failing(sentence, number, self._clock.monotonic() + wait)
        if _is_power_of_two(number):
            _log.warning("hook failed: %s (attempt %d); it is repeated until it succeeds", sentence, number)
        self.on_failure()


def _is_power_of_two(number: int) -> bool:
    """Which attempts are worth a line: a hook may fail for days."""
    return number & (number - 1) == 0


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
