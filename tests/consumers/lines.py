"""A client in another language as a process that is told an address in a line and answers in a line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence


class Lines:
    """One question at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def ask(self, url: str = "") -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()


@contextlib.contextmanager
def talking(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Lines]:
    """Ends with the process, which ends with its input."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    with process:
        try:
            yield Lines(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
