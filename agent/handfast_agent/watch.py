"""Keeps trust fresh: a stream that reconnects with full jitter, and polling as the safety net.

Both bring changes of revocation lists. Where one cannot be used, the whole list is asked for at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.sources.static import StaticSource
from handfast_agent import backoff
from handfast_agent.driver import Driver
from handfast_agent.upstream import Upstream

__all__ = ["poll_once", "watch_forever"]

_log = logging.getLogger(__name__)
_RECONNECT = timedelta(minutes=5)
"""As a lifetime for backoff: reconnects are at most a twentieth, 15 seconds, apart."""
_IDLE = 0.2


async def watch_forever(driver: Driver, upstream: Upstream, source: StaticSource, draw: Callable[[], float]) -> None:
    """Every connection begins with the state as it is, so what a lost one missed is made good."""
    failures = 0
    while True:
        present = source.peek()
        if present is None:
            await asyncio.sleep(_IDLE)
            continue
        asked = driver.trust.marks
        try:
            async for news in upstream.watch_trust(present, driver.trust):
                driver.record.connected = True
                failures = 0
                if not await driver.hear(news, asked):
                    await _ask(driver, upstream, present, whole=True)
            _log.info("the CA ended the trust stream")
        except HandfastError as error:
            _log.warning("trust stream lost: %s (%s)", error.message, error.reason)
            await driver.heed(error, present.leaf)
        driver.record.connected = False
        failures += 1
        await asyncio.sleep(backoff.delay(failures, _RECONNECT, draw()))


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
