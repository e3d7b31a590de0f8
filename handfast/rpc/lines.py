"""What carries a generation of a channel: the tunnel, or gRPC's own TLS."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from handfast.clock import Clock
from handfast.credentials import Source
from handfast.errors import HandfastError
from handfast.revocation import FreshnessPolicy
from handfast.rpc.rotation import Line
from handfast.rpc.tunnel import Connection, Peer, Tunnel

__all__ = ["Flavour", "Plain", "Tunnelled"]

C = TypeVar("C")


class Flavour(ABC, Generic[C]):
    """How channels of sync gRPC, or of grpc.aio, are made, waited for and closed."""

    @abstractmethod
    def open(self, target: str, credentials: grpc.ChannelCredentials | None, authority: str | None) -> C:
        """A channel that is not connected yet; without ``credentials``, without TLS."""

    @abstractmethod
    async def ready(self, channel: C) -> None: ...

    @abstractmethod
    async def close(self, channel: C) -> None: ...


class _TunnelLine(Line[C]):
    def __init__(self, flavour: Flavour[C], tunnel: Tunnel, authority: str) -> None:
        self._flavour = flavour
        self._tunnel = tunnel
        self._running = asyncio.get_running_loop().create_task(tunnel.run())
        self.channel = flavour.open(tunnel.target, None, authority)

    @property
    def connection(self) -> Connection | None:
        return self._tunnel.connection

    @property
    def failure(self) -> HandfastError | None:
        return self._tunnel.failure

    async def ready(self) -> None:
        await self._flavour.ready(self.channel)

    async def close(self) -> None:
        await self._flavour.close(self.channel)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def tell(self) -> None:
        self._tunnel.tell()


class Tunnelled(Generic[C]):
    """Dials through the tunnel: the server's SPIFFE ID, expiry and revocation are judged."""

    def __init__(
        self,
        flavour: Flavour[C],
        source: Source,
        target: str,
        peer: Peer,
        clock: Clock,
        freshness: FreshnessPolicy,
    ) -> None:
        self._flavour = flavour
        self._source = source
        self._target = target
        self._peer = peer
        self._clock = clock
        self._freshness = freshness

    def __call__(self, path: Path, on_connected: Callable[[], None]) -> Line[C]:
        tunnel = Tunnel(
            self._source,
            self._peer,
            clock=self._clock,
            freshness=self._freshness,
            path=path,
            on_connected=on_connected,
        )
        return _TunnelLine(self._flavour, tunnel, self._target)


class _PlainLine(Line[C]):
    def __init__(self, flavour: Flavour[C], channel: C, own: Connection) -> None:
        self._flavour = flavour
        self._own = own
        self.channel = channel

    @property
    def connection(self) -> Connection:
        return self._own

    async def ready(self) -> None:
        await self._flavour.ready(self.channel)

    async def close(self) -> None:
        await self._flavour.close(self.channel)


class Plain(Generic[C]):
    """Dials with gRPC's own TLS: the server's DNS name is all that is verified of it, once, in the handshake."""

    def __init__(self, flavour: Flavour[C], source: Source, target: str) -> None:
        self._flavour = flavour
        self._source = source
        self._target = target

    def __call__(self, _path: Path, _on_connected: Callable[[], None]) -> Line[C]:
        snapshot = self._source.current()
        credentials = grpc.ssl_channel_credentials(snapshot.bundle.roots_pem, snapshot.key_pem, snapshot.chain_pem)
        channel = self._flavour.open(self._target, credentials, None)
        return _PlainLine(self._flavour, channel, Connection(snapshot.leaf, None))
