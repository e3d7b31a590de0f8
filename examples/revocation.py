"""A certificate is revoked, and both sides act on it at once: calls are refused, and streams that run end.

The authority is one in memory, whose news both sides have at once. Ends with 0 only if everything happened as it says.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc.aio

import handfast
from examples.shop.payments import IDENTITY, payments_server
from examples.shop.v1.shop_pb2 import ChargeRequest
from examples.shop.v1.shop_pb2_grpc import PaymentsStub
from handfast.sources import StaticSource
from handfast.testing import TestAuthority

PATIENCE = 10.0
"""Seconds that a stream may take to end, on a busy machine."""


async def caller_revoked() -> bool:
    """The server refuses a caller who has not heard that he is revoked, or does not want to."""
    print("a caller is revoked:")
    authority = TestAuthority("shop.example")
    calling = authority.issue("/orders")
    serving = authority.source("/payments")
    async with connected(StaticSource(calling), serving) as channel:
        ended, refused = await around(channel, lambda: authority.revoke(calling))
    return ended == refused == "REVOKED"


async def server_revoked() -> bool:
    """The client lets go of a server who has not heard that he is revoked, or does not want to."""
    print("a server is revoked:")
    authority = TestAuthority("shop.example")
    calling = authority.source("/orders")
    serving = authority.issue("/payments")
    async with connected(calling, StaticSource(serving)) as channel:
        ended, refused = await around(channel, lambda: authority.revoke(serving))
    return (
        ended == "UNAVAILABLE" and refused == "REVOKED"
    )  # a connection that was cut carries no reason; the next call does


@asynccontextmanager
async def connected(calling: handfast.Source, serving: handfast.Source) -> AsyncIterator[handfast.AioChannel]:
    server = payments_server(serving)
    port = server.add_secure_port("localhost:0", handfast.server_credentials(serving))
    await server.start()
    async with handfast.aio_channel(calling, f"localhost:{port}", server=IDENTITY) as channel:
        yield channel
    await server.stop(None)


async def around(channel: handfast.AioChannel, revoke: Callable[[], None]) -> tuple[str, str]:
    """A call and a stream before, the same after: how the stream ended, and why the call was refused."""
    stub = PaymentsStub(channel)
    receipt = await stub.Charge(ChargeRequest(cents=1))
    stream = stub.ChargeMany()
    await stream.write(ChargeRequest(cents=1))
    await stream.read()
    print(f"  a call is served ({receipt.charged_by}), a stream is open")
    revoke()
    began = time.perf_counter()
    ended = await refusal(stream.read())
    print(f"  revoked: the stream ended after {(time.perf_counter() - began) * 1000:.1f} ms with {ended}")
    refused = await refusal(stub.Charge(ChargeRequest(cents=1)))
    print(f"  revoked: the next call was refused with {refused}")
    return ended, refused


async def refusal(call: Awaitable[object]) -> str:
    """Why a call was not served: the reason, or the code where the connection was cut. Empty when it was served."""
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except grpc.aio.AioRpcError as error:
        return handfast.from_rpc_error(error).reason or error.code().name
    return ""


async def main() -> bool:
    return await caller_revoked() and await server_revoked()


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
