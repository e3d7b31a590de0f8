"""Whether rotations are felt: a hundred each of the client's leaf, the server's leaf and the trust bundle, under load.

Eight callers and four streams without a pause, client and server in one process over one tunnelled channel. Blocks with
rotations and blocks without take turns, so that what else the machine does falls on both. Five rotations a second are some
thousand times what a mesh does. New credentials are made in a thread, as an agent makes them in its own process; taking them over
happens where a service does it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio

from handfast.access import in_trust_domain
from handfast.rpc.aio_channel import AioChannel, aio_channel
from handfast.rpc.guard import AioGuard
from handfast.testing import TestAuthority
from tests.library.mesh import BOTH, UNARY, aio_server

from .report import report

SERVER = "spiffe://test.example/server"
ROTATIONS, BLOCKS = 100, 10
PAUSE, CALM = 0.2, 2.0
"""Seconds between two rotations, and of a block without."""
CALLERS, STREAMS = 8, 4


async def main() -> None:
    authority = TestAuthority()
    server, web = authority.source("/server"), authority.source("/web")
    turns: list[Callable[[], None]] = [
        lambda: authority.rotate(web),
        lambda: authority.rotate(server),
        lambda: other_bundle(authority),
    ]
    guard = AioGuard(server, in_trust_domain("test.example"))
    async with aio_server(server, guard) as (target, _), aio_channel(web, target, server=SERVER) as channel:
        load = _Load(channel)
        tasks = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
        tasks += [asyncio.create_task(load.talk()) for _ in range(STREAMS)]
        await asyncio.sleep(1)
        calm, busy = await blocks(load, turns)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    report(f"rotation: {ROTATIONS} of client, server and bundle (baseline: the blocks without)", rows(load, calm, busy))


def other_bundle(authority: TestAuthority) -> None:
    """A second root comes or goes, as in a rotation of roots."""
    second = () if len(authority.bundle.roots) > 1 else (OTHER.root,)
    authority.set_roots((authority.root, *second), (authority.issuer,))


OTHER = TestAuthority()
Block = tuple[list[float], float]
"""What each call took, and how long the block was: seconds."""


async def blocks(load: _Load, turns: list[Callable[[], None]]) -> tuple[Block, Block]:
    calm: Block = ([], 0.0)
    busy: Block = ([], 0.0)
    for _ in range(BLOCKS):
        load.taken()
        await asyncio.sleep(CALM)
        calm = (calm[0] + load.taken(), calm[1] + CALM)
        began = time.perf_counter()
        for number in range(ROTATIONS * len(turns) // BLOCKS):
            await asyncio.to_thread(turns[number % len(turns)])
            await asyncio.sleep(PAUSE)
        busy = (busy[0] + load.taken(), busy[1] + time.perf_counter() - began)
    return calm, busy


def rows(load: _Load, calm: Block, busy: Block) -> list[dict[str, Any]]:
    rate_calm, rate_busy = (len(taken) / seconds for taken, seconds in (calm, busy))
    p99_calm, p99_busy = (statistics.quantiles(taken, n=100)[98] * 1e3 for taken, _ in (calm, busy))
    median_calm, median_busy = (statistics.median(taken) * 1e3 for taken, _ in (calm, busy))
    failed = load.failed_calls, load.failed_streams
    return [
        {"what": "calls", "value": rate_busy, "unit": "calls/s", "baseline": rate_calm, "ratio": rate_busy / rate_calm},
        {"what": "failed calls", "value": failed[0], "unit": f"of {len(calm[0]) + len(busy[0]):,}", "goal": "0", "met": not failed[0]},
        {"what": "failed streams", "value": failed[1], "unit": f"of {load.streams:,}", "goal": "0", "met": not failed[1]},
        {"what": "median of a call", "value": median_busy, "unit": "ms", "baseline": median_calm, "ratio": median_busy / median_calm},
        {"what": "p99 of a call", "value": p99_busy, "unit": "ms", "baseline": p99_calm, "ratio": p99_busy / p99_calm,
         "goal": "at most 2", "met": p99_busy <= 2 * p99_calm},
    ]  # fmt: skip


class _Load:
    """Calls and streams without a pause, what each call took, and what failed."""

    def __init__(self, channel: AioChannel) -> None:
        self._unary = channel.unary_unary(UNARY)
        self._chat = channel.stream_stream(BOTH)
        self.seconds: list[float] = []
        self.failed_calls = self.failed_streams = self.streams = 0

    def taken(self) -> list[float]:
        taken, self.seconds = self.seconds, []
        return taken

    async def call(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                await self._unary(b"x", timeout=20)
            except grpc.aio.AioRpcError:
                self.failed_calls += 1
            self.seconds.append(time.perf_counter() - began)

    async def talk(self) -> None:
        """Streams that last half a second each, so that many run across a rotation."""

        async def words() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"word"
                await asyncio.sleep(0.01)

        while True:
            self.streams += 1
            try:
                answers = [answer async for answer in self._chat(words())]
                self.failed_streams += len(answers) != 50
            except grpc.aio.AioRpcError:
                self.failed_streams += 1


if __name__ == "__main__":
    asyncio.run(main())
