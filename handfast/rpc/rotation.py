"""One channel made of many: new calls go to the newest generation, an older one ends when its last call has ended.

gRPC binds a channel to the credentials that it was made with. A generation is a channel with one set of them; a new one is
dialled while the old one still serves, takes over when it is connected, and no call notices. That happens

- when our own leaf was renewed: the server must not see the old one expire, and
- when the server's leaf has lived most of its life: by then the server has a new one, which only a new handshake shows.

A server that is not there, or that still shows the old leaf, changes nothing: the old generation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from handfast.certificates import Leaf
from handfast.clock import Clock
from handfast.credentials import Credentials, Source
from handfast.errors import HandfastError
from handfast.rpc.folder import private_folder
from handfast.rpc.tunnel import Connection

__all__ = ["Generation", "Line", "Method", "Rotation"]

_log = logging.getLogger(__name__)
C = TypeVar("C")

READY_SECONDS = 10.0
"""How long a new generation may take to connect before it is given up, and tried again."""
LONGEST_WAIT = 15.0
"""Seconds between two looks at the clock, which somebody may set."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PAUSES_IN_A_LIFE = 200
_LOOK_WHILE_DRAINING = 0.01
_REDIAL_SHARE, _REDIAL_JITTER = 0.75, 0.1


class Line(ABC, Generic[C]):
    """A channel of one generation, and what carries it. Made and used on the rotation's loop."""

    channel: C

    @property
    @abstractmethod
    def connection(self) -> Connection | None:
        """Who is connected to whom; None while nobody is."""

    @property
    def failure(self) -> HandfastError | None:
        """Why there is no connection, when it is known."""
        return None

    @abstractmethod
    async def ready(self) -> None:
        """Returns when the channel is connected. Waits for ever if it never is."""

    @abstractmethod
    async def close(self) -> None: ...

    def tell(self) -> None:
        """The source has a new snapshot."""
        return


class Generation(Generic[C]):
    """A line, and how many calls run on it."""

    def __init__(self, line: Line[C]) -> None:
        self.line = line
        self.calls = 0
        self.retired = False


