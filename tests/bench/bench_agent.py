"""Start of an agent process to its first certificate beside a local CA, and its memory.

The first run is not counted: it compiles, as an installer does. Without the bytecode an agent starts three times slower and
keeps 2 MiB more.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from handfast.testing import TestAuthority
from tests.agent.running import COMMAND, configuration
from tests.bench.report import report
from tests.peers.authority import TOKEN, PeerAuthority, running

RUNS = 10
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


async def one_run(peer: PeerAuthority) -> tuple[float, float]:
    """Milliseconds to the first certificate, MiB of RSS a second after it."""
    peer.tokens[TOKEN] = "spiffe://test.example/web"
    with tempfile.TemporaryDirectory() as directory:
        file = configuration(Path(directory), peer)
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "agent", "run", "--config", str(file), stderr=asyncio.subprocess.DEVNULL, env=ENVIRONMENT
        )
        try:
            async with asyncio.timeout(20):
                while not (Path(directory) / "out" / "tls.key").exists():  # files give no event
                    await asyncio.sleep(0.001)
            elapsed = (time.perf_counter() - started) * 1000
            await asyncio.sleep(1)
            return elapsed, psutil.Process(process.pid).memory_info().rss / 2**20
        finally:
            process.terminate()
            await process.wait()


async def main() -> None:
    async with running(PeerAuthority(TestAuthority())) as peer:
        await one_run(peer)
        runs = [await one_run(peer) for _ in range(RUNS)]
    start, memory = zip(*runs, strict=True)
    slowest, median, rss = max(start), statistics.median(start), statistics.median(memory)
    report(
        "agent",
        [
            {
                "what": f"start to first certificate, median of {RUNS}",
                "value": median,
                "unit": "ms",
                "goal": "< 300 ms",
                "met": median < 300,
            },
            {"what": f"start to first certificate, slowest of {RUNS}", "value": slowest, "unit": "ms"},
            {"what": "RSS a second later, median", "value": rss, "unit": "MiB", "goal": "< 60 MiB", "met": rss < 60},
        ],
    )


if __name__ == "__main__":
    asyncio.run(main())
