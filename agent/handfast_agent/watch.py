"""Keeps trust fresh: a stream that reconnects with full jitter, and polling as the safety net.

Both bring changes of revocation lists. Where one cannot be used, the whole list is asked for at once.

The CA ends a stream with the certificate that it was opened with. So the next one is opened when there is a new certificate, and the
former goes on until the next has brought the state: there is no moment in which a revocation would wait for a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta

from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.sources.static import StaticSource
from handfast_agent import backoff
from handfast_agent.behind import WriteBehind
from handfast_agent.driver import Driver
from handfast_agent.trust import Marks, News
from handfast_agent.upstream import Upstream

__all__ = ["poll_once", "watch_forever"]

_log = logging.getLogger(__name__)
_RECONNECT = timedelta(minutes=5)
"""As a lifetime for backoff: reconnects are at most a twentieth, 15 seconds, apart."""
_IDLE = 0.2


async def watch_forever(driver: Driver, upstream: Upstream, source: StaticSource, draw: Callable[[], float]) -> None:
    """Every connection begins with the state as it is, so what a lost one missed is made good."""
    former: asyncio.Task[None] | None = None
    failures = 0
    async with asyncio.TaskGroup() as tasks:
        watches = _Watches(driver, upstream, WriteBehind(driver))
        tasks.create_task(watches.behind.run())
        while True:
            present = source.peek()
            if present is None:
                await asyncio.sleep(_IDLE)
                continue
            begun = asyncio.Event()
            newest = tasks.create_task(watches.follow(present, begun))
            if await _comes_before(begun, newest):
                failures = 0
                await watches.end(former)
                former = newest
                with _replaced(source, present) as replaced:
                    if await _comes_before(replaced, newest):
                        continue
            driver.record.connected = former is not None and not former.done()
            failures += 1
            await asyncio.sleep(backoff.delay(failures, _RECONNECT, draw()))


class _Watches:
    """Streams of one agent: the newest, and, until that has begun, the one before."""

    def __init__(self, driver: Driver, upstream: Upstream, behind: WriteBehind) -> None:
        self.behind = behind
        self._driver = driver
        self._upstream = upstream
        self._taking = asyncio.Lock()

    async def follow(self, present: Credentials, begun: asyncio.Event) -> None:
        """Takes everything until the stream ends, which is logged. ``begun`` is set when the state was taken."""
        driver = self._driver
        asked = driver.trust.marks
        try:
            async for news in self._upstream.watch_trust(present, driver.trust):
                driver.record.connected = True
                if not await self._take(news, asked):
                    again = driver.trust.marks
                    await self._take(await self._upstream.get_trust(present, driver.trust, whole=True), again)
                begun.set()
            _log.info("the CA ended the trust stream")
        except HandfastError as error:
            _log.warning("trust stream lost: %s (%s)", error.message, error.reason)
            await driver.heed(error, present.leaf)

    async def end(self, former: asyncio.Task[None] | None) -> None:
        """Not in the middle of taking something."""
        async with self._taking:
            if former is not None:
                former.cancel()

    async def _take(self, news: News, asked: Marks) -> bool:
        async with self._taking:
            usable = await self._driver.take(news, asked)
        self.behind.want(proven=bool(news.crls or news.changes or news.bundle))
        return usable


async def _comes_before(event: asyncio.Event, end: asyncio.Task[None]) -> bool:
    """True when the event came before the task was over."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting, end}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return event.is_set()


@contextlib.contextmanager
def _replaced(source: StaticSource, present: Credentials) -> Iterator[asyncio.Event]:
    """Set when ``source`` has another certificate than that of ``present``."""
    replaced, loop = asyncio.Event(), asyncio.get_running_loop()

    def look(credentials: Credentials | None) -> None:
        if credentials is not None and credentials.leaf != present.leaf:
            loop.call_soon_threadsafe(replaced.set)

    unsubscribe = source.subscribe(look)
    try:
        look(source.peek())
        yield replaced
    finally:
        unsubscribe()


async def poll_once(driver: Driver, upstream: Upstream, source: StaticSource) -> None:
    """Asks for the whole state once; a failure is only noted, since the stream tries too."""
    present = source.peek()
    if present is None:
        return
    try:
        if not await _ask(driver, upstream, present):
            await _ask(driver, upstream, present, whole=True)
    except HandfastError as error:
        _log.info("trust was not polled: %s", error.message)
        await driver.heed(error, present.leaf)


async def _ask(driver: Driver, upstream: Upstream, present: Credentials, *, whole: bool = False) -> bool:
    """The stream may bring something newer before the answer is there, which then is old and no alarm (threat D1)."""
    asked = driver.trust.marks
    return await driver.hear(await upstream.get_trust(present, driver.trust, whole=whole), asked)
