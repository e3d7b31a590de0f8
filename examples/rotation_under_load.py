"""Twenty-five rotations of both sides while calls and streams run: none of them fails.

The authority is one in memory, and rotates when it is told to. Ends with 0 only if no call failed, no stream broke, and the
server met every one of the certificates.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

import handfast
from examples.shop.payments import IDENTITY, POLICY, Payments
from examples.shop.v1.shop_pb2 import ChargeRequest, Receipt
from examples.shop.v1.shop_pb2_grpc import PaymentsStub, add_PaymentsServicer_to_server
from handfast.testing import TestAuthority

ROTATIONS = 25
CALLERS, STREAMS = 8, 4
CALLS_BETWEEN = 100
PATIENCE = 30.0
"""Seconds that one rotation may take to be seen, on a busy machine."""


class Watchful(Payments):
    """Payments that notes with which certificates it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[int] = set()

    async def Charge(self, request: ChargeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Receipt:
        self.met.add(handfast.caller().leaf.serial)
        return await super().Charge(request, context)


@dataclass
class Load:
    """Calls and streams without a pause, until it is told to stop."""

    channel: handfast.AioChannel
    calls: int = 0
    messages: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stopped: bool = False

    async def call(self) -> None:
        while not self.stopped:
            await self.call_once()

    async def call_once(self) -> None:
        began = time.perf_counter()
        try:
            await PaymentsStub(self.channel).Charge(ChargeRequest(cents=1), timeout=10)
            self.calls += 1
        except grpc.aio.AioRpcError as error:
            self.failures.append(str(handfast.from_rpc_error(error)))
        self.slowest = max(self.slowest, time.perf_counter() - began)

    async def talk(self) -> None:
        try:
            async for _receipt in PaymentsStub(self.channel).ChargeMany(self._charges()):
                self.messages += 1
        except grpc.aio.AioRpcError as error:
            self.failures.append(str(handfast.from_rpc_error(error)))

    async def _charges(self) -> AsyncIterator[ChargeRequest]:
        while not self.stopped:
            yield ChargeRequest(cents=1)
            await asyncio.sleep(0.002)


async def main() -> bool:
    authority = TestAuthority("shop.example")
    serving, calling = authority.source("/payments"), authority.source("/orders")
    payments = Watchful()
    server = grpc.aio.server(interceptors=[handfast.AioGuard(serving, POLICY)])
    add_PaymentsServicer_to_server(payments, server)
    port = server.add_secure_port("localhost:0", handfast.server_credentials(serving))
    await server.start()
    async with handfast.aio_channel(calling, f"localhost:{port}", server=IDENTITY) as channel:
        load = Load(channel)
        async with asyncio.TaskGroup() as group:
            for work in [load.call] * CALLERS + [load.talk] * STREAMS:
                group.create_task(work())
            print(f"{CALLERS} callers and {STREAMS} streams run")
            await felt(calling.current().leaf, payments, load)
            for _ in range(ROTATIONS):
                authority.rotate()
                await felt(calling.current().leaf, payments, load)
            load.stopped = True
    await server.stop(None)
    return verdict(load, payments)


async def felt(leaf: handfast.Leaf, payments: Watchful, load: Load) -> None:
    """Calls until the server was called with this certificate, and a number of calls went through."""
    enough = load.calls + CALLS_BETWEEN
    async with asyncio.timeout(PATIENCE):
        while leaf.serial not in payments.met or load.calls < enough:
            await load.call_once()


def verdict(load: Load, payments: Watchful) -> bool:
    print(f"{ROTATIONS} rotations of both sides; the server was called with {len(payments.met)} certificates")
    print(f"{load.calls} calls and {load.messages} messages over {STREAMS} streams, {len(load.failures)} failed")
    print(f"the slowest call took {load.slowest * 1000:.0f} ms")
    for failure in load.failures[:5]:
        print(failure, file=sys.stderr)
    return not load.failures and len(payments.met) > ROTATIONS and load.calls > 0 and load.messages > 0


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
