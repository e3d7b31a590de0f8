"""A channel to one server whose SPIFFE ID, expiry and revocation are judged, through the tunnel.

Not promised yet: a channel that outlives the rotation of its own certificate. It presents the credentials that its source
had when its connection was made; open a new one for each piece of work, as the command line does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import grpc

from handfast.clock import Clock, SystemClock
from handfast.credentials import Source
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy
from handfast.rpc.tunnel import open_tunnel

__all__ = ["channel"]


@contextmanager
def channel(
    source: Source,
    target: str,
    *,
    server: SpiffeId,
    clock: Clock | None = None,
    freshness: FreshnessPolicy | None = None,
) -> Iterator[grpc.Channel]:
    """A sync channel to ``target`` (``HOST:PORT``) that speaks to ``server`` and to nobody else.

    Calls fail with ``UNAVAILABLE`` when the server is refused or cut; when the reason is known it is raised instead, at the end
    of the block, as ``Unauthenticated`` or ``Unavailable`` with the reason (``REVOKED``, ``WRONG_IDENTITY``, ``UNTRUSTED``, …).
    """
    with _loop() as loop:
        stack = AsyncExitStack()
        opening = open_tunnel(
            source, target, server, clock=clock or SystemClock(), freshness=freshness or FreshnessPolicy()
        )
        tunnel = asyncio.run_coroutine_threadsafe(stack.enter_async_context(opening), loop).result()
        try:
            with grpc.insecure_channel(tunnel.target, [("grpc.default_authority", target)]) as opened:
                yield opened
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and tunnel.failure is not None:
                raise tunnel.failure from error
            raise
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own, which ends with the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="handfast-tunnel", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
