"""Other people's programs, started as processes of their own on free ports of loopback and ended by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST_WAIT = 60.0
"""Seconds until something that should happen counts as not happening, on a machine that is busy with other tests."""


def free_port() -> int:
    """One that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(true: Callable[[], bool], said: Callable[[], str] = lambda: "") -> None:
    """Looks again and again, in a thread so that the agent's loop goes on. Raises after a minute, with what was said."""
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            while not await asyncio.to_thread(true):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not in {LONGEST_WAIT:g} s: {said()}") from None


@dataclass(frozen=True, slots=True)
class Program:
    """A running process and what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str | Path],
    directory: Path,
    ports: Sequence[int],
    *,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """Starts it in ``directory``, waits until its ports are open, and ends it by its id."""
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    program = Program(process, log)
    try:
        await eventually(lambda: not program.runs or all(map(_listens, ports)), program.said)
        assert program.runs, program.said()
        yield program
    finally:
        if program.runs:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LONGEST_WAIT / 4)
        if program.runs:
            process.kill()
        process.wait()


def _listens(port: int) -> bool:
    """Read from the kernel's table: a probing connection would be one that the program has to judge."""
    listening = f":{port:04X}", "0A"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(listening[0]) and columns[3] == listening[1]:
                return True
    return False
