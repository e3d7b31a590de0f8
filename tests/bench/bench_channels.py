"""What the tunnel costs over a plain mTLS channel, and whether a hundred rotations are felt.

Server and clients live in one process and on one loop, so figures hold for both ends together; that is the same for both
sides of every ratio. Both channels speak mutual TLS 1.3 to the same guarded server.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from handfast.access import in_trust_domain
from handfast.rpc.aio_channel import AioChannel, aio_channel, aio_plain_channel
from handfast.rpc.guard import AioGuard
from handfast.sources import StaticSource
from handfast.testing import TestAuthority
from tests.library.mesh import BOTH, UNARY, aio_server

from .report import report

SERVER = "spiffe://test.example/server"
CALLS, ROUNDS, IN_FLIGHT = 400, 7, 32
ROTATIONS = 100
CALLERS, STREAMS = 8, 4


async def main() -> None:
    authority = TestAuthority()
    source, web = authority.source("/server"), authority.source("/web")
    async with aio_server(source, AioGuard(source, in_trust_domain("test.example"))) as (target, _):
        async with aio_plain_channel(web, target) as plain, aio_channel(web, target, server=SERVER) as tunnel:
            report("tunnel (baseline: plain mTLS channel)", await cost(plain, tunnel))
        async with aio_channel(web, target, server=SERVER) as opened:
            report("rotation (ratio: p99 during rotations against without)", await felt(opened, authority, web, source))


async def cost(plain: AioChannel, tunnel: AioChannel) -> list[dict[str, Any]]:
    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        one.append((await alone(plain), await alone(tunnel)))
        many.append((await together(plain), await together(tunnel)))
    alone_plain, alone_tunnel = (statistics.median(side) for side in zip(*one, strict=True))
    rate_plain, rate_tunnel = (statistics.median(side) for side in zip(*many, strict=True))
    added = alone_tunnel - alone_plain
    return [
        {
            "what": "one call in flight",
            "value": alone_tunnel,
            "unit": "ms a call",
            "baseline": alone_plain,
            "ratio": alone_tunnel / alone_plain,
            "goal": "adds under 0.15 ms",
            "met": added < 0.15,
        },
        {
            "what": f"{IN_FLIGHT} calls in flight",
            "value": rate_tunnel,
            "unit": "calls/s",
            "baseline": rate_plain,
            "ratio": rate_tunnel / rate_plain,
            "goal": "at least 0.9",
            "met": rate_tunnel >= 0.9 * rate_plain,
        },
    ]


async def alone(channel: AioChannel) -> float:
    """Milliseconds for a call when there is no other."""
    call = channel.unary_unary(UNARY)
    await call(b"x")
    began = time.perf_counter()
    for _ in range(CALLS):
        await call(b"x")
    return (time.perf_counter() - began) / CALLS * 1e3


async def together(channel: AioChannel) -> float:
    """Calls a second with many in flight."""
    call = channel.unary_unary(UNARY)

    async def worker() -> None:
        for _ in range(CALLS // 8):
            await call(b"x")

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return IN_FLIGHT * (CALLS // 8) / (time.perf_counter() - began)


async def felt(
    channel: AioChannel, authority: TestAuthority, web: StaticSource, server: StaticSource
) -> list[dict[str, Any]]:
    load = _Load(channel)
    tasks = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
    tasks += [asyncio.create_task(load.talk()) for _ in range(STREAMS)]
    await asyncio.sleep(1)
    load.seconds.clear()
    began = time.perf_counter()
    await asyncio.sleep(8)
    calm, calm_seconds = load.taken(), time.perf_counter() - began
    began = time.perf_counter()
    for turn in range(ROTATIONS):
        authority.rotate(server if turn % 3 == 1 else web)
        if turn % 3 == 2:
            authority.refresh_list()
        await asyncio.sleep(0.08)
    busy, busy_seconds = load.taken(), time.perf_counter() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    p99_calm, p99_busy = (statistics.quantiles(side, n=100)[98] * 1e3 for side in (calm, busy))
    return [
        {"what": f"calls during {ROTATIONS} rotations", "value": len(busy) / busy_seconds, "unit": "calls/s",
         "baseline": len(calm) / calm_seconds, "ratio": len(busy) / busy_seconds / (len(calm) / calm_seconds)},
        {"what": "failed calls", "value": load.failed_calls, "unit": "calls", "goal": "0", "met": not load.failed_calls},
        {"what": "failed streams", "value": load.failed_streams, "unit": "streams", "goal": "0",
         "met": not load.failed_streams},
        {"what": "p99 of a call", "value": p99_busy, "unit": "ms", "baseline": p99_calm, "ratio": p99_busy / p99_calm,
         "goal": "at most 2", "met": p99_busy <= 2 * p99_calm},
    ]  # fmt: skip


class _Load:
    """Calls and streams without a pause, what each call took, and what failed."""

    def __init__(self, channel: AioChannel) -> None:
        self._unary = channel.unary_unary(UNARY)
        self._chat = channel.stream_stream(BOTH)
        self.seconds: list[float] = []
        self.failed_calls = self.failed_streams = 0

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
            try:
                answers = [answer async for answer in self._chat(words())]
                self.failed_streams += len(answers) != 50
            except grpc.aio.AioRpcError:
                self.failed_streams += 1


if __name__ == "__main__":
    asyncio.run(main())
