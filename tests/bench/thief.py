"""A process that holds one certificate and has a connection and an open stream to each of many services.

Lines of JSON on stdin are jobs, each answered by one on stdout: ``open`` connects, ``round`` calls every service once, ``ends``
waits until every stream has ended, makes one more call over the same connection, and tells when each of both was over. Moments
are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc.aio

from handfast.wire.codec import from_rpc_error
from tests.bench.serving import ASK, FOLLOW

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
AT_ONCE = 8
LONGEST = 60.0
"""Seconds for one call."""


class Victim:
    """One service as the thief sees it."""

    def __init__(self, credentials: grpc.ChannelCredentials, port: int) -> None:
        self.channel = grpc.aio.secure_channel(f"localhost:{port}", credentials, OWN_CONNECTION)
        self._ask = self.channel.unary_unary(ASK)
        self._ended: asyncio.Task[tuple[float, float, str]] | None = None

    async def open(self, turn: asyncio.Semaphore) -> None:
        async with turn:
            stream = self.channel.unary_stream(FOLLOW)(b"", wait_for_ready=True)
            assert await stream.read() == b"begun"
            await self.ask()
        self._ended = asyncio.create_task(self._end_of(stream))

    async def ask(self) -> None:
        await self._ask(b"", timeout=LONGEST)

    async def ended(self) -> tuple[float, float, str]:
        assert self._ended is not None
        return await self._ended

    async def _end_of(self, stream: Any) -> tuple[float, float, str]:
        """When the stream was over, when the call after it was refused, and why that was."""
        try:
            await stream.read()
        except grpc.aio.AioRpcError:
            ended = time.monotonic()
        else:
            raise AssertionError("the stream said more than its beginning")
        try:
            await self.ask()
        except grpc.aio.AioRpcError as error:
            return ended, time.monotonic(), from_rpc_error(error).reason
        raise AssertionError("a call was served after the stream had ended")


async def main() -> None:
    victims: list[Victim] = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        if job["do"] == "open":
            await asyncio.gather(*(victim.channel.close() for victim in victims))
            credentials = grpc.ssl_channel_credentials(*(job[name].encode() for name in ("root", "key", "chain")))
            victims = [Victim(credentials, port) for port in job["ports"]]
            turn = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(victim.open(turn) for victim in victims))
            say(None)
        elif job["do"] == "round":
            began = time.monotonic()
            await asyncio.gather(*(victim.ask() for victim in victims))
            say(time.monotonic() - began)
        else:
            say(await asyncio.gather(*(victim.ended() for victim in victims)))


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