class Rotation(Generic[C]):
    """Keeps the newest generation in :attr:`present`. ``dial`` makes a line at once, connected or not."""

    def __init__(
        self,
        source: Source,
        dial: Callable[[Path, Callable[[], None]], Line[C]],
        *,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        on_swap: Callable[[C, C], None] = lambda _old, _new: None,
    ) -> None:
        """Call it on ``loop``. ``dial`` gets a path for a socket and what to call when somebody is connected."""
        self._source = source
        self._dial = dial
        self._clock = clock
        self._loop = loop
        self._on_swap = on_swap
        self._folder = private_folder("handfast-")
        self._dialled = 0
        self._lock = threading.Lock()
        self._wakened = asyncio.Event()
        self._draining: set[Generation[C]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._redial_share = _REDIAL_SHARE + random.uniform(-_REDIAL_JITTER, _REDIAL_JITTER)  # noqa: S311 - no secret
        self.present = self._next()
        self._unsubscribe = source.subscribe(self._on_news)
        self._keeping = loop.create_task(self._keep())

    def acquire(self) -> Generation[C]:
        """The generation for one more call; give it back with :meth:`release`. On any thread."""
        with self._lock:
            generation = self.present
            generation.calls += 1
            return generation

    def release(self, generation: Generation[C]) -> None:
        """A call has ended. On any thread; once for each :meth:`acquire`."""
        with self._lock:
            generation.calls -= 1
            over = generation.retired and generation.calls == 0
        if over:
            with contextlib.suppress(RuntimeError):  # a loop that has closed has closed all its lines
                self._loop.call_soon_threadsafe(self._end, generation)

    async def drained(self, seconds: float) -> None:
        """Returns when no call runs any more, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(  # noqa: ASYNC110 - calls end on any thread
                    generation.calls for generation in (self.present, *self._draining)
                ):
                    await asyncio.sleep(_LOOK_WHILE_DRAINING)

    async def close(self) -> None:
        """Ends every generation, and the calls that run on them."""
        self._unsubscribe()
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        lines = [generation.line for generation in (self.present, *self._draining)]
        await asyncio.gather(*(line.close() for line in lines), *self._ending)
        self._folder.cleanup()

    def _next(self) -> Generation[C]:
        self._dialled += 1
        return Generation(self._dial(Path(self._folder.name) / str(self._dialled), self._wakened.set))

    def _on_news(self, _credentials: Credentials | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody calls any more
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        for generation in (self.present, *self._draining):
            generation.line.tell()
        self._wakened.set()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._wakened.clear()
            left = self._seconds_left()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LONGEST_WAIT)):
                        await self._wakened.wait()
            elif await self._replace():
                pause = _FIRST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._longest_pause())

    def _seconds_left(self) -> float:
        """Until the present connection should be replaced; a line without one takes the newest leaf by itself."""
        connection = self.present.line.connection
        if connection is None:
            return LONGEST_WAIT
        try:
            if self._source.current().leaf != connection.own:
                return 0.0
        except HandfastError:
            return LONGEST_WAIT
        if connection.server is None:
            return LONGEST_WAIT
        return (self._moment_to_redial(connection.server) - self._clock.now()) / timedelta(seconds=1)

    def _moment_to_redial(self, server: Leaf) -> datetime:
        return server.validity.not_before + server.validity.duration * self._redial_share

    def _longest_pause(self) -> float:
        """Seconds; longer for long lives, since a server that does not renew is dialled until its leaf expires."""
        connection = self.present.line.connection
        if connection is None or connection.server is None:
            return _LONGEST_PAUSE
        return max(_LONGEST_PAUSE, connection.server.validity.duration.total_seconds() / _PAUSES_IN_A_LIFE)

    async def _replace(self) -> bool:
        """Dials the next generation and swaps. False when nothing better came of it."""
        try:
            fresh = self._next()
        except OSError as error:  # a full disk, too many open files: the present one goes on, and it is tried again
            _log.warning("no new connection can be made ready: %s", error)
            return False
        try:
            async with asyncio.timeout(READY_SECONDS):
                await fresh.line.ready()
        except TimeoutError:
            await fresh.line.close()
            return False
        except asyncio.CancelledError:
            await fresh.line.close()
            raise
        if not self._is_better(fresh.line.connection):
            await fresh.line.close()
            return False
        self._swap(fresh)
        return True

    def _is_better(self, found: Connection | None) -> bool:
        """Worth a swap: someone good is there, and one of the two leaves is another."""
        return found is not None and found != self.present.line.connection

    def _swap(self, fresh: Generation[C]) -> None:
        with self._lock:
            old, self.present = self.present, fresh
            old.retired = True
            over = old.calls == 0
        self._on_swap(old.line.channel, fresh.line.channel)
        _log.debug("generation %d took over, %d calls drain", self._dialled, old.calls)
        self._draining.add(old)
        if over:
            self._end(old)

    def _end(self, generation: Generation[C]) -> None:
        if generation in self._draining:
            self._draining.discard(generation)
            task = self._loop.create_task(generation.line.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class Method(Generic[C]):
    """A method as a stub holds it: made again on the channel of each generation. ``kind`` is ``unary_unary`` and so on."""

    def __init__(self, rotation: Rotation[C], kind: str, name: str, *shape: Any, **named: Any) -> None:
        self.rotation = rotation
        self._kind = kind
        self._shape = (name, *shape)
        self._named = named
        self._made: tuple[Generation[C], Any] | None = None

    def on(self, generation: Generation[C]) -> Any:
        """The multi-callable of this method on a generation's channel."""
        made = self._made
        if made is None or made[0] is not generation:
            make = getattr(generation.line.channel, self._kind)
            made = self._made = (generation, make(*self._shape, **self._named))
        return made[1]
