"""A client process of the start benchmark: so many watches of trust, each over a connection of its own.

It reads one job as a line of JSON on stdin, prints a line when every watch has its first message, and ends at the next line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc.aio

from handfast.wire.v1 import authority_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
AT_ONCE = 2
"""Handshakes: all at once would run into the two seconds that the server gives each."""

ATTEMPTS, LONGEST = 20, 60.0
"""Seconds for one of them; a server that is gone is no reason to wait for ever."""


async def main() -> None:
    job = json.loads(sys.stdin.readline())
    credentials = grpc.ssl_channel_credentials(*(job[name].encode() for name in ("root", "key", "chain")))
    turn = asyncio.Semaphore(AT_ONCE)

    async def watch() -> tuple[Any, Any]:
        async with turn:
            channel = grpc.aio.secure_channel(job["target"], credentials, OWN_CONNECTION)
            return channel, await opened(channel)

    watches = await asyncio.gather(*(watch() for _ in range(job["watches"])))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for channel, stream in watches:
        stream.cancel()
        await channel.close()


async def opened(channel: grpc.aio.Channel) -> Any:
    """A watch that has its first message. A handshake that took too long on a busy machine is made again, as agents do."""
    for left in reversed(range(ATTEMPTS)):
        stream: Any = AuthorityStub(channel).WatchTrust(authority_pb2.WatchTrustRequest(), wait_for_ready=True)
        try:
            async with asyncio.timeout(LONGEST):
                first = await stream.read()
        except grpc.aio.AioRpcError as error:
            if not left or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        else:
            assert first.whole
            return stream
    raise AssertionError("the last attempt returns or raises")


if __name__ == "__main__":
    asyncio.run(main())
