"""Two connections joined: what arrives at one leaves at the other, and a slow side slows its partner.

Protocols, not streams: the bytes of every call pass through here twice, and a stream would wake two tasks for each chunk.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

__all__ = ["Pipe", "dial", "dial_unix", "relay"]

FLUSH_SECONDS = 1.0


class Pipe(asyncio.Protocol):
    """One end. Bytes that arrive before it is joined are kept, and its peer is told to wait."""

    transport: asyncio.Transport

    def __init__(self, on_made: Callable[[Pipe], None] = lambda _pipe: None) -> None:
        self.lost = asyncio.Event()
        self._on_made = on_made
        self._made = False
        self._partner: Pipe | None = None
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._made = True
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        if self._partner is not None:
            self._partner.transport.write(data)
        else:
            self._early += data
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False  # HTTP/2 knows no half of a connection

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    def pause_writing(self) -> None:
        if self._partner is not None and not self._partner.lost.is_set():
            self._partner.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._partner is not None and not self._partner.lost.is_set():
            self._partner.transport.resume_reading()

    def join(self, partner: Pipe) -> None:
        """From now on what arrives here leaves there."""
        self._partner = partner
        if self._early:
            partner.transport.write(bytes(self._early))
            self._early.clear()
        if not self.lost.is_set():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Closes at once, whatever is still to be sent."""
        if self._made:
            self.transport.abort()

    async def close(self) -> None:
        """Sends what is still to be sent, for a moment, and returns when it is closed."""
        if not self._made:
            return
        self.transport.close()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.lost.wait()
        except TimeoutError:
            self.transport.abort()
            await self.lost.wait()


async def dial(host: str, port: int, context: ssl.SSLContext) -> Pipe:
    """A TLS connection. One that is given up in its last moment is closed at once. Raises ``OSError``."""
    pipe = Pipe()
    try:
        await asyncio.get_running_loop().create_connection(lambda: pipe, host, port, ssl=context)
    except BaseException:
        pipe.abort()
        raise
    return pipe


async def dial_unix(path: Path) -> Pipe:
    pipe = Pipe()
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: pipe, os.fspath(path))
    except BaseException:
        pipe.abort()
        raise
    return pipe


async def relay(near: Pipe, far: Pipe, until: Coroutine[None, None, None] | None = None) -> None:
    """Passes bytes both ways until one end is lost, or ``until`` ends; then ``far`` is closed."""
    far.join(near)
    near.join(far)
    parts = [asyncio.ensure_future(part) for part in (near.lost.wait(), far.lost.wait(), until) if part is not None]
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        far.abort()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await far.lost.wait()
