"""Channels for ``grpc.aio`` whose stubs survive rotations and that judge their server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from handfast.clock import Clock, SystemClock
from handfast.credentials import Source
from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy
from handfast.rpc.lines import Flavour, Plain, Tunnelled
from handfast.rpc.rotation import Method, Rotation
from handfast.rpc.tunnel import Peer

__all__ = ["AioChannel", "aio_channel", "aio_plain_channel"]

Options = Sequence[tuple[str, Any]]


def aio_channel(
    source: Source,
    target: str,
    *,
    server: SpiffeId | str,
    options: Options = (),
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    clock: Clock | None = None,
    freshness: FreshnessPolicy | None = None,
) -> AioChannel:
    """A channel to ``target`` (``HOST:PORT``) that speaks to ``server`` and to nobody else. Call it inside a coroutine.

    Its stubs live as long as the channel: when the certificate of ``source`` or of the server is renewed, new calls go over a
    new connection, and calls and streams that run end where they began. No call is lost.

    A server that is not ``server``, is not trusted, expired or revoked gets no byte, and calls end with
    ``UNAUTHENTICATED`` and the reason (``WRONG_IDENTITY``, ``UNTRUSTED``, ``EXPIRED``, ``REVOKED``, ``STALE_REVOCATIONS``,
    ``UNKNOWN_REVOCATIONS``); :func:`handfast.wire.codec.from_rpc_error` reads it. When the server is revoked the connection is
    cut: calls in flight end with ``UNAVAILABLE``, the next call says why.

    Not promised: load balancing over several addresses (one connection at a time), per-call ``grpc.CallCredentials`` (gRPC
    sends those over its own TLS only; use metadata), and what happens on another event loop.

    Raises ``Invalid`` (``INVALID_ADDRESS``, ``INVALID_SPIFFE_ID``) and ``RuntimeError`` without a running loop.

    >>> import handfast
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> async def charge(request, context):
    ...     return f"paid by {handfast.caller()}".encode()
    >>> async def main():
    ...     handler = grpc.unary_unary_rpc_method_handler(charge)
    ...     payments = grpc.method_handlers_generic_handler("shop.v1.Payments", {"Charge": handler})
    ...     guard = handfast.AioGuard(orders, handfast.allow("spiffe://prod.example/web"))
    ...     server = grpc.aio.server(handlers=[payments], interceptors=[guard])
    ...     port = server.add_secure_port("localhost:0", handfast.server_credentials(orders))
    ...     await server.start()
    ...     async with handfast.aio_channel(web, f"localhost:{port}", server="spiffe://prod.example/orders") as opened:
    ...         print(await opened.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30))
    ...     await server.stop(None)
    ...     guard.close()
    >>> asyncio.run(main())
    b'paid by spiffe://prod.example/web'
    """
    flavour = _AioFlavour(options, compression, interceptors)
    clock = clock or SystemClock()
    peer = Peer.parse(target, server)
    dial = Tunnelled(flavour, source, target, peer, clock, freshness or FreshnessPolicy())
    return AioChannel(Rotation(source, dial, clock=clock, loop=asyncio.get_running_loop()))


def aio_plain_channel(
    source: Source,
    target: str,
    *,
    options: Options = (),
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    clock: Clock | None = None,
) -> AioChannel:
    """As :func:`aio_channel` over gRPC's own TLS, for those who count microseconds. Rotates and drains like it.

    Of the server **only the DNS name** of ``target`` and the path to a root are verified, once, in the handshake: neither its
    SPIFFE ID nor a revocation is seen, and a connection outlives the server's certificate. The server still judges us.

    >>> import handfast
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> async def charge(request, context):
    ...     return f"paid by {handfast.caller()}".encode()
    >>> async def main():
    ...     handler = grpc.unary_unary_rpc_method_handler(charge)
    ...     payments = grpc.method_handlers_generic_handler("shop.v1.Payments", {"Charge": handler})
    ...     guard = handfast.AioGuard(orders, handfast.allow("spiffe://prod.example/web"))
    ...     server = grpc.aio.server(handlers=[payments], interceptors=[guard])
    ...     port = server.add_secure_port("localhost:0", handfast.server_credentials(orders))
    ...     await server.start()
    ...     async with handfast.aio_plain_channel(web, f"localhost:{port}") as opened:
    ...         print(await opened.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30))
    ...     await server.stop(None)
    ...     guard.close()
    >>> asyncio.run(main())
    b'paid by spiffe://prod.example/web'
    """
    flavour = _AioFlavour(options, compression, interceptors)
    dial = Plain(flavour, source, target)
    return AioChannel(Rotation(source, dial, clock=clock or SystemClock(), loop=asyncio.get_running_loop()))


class _AioFlavour(Flavour[grpc.aio.Channel]):
    def __init__(
        self,
        options: Options,
        compression: grpc.Compression | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor],
    ) -> None:
        self._options = tuple(options)
        self._compression = compression
        self._interceptors = tuple(interceptors)

    def open(self, target: str, credentials: grpc.ChannelCredentials | None, authority: str | None) -> grpc.aio.Channel:
        options = (*self._options, ("grpc.default_authority", authority)) if authority else self._options
        if credentials is None:
            return grpc.aio.insecure_channel(target, options, self._compression, self._interceptors)
        return grpc.aio.secure_channel(target, credentials, options, self._compression, self._interceptors)

    async def ready(self, channel: grpc.aio.Channel) -> None:
        await channel.channel_ready()

    async def close(self, channel: grpc.aio.Channel) -> None:
        await channel.close()


class AioChannel(grpc.aio.Channel):
    """A ``grpc.aio.Channel`` over the newest generation. ``failure`` says why the newest connection was not made.

    >>> import handfast
    >>> from handfast.testing import TestAuthority
    >>> web = TestAuthority("prod.example").source("/web")
    >>> async def main():
    ...     async with handfast.aio_channel(web, "127.0.0.1:1", server="spiffe://prod.example/orders") as nobody:
    ...         try:
    ...             await nobody.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30)
    ...         except grpc.RpcError:
    ...             print(nobody.failure)
    >>> asyncio.run(main())
    127.0.0.1:1 cannot be reached: Connection refused
    """

    def __init__(self, rotation: Rotation[grpc.aio.Channel]) -> None:
        self._rotation = rotation
        self._closed = False

    @property
    def failure(self) -> HandfastError | None:
        return self._rotation.present.line.failure

    async def __aenter__(self) -> AioChannel:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends the channel and its calls; with ``grace``, those in flight have so many seconds to end."""
        if not self._closed:
            self._closed = True
            if grace is not None:
                await self._rotation.drained(grace)
            await self._rotation.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._rotation.present.line.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._rotation.present.line.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._rotation.present.line.channel.channel_ready()

    def unary_unary(self, method: str, *shape: Any, **named: Any) -> Any:
        return _MultiCallable(self._rotation, "unary_unary", method, *shape, **named)

    def unary_stream(self, method: str, *shape: Any, **named: Any) -> Any:
        return _MultiCallable(self._rotation, "unary_stream", method, *shape, **named)

    def stream_unary(self, method: str, *shape: Any, **named: Any) -> Any:
        return _MultiCallable(self._rotation, "stream_unary", method, *shape, **named)

    def stream_stream(self, method: str, *shape: Any, **named: Any) -> Any:
        return _MultiCallable(self._rotation, "stream_stream", method, *shape, **named)


class _MultiCallable(Method[grpc.aio.Channel]):
    """Asks for a generation at each call."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        rotation = self.rotation
        generation = rotation.acquire()
        try:
            call = self.on(generation)(*arguments, **named)
        except BaseException:
            rotation.release(generation)
            raise
        call.add_done_callback(lambda _call: rotation.release(generation))
        return call
