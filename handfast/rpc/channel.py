"""Channels for sync gRPC whose stubs survive rotations and that judge their server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc

from handfast.clock import Clock, SystemClock
from handfast.credentials import Source
from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy
from handfast.rpc.lines import Flavour, Plain, Tunnelled
from handfast.rpc.rotation import Line, Method, Rotation
from handfast.rpc.tunnel import Peer

__all__ = ["Channel", "channel", "plain_channel"]

T = TypeVar("T")
Options = Sequence[tuple[str, Any]]


def channel(
    source: Source,
    target: str,
    *,
    server: SpiffeId | str,
    options: Options = (),
    compression: grpc.Compression | None = None,
    clock: Clock | None = None,
    freshness: FreshnessPolicy | None = None,
) -> Channel:
    """A channel to ``target`` (``HOST:PORT``) that speaks to ``server`` and to nobody else; close it, or use it in ``with``.

    Promises, refusals and what is not promised are those of :func:`handfast.rpc.aio_channel.aio_channel`. Interceptors:
    ``grpc.intercept_channel(channel(…), …)``. Raises ``Invalid`` (``INVALID_ADDRESS``, ``INVALID_SPIFFE_ID``).

    >>> import handfast
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> charge = grpc.unary_unary_rpc_method_handler(lambda request, context: f"paid by {handfast.caller()}".encode())
    >>> payments = grpc.method_handlers_generic_handler("shop.v1.Payments", {"Charge": charge})
    >>> guard = handfast.Guard(orders, handfast.allow("spiffe://prod.example/web"))
    >>> server = grpc.server(ThreadPoolExecutor(1), handlers=[payments], interceptors=[guard])
    >>> port = server.add_secure_port("localhost:0", handfast.server_credentials(orders))
    >>> server.start()
    >>> with handfast.channel(web, f"localhost:{port}", server="spiffe://prod.example/orders") as opened:
    ...     opened.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30)
    b'paid by spiffe://prod.example/web'
    >>> _ = server.stop(None).wait()
    >>> guard.close()
    """
    flavour = _SyncFlavour(options, compression)
    clock = clock or SystemClock()
    peer = Peer.parse(target, server)
    return Channel(source, Tunnelled(flavour, source, target, peer, clock, freshness or FreshnessPolicy()), clock)


def plain_channel(
    source: Source,
    target: str,
    *,
    options: Options = (),
    compression: grpc.Compression | None = None,
    clock: Clock | None = None,
) -> Channel:
    """As :func:`channel` over gRPC's own TLS: of the server **only the DNS name** is verified, once, in the handshake.

    See :func:`handfast.rpc.aio_channel.aio_plain_channel` for what that means.

    >>> import handfast
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> charge = grpc.unary_unary_rpc_method_handler(lambda request, context: f"paid by {handfast.caller()}".encode())
    >>> payments = grpc.method_handlers_generic_handler("shop.v1.Payments", {"Charge": charge})
    >>> guard = handfast.Guard(orders, handfast.allow("spiffe://prod.example/web"))
    >>> server = grpc.server(ThreadPoolExecutor(1), handlers=[payments], interceptors=[guard])
    >>> port = server.add_secure_port("localhost:0", handfast.server_credentials(orders))
    >>> server.start()
    >>> with handfast.plain_channel(web, f"localhost:{port}") as opened:
    ...     opened.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30)
    b'paid by spiffe://prod.example/web'
    >>> _ = server.stop(None).wait()
    >>> guard.close()
    """
    return Channel(source, Plain(_SyncFlavour(options, compression), source, target), clock or SystemClock())


class _SyncFlavour(Flavour[grpc.Channel]):
    def __init__(self, options: Options, compression: grpc.Compression | None) -> None:
        self._options = tuple(options)
        self._compression = compression

    def open(self, target: str, credentials: grpc.ChannelCredentials | None, authority: str | None) -> grpc.Channel:
        options = (*self._options, ("grpc.default_authority", authority)) if authority else self._options
        if credentials is None:
            return grpc.insecure_channel(target, options, self._compression)
        return grpc.secure_channel(target, credentials, options, self._compression)

    async def ready(self, channel: grpc.Channel) -> None:
        loop = asyncio.get_running_loop()
        found = asyncio.Event()

        def on_state(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                loop.call_soon_threadsafe(found.set)

        channel.subscribe(on_state, try_to_connect=True)
        try:
            await found.wait()
        finally:
            channel.unsubscribe(on_state)

    async def close(self, channel: grpc.Channel) -> None:
        await asyncio.to_thread(channel.close)


class _LoopThread:
    """The event loop on which the tunnels of one channel run, in a thread that ends with it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="handfast-channel", daemon=True)
        self._thread.start()

    def run(self, act: Callable[[], Any]) -> Any:
        """The result of the coroutine that ``act`` makes."""
        return asyncio.run_coroutine_threadsafe(act(), self.loop).result()

    def close(self) -> None:
        self.run(self.loop.shutdown_default_executor)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Channel(grpc.Channel):
    """A ``grpc.Channel`` over the newest generation. ``failure`` says why the newest connection was not made.

    >>> import handfast
    >>> from handfast.testing import TestAuthority
    >>> web = TestAuthority("prod.example").source("/web")
    >>> with handfast.channel(web, "127.0.0.1:1", server="spiffe://prod.example/orders") as nobody:
    ...     try:
    ...         nobody.unary_unary("/shop.v1.Payments/Charge")(b"", timeout=30)
    ...     except grpc.RpcError:
    ...         print(nobody.failure)
    127.0.0.1:1 cannot be reached: Connection refused
    """

    def __init__(self, source: Source, dial: Callable[..., Line[grpc.Channel]], clock: Clock) -> None:
        self._subscribers: list[Callable[[grpc.ChannelConnectivity], None]] = []
        self._thread: _LoopThread | None = _LoopThread()
        loop = self._thread.loop

        async def start() -> Rotation[grpc.Channel]:
            return Rotation(source, dial, clock=clock, loop=loop, on_swap=self._on_swap)

        try:
            self._rotation: Rotation[grpc.Channel] = self._thread.run(start)
        except BaseException:
            self._thread.close()
            raise

    @property
    def failure(self) -> HandfastError | None:
        return self._rotation.present.line.failure

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._rotation.close)
            thread.close()

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        self._subscribers.append(callback)
        self._rotation.present.line.channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._subscribers.remove(callback)
        self._rotation.present.line.channel.unsubscribe(callback)

    def _on_swap(self, old: grpc.Channel, fresh: grpc.Channel) -> None:
        for callback in tuple(self._subscribers):
            old.unsubscribe(callback)
            fresh.subscribe(callback)

    def unary_unary(self, method: str, *shape: Any, **named: Any) -> Any:
        return _OneResponse(self._rotation, "unary_unary", method, *shape, **named)

    def unary_stream(self, method: str, *shape: Any, **named: Any) -> Any:
        return _ManyResponses(self._rotation, "unary_stream", method, *shape, **named)

    def stream_unary(self, method: str, *shape: Any, **named: Any) -> Any:
        return _OneResponse(self._rotation, "stream_unary", method, *shape, **named)

    def stream_stream(self, method: str, *shape: Any, **named: Any) -> Any:
        return _ManyResponses(self._rotation, "stream_stream", method, *shape, **named)


class _MultiCallable(Method[grpc.Channel]):
    """Asks for a generation at each call."""

    def _started(self, start: Callable[[Any], T], on_end: Callable[[T, Callable[[], None]], bool | None]) -> T:
        """Starts a call that goes on after we return, and gives its generation back when it has ended."""
        rotation = self.rotation
        generation = rotation.acquire()
        try:
            call = start(self.on(generation))
        except BaseException:
            rotation.release(generation)
            raise
        if on_end(call, lambda: rotation.release(generation)) is False:
            rotation.release(generation)  # it had ended before
        return call


class _OneResponse(_MultiCallable):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        generation = self.rotation.acquire()
        try:
            return self.on(generation)(*arguments, **named)
        finally:
            self.rotation.release(generation)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        generation = self.rotation.acquire()
        try:
            return self.on(generation).with_call(*arguments, **named)
        finally:
            self.rotation.release(generation)

    def future(self, *arguments: Any, **named: Any) -> Any:
        return self._started(
            lambda inner: inner.future(*arguments, **named),
            lambda call, release: call.add_done_callback(lambda _call: release()),
        )


class _ManyResponses(_MultiCallable):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._started(lambda inner: inner(*arguments, **named), lambda call, release: call.add_callback(release))
