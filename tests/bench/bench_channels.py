"""What the tunnel costs over a plain mTLS channel.

Server and clients live in one process and on one loop, so figures hold for both ends together; that is the same for both
sides of every ratio. Both channels speak mutual TLS 1.3 to the same guarded server, by turns; each figure is the median of the
rounds, each ratio the median of the rounds' ratios, since other work on the machine comes and goes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from handfast.access import in_trust_domain
from handfast.rpc.aio_channel import AioChannel, aio_channel, aio_plain_channel
from handfast.rpc.guard import AioGuard
from handfast.testing import TestAuthority
from tests.library.mesh import UNARY, aio_server

from .report import report

SERVER = "spiffe://test.example/server"
CALLS, ROUNDS, IN_FLIGHT = 400, 15, 32


async def main() -> None:
    authority = TestAuthority()
    source, web = authority.source("/server"), authority.source("/web")
    async with (
        aio_server(source, AioGuard(source, in_trust_domain("test.example"))) as (target, _),
        aio_plain_channel(web, target) as plain,
        aio_channel(web, target, server=SERVER) as tunnel,
    ):
        report(f"tunnel, medians of {ROUNDS} rounds (baseline: plain mTLS channel)", await cost(plain, tunnel))


async def cost(plain: AioChannel, tunnel: AioChannel) -> list[dict[str, Any]]:
    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        one.append((await alone(plain), await alone(tunnel)))
        (plain_rate, plain_cpu), (tunnel_rate, tunnel_cpu) = await together(plain), await together(tunnel)
        many.append((plain_rate, tunnel_rate))
        cpu.append((plain_cpu, tunnel_cpu))
    added = statistics.median(behind - before for before, behind in one)
    rate = compared(f"{IN_FLIGHT} calls in flight", many, "calls/s")
    return [
        compared("one call in flight", one, "ms a call"),
        {
            "what": "the tunnel adds, one in flight",
            "value": added,
            "unit": "ms a call",
            "goal": "under 0.15 ms",
            "met": added < 0.15,
        },
        rate | {"goal": "at least 0.9", "met": rate["ratio"] >= 0.9},
        compared(f"CPU of both ends, {IN_FLIGHT} in flight", cpu, "µs a call"),
    ]


def compared(what: str, pairs: list[tuple[float, float]], unit: str) -> dict[str, Any]:
    baseline, value = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(behind / before for before, behind in pairs)
    return {"what": what, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


async def alone(channel: AioChannel) -> float:
    """Milliseconds for a call when there is no other."""
    call = channel.unary_unary(UNARY)
    await call(b"x")
    began = time.perf_counter()
    for _ in range(CALLS):
        await call(b"x")
    return (time.perf_counter() - began) / CALLS * 1e3


async def together(channel: AioChannel) -> tuple[float, float]:
    """Calls a second with many in flight, and microseconds of CPU for each."""
    call = channel.unary_unary(UNARY)

    async def worker() -> None:
        for _ in range(CALLS // 8):
            await call(b"x")

    count = IN_FLIGHT * (CALLS // 8)
    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - began), (time.process_time() - used) / count * 1e6


if __name__ == "__main__":
    asyncio.run(main())
