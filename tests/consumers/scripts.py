"""The shell scripts of a page, as files that a test can run."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.consumers.pages import block


def script(home: Path, page: str, title: str, changes: Mapping[str, str]) -> Path:
    """Writes the script of this title into ``home``, with this test's places in it."""
    file = home / title
    file.write_text(block(page, title, changes))
    return file


async def run(file: Path, *arguments: str, words: str = "") -> subprocess.CompletedProcess[str]:
    """Runs it to its end; ``words`` is what it reads. The agent's loop goes on meanwhile."""
    command = ["/bin/sh", str(file), *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, input=words, capture_output=True, text=True, timeout=60, check=False
    )
