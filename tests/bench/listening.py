"""A process of watchers: so many watches of trust, each over a connection and mutual TLS of its own.

Lines of JSON on stdin are jobs, each answered by one on stdout: ``open`` connects, ``round`` makes one call over each connection,
``told`` waits until every watch was told of one serial, and says when the last was. A watcher does with a message what an agent does
first: it is parsed and taken, and the serial is looked up. It neither verifies the list that follows nor writes it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from handfast_agent.trust import News, Trust
from handfast_agent.upstream import read_news
from tests.bench.watching import AT_ONCE, OWN_CONNECTION, opened

LONGEST = 60.0
_heard: dict[int, list[float]] = {}


class Watcher:
    """What an agent knows, kept up to date by one stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._health = HealthStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        self._channel = channel
        self._trust = Trust()

    async def open(self, turn: asyncio.Semaphore) -> asyncio.Task[None]:
        async with turn:
            stream = await opened(self._channel)
        return asyncio.create_task(self._follow(stream))

    async def ask(self) -> None:
        await self._health.Check(health_pb2.HealthCheckRequest(), timeout=LONGEST)

    async def _follow(self, stream: Any) -> None:
        while True:
            announced = read_news(await stream.read()).announced
            self._trust, _ = self._trust.accept(News(announced=announced), datetime.now(UTC))
            for issuer, serial in announced:
                assert self._trust.revoked(issuer, serial)
                _heard.setdefault(serial, []).append(time.monotonic())


async def main() -> None:
    watchers: list[Watcher] = []
    following: list[asyncio.Task[None]] = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        if job["do"] == "open":
            credentials = grpc.ssl_channel_credentials(*(job[name].encode() for name in ("root", "key", "chain")))
            turn = asyncio.Semaphore(AT_ONCE)
            for _ in range(job["watches"]):
                watchers.append(Watcher(grpc.aio.secure_channel(job["target"], credentials, OWN_CONNECTION)))
            following = await asyncio.gather(*(watcher.open(turn) for watcher in watchers))
            say(None)
        elif job["do"] == "round":
            began = time.monotonic()
            await asyncio.gather(*(watcher.ask() for watcher in watchers))
            say(time.monotonic() - began)
        else:
            say(await last_told(int(job["serial"], 16), following))


async def last_told(serial: int, following: list[asyncio.Task[None]]) -> float:
    """Files give no event, and nor does a thousand of them in one place: looked at every few milliseconds, told when it was."""
    while len(_heard.get(serial, ())) < len(following):
        for lost in (task for task in following if task.done()):
            lost.result()
        await asyncio.sleep(0.01)
    return max(_heard.pop(serial))


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
