"""One of the demo's two services, as a process: serves, and calls the other, all the time.

Started as ``python -m handfast.cli.demo_service``; says what happens as JSON lines on stdout. Moments are seconds of the
machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

import handfast
from handfast.errors import HandfastError

__all__ = ["FOLLOW", "GREET", "Peer", "main"]

SERVICE = "handfast.demo.Peer"
GREET, FOLLOW = f"/{SERVICE}/Greet", f"/{SERVICE}/Follow"
CALLERS, STREAMS = 4, 2
TICK = 0.005
AFTER_A_FAILURE = 0.002


_saying = threading.Lock()


def say(event: str, **facts: object) -> None:
    """One whole line; the guard's own thread speaks too."""
    line = json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n"
    with _saying:
        sys.stdout.write(line)
        sys.stdout.flush()


class Peer:
    """What both services do: greet whoever may call, and let him follow a clock."""

    async def greet(self, _request: bytes, _context: Any) -> bytes:
        return f"hello, {handfast.caller()}".encode()

    async def follow(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(TICK)

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Greet": grpc.unary_unary_rpc_method_handler(self.greet),
                "Follow": grpc.unary_stream_rpc_method_handler(self.follow),
            },
        )


class Watching:
    """Hears the guard, and says each refusal once for each kind and reason."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def judged(self, method: str, reason: str, seconds: float) -> None:
        if reason != "OK":
            self._say("refused", reason)

    def stream_ended(self, method: str, reason: str) -> None:
        self._say("stream_ended", reason)

    def _say(self, kind: str, reason: str) -> None:
        if (kind, reason) not in self._said:
            self._said.add((kind, reason))
            say("guard", kind=kind, reason=reason)


class Load:
    """Calls the other service without a pause, and counts. A failure is said once for each kind and reason."""

    def __init__(self, channel: handfast.AioChannel) -> None:
        self._greet = channel.unary_unary(GREET)
        self._follow = channel.unary_stream(FOLLOW)
        self._said: set[tuple[str, str]] = set()
        self.calls = self.messages = self.failed = 0

    async def call(self) -> None:
        while True:
            try:
                await self._greet(b"", timeout=5)
                self.calls += 1
            except grpc.aio.AioRpcError as error:
                await self._note("call", error)

    async def listen(self) -> None:
        while True:
            try:
                async for _tick in self._follow(b""):
                    self.messages += 1
            except grpc.aio.AioRpcError as error:
                await self._note("stream", error)

    async def _note(self, kind: str, error: grpc.aio.AioRpcError) -> None:
        self.failed += 1
        found: HandfastError = handfast.from_rpc_error(error)
        if (kind, found.reason) not in self._said:
            self._said.add((kind, found.reason))
            say("failed", kind=kind, reason=found.reason, message=found.message)
        await asyncio.sleep(AFTER_A_FAILURE)


async def serve(listen: str, other: str, identity: str) -> None:
    source = handfast.connect()
    rotations = 0
    present = source.current().leaf

    def on_news(credentials: handfast.Credentials | None) -> None:
        nonlocal rotations, present
        if credentials is not None and credentials.leaf != present:
            present = credentials.leaf
            rotations += 1

    source.subscribe(on_news)
    guard = handfast.AioGuard(source, handfast.allow(identity), observer=Watching())
    server = grpc.aio.server(interceptors=[guard], handlers=[Peer().handler()])
    server.add_secure_port(listen, handfast.server_credentials(source))
    await server.start()
    say("serving")
    async with handfast.aio_channel(source, other, server=identity) as channel:
        load = Load(channel)
        await channel.channel_ready()
        working = [asyncio.create_task(load.call()) for _ in range(CALLERS)]
        working += [asyncio.create_task(load.listen()) for _ in range(STREAMS)]
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def report() -> None:
            say("report", calls=load.calls, messages=load.messages, failed=load.failed, rotations=rotations)

        loop.add_signal_handler(signal.SIGUSR1, report)
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        say("ready")
        await ended.wait()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    await server.stop(0)
    guard.close()
    source.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("listen")
    parser.add_argument("other")
    parser.add_argument("identity")
    given = parser.parse_args()
    asyncio.run(serve(given.listen, given.other, given.identity))


if __name__ == "__main__":
    main()
