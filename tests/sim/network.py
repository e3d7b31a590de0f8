"""The way between one machine and the CA: it delays, loses, doubles, stalls and parts.

A connection keeps its order and loses nothing while it stands, as TCP does; what is lost is a whole exchange. A watch that
gets no answer to its pings ends after :data:`KEEPALIVE` seconds; one that a proxy stalls answers pings and brings nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from handfast.errors import HandfastError, Unauthenticated, Unavailable
from tests.sim.loop import Process
from tests.sim.world import Timeline, Trouble

__all__ = ["KEEPALIVE", "LONGEST_DELAY", "Link", "Pipe"]

T = TypeVar("T")
CALL_SECONDS = 15.0
"""``handfast_agent.upstream.CALL_SECONDS``."""
HANDSHAKE_SECONDS = 10.0
"""``handfast_agent.tunnel.HANDSHAKE_SECONDS``."""
KEEPALIVE = 15.0
"""A ping after ten seconds, five to answer it."""
LONGEST_DELAY = 0.25
"""Seconds that a message takes at most, on a network that is not parted."""
RETRANSMIT = 0.5
"""Seconds between two looks at whether a parted network is whole again."""
ROOM = 4
"""Messages of a stream that fit between a server and a reader who does not read."""


class Pipe:
    """One open stream from the CA."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._stirred = asyncio.Event()
        self._error: HandfastError | None = None
        self.stalled = False
        self.is_cut = False

    async def send(self, message: bytes) -> None:
        """Waits while there is no room: the CA's feed skips what becomes old meanwhile."""
        while len(self._items) >= ROOM and self._error is None:
            await self._changed()
        self._items.append(message)
        self._stirred.set()

    async def receive(self) -> bytes:
        while not self.is_cut and (self.stalled or (not self._items and self._error is None)):
            await self._changed()
        if self._error is not None and not self._items:
            raise self._error
        self._stirred.set()
        return self._items.popleft()

    async def _changed(self) -> None:
        self._stirred.clear()
        await self._stirred.wait()

    def close(self, error: HandfastError) -> None:
        """The server ends the stream: what it said before arrives before."""
        self._error = self._error or error
        self._stirred.set()

    def cut(self, error: HandfastError) -> None:
        """The connection ends, and with it what was on its way."""
        self.is_cut = True
        self._items.clear()
        self._error = error
        self._stirred.set()

    def check(self) -> None:
        """Raises when the connection was cut."""
        if self.is_cut:
            assert self._error is not None
            raise self._error


class Link:
    """One machine's network. The attributes are the levers; ``trouble`` notes when one of them was moved."""

    def __init__(self, name: str, chance: Random, timeline: Timeline) -> None:
        self.name = name
        self.trouble = Trouble()
        self.loss = 0.0
        self.doubling = 0.0
        self.slowness = 0.0
        self._cuts = 0
        self._pipes: dict[Pipe, None] = {}
        self._chance = chance
        self._timeline = timeline

    # --- levers -----------------------------------------------------------------------------------------------------

    def part(self) -> None:
        self.trouble.begin()
        self._cuts += 1
        asyncio.get_running_loop().call_later(KEEPALIVE, self._ping, tuple(self._pipes))

    def heal(self) -> None:
        self._cuts -= 1
        self.trouble.end()

    def _ping(self, pipes: tuple[Pipe, ...]) -> None:
        if self._cuts:
            for pipe in pipes:
                pipe.cut(Unavailable("no answer to a ping"))

    def stall(self) -> tuple[Pipe, ...]:
        """Streams that are open bring nothing more. Calls go through: polling is what is left."""
        for pipe in self._pipes:
            pipe.stalled = True
        return tuple(self._pipes)

    @property
    def stalled(self) -> bool:
        return any(pipe.stalled for pipe in self._pipes)

    def reset(self) -> None:
        """Every open stream ends."""
        self.trouble.strike()
        for pipe in self._pipes:
            pipe.cut(Unavailable("the connection was reset"))

    # --- what the agent's upstream uses -----------------------------------------------------------------------------

    async def travel(self) -> None:
        """One way. Never returns for what is lost."""
        await asyncio.sleep(self.delay())
        if self._cuts or self._lost("a message"):
            await asyncio.get_running_loop().create_future()

    def delay(self) -> float:
        return LONGEST_DELAY * self._chance.random() ** 6

    def _lost(self, what: str) -> bool:
        if self._chance.random() >= self.loss:
            return False
        self.trouble.strike()
        self._timeline.add(self.name, f"{what} is lost")
        return True

    async def call(self, server: Process, serve: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One exchange: an answer, an error of the CA's, or ``Unavailable`` after fifteen seconds or a refused connection."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.travel()
                answer = await self._served(server, serve)
                await self.travel()
                if isinstance(answer, HandfastError):
                    raise answer
                return answer
        except TimeoutError:
            self.trouble.strike()
            raise Unavailable("no answer in time") from None

    async def _served(self, server: Process, serve: Callable[[], Coroutine[Any, Any, T]]) -> T | HandfastError:
        if not server.alive:
            raise Unavailable("connection refused")
        task = server.spawn(_outcome(serve()))
        if self._chance.random() < self.doubling:
            self._timeline.add(self.name, "a request arrives twice")
            server.spawn(_outcome(_later(self.delay(), serve)))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if task.cancelled():
            raise Unavailable("connection reset")
        return task.result()

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self.travel()
        except TimeoutError:
            self.trouble.strike()
            raise Unavailable("no handshake in time") from None

    async def stream(self, server: Process, serve: Callable[[Pipe], Coroutine[Any, Any, None]]) -> AsyncIterator[bytes]:
        await self._dial()
        if not server.alive:
            raise Unavailable("connection refused")
        pipe = Pipe()
        self._pipes[pipe] = None
        task = server.spawn(_streamed(pipe, serve))
        try:
            while True:
                message = await pipe.receive()
                await asyncio.sleep(self.delay() + self.slowness)
                while self._cuts and not pipe.is_cut:
                    await asyncio.sleep(RETRANSMIT)
                pipe.check()
                yield message
        except Unauthenticated as refusal:
            if refusal.reason == "EXPIRED":  # a stream ends with the certificate that it was opened with
                self.trouble.strike()
            raise
        except (HandfastError, asyncio.CancelledError, GeneratorExit):
            self.trouble.strike()
            raise
        finally:
            del self._pipes[pipe]
            task.cancel()


async def _outcome(work: Coroutine[Any, Any, T]) -> T | HandfastError:
    try:
        return await work
    except HandfastError as error:
        return error


async def _later(seconds: float, serve: Callable[[], Coroutine[Any, Any, T]]) -> T:
    await asyncio.sleep(seconds)
    return await serve()


async def _streamed(pipe: Pipe, serve: Callable[[Pipe], Coroutine[Any, Any, None]]) -> None:
    """However the server's side ends, the reader hears of it."""
    try:
        await serve(pipe)
        pipe.close(Unavailable("the CA ended the stream"))
    except HandfastError as error:
        pipe.close(error)
    except asyncio.CancelledError:
        pipe.cut(Unavailable("the connection was reset"))
        raise
