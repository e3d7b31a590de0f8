"""A small gRPC service over bytes, sync and aio, and clients for it: what the library's tests call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from handfast.credentials import Credentials, Source
from handfast.rpc.caller import caller
from handfast.rpc.server import server_credentials

SERVICE = "test.Echo"
UNARY, STREAM, BOTH, COLLECT = (f"/{SERVICE}/{name}" for name in ("Unary", "Stream", "Both", "Collect"))


class AioEcho:
    """Answers with the caller's identity; streams one message, then waits."""

    def __init__(self) -> None:
        self.cleaned_up = asyncio.Event()

    async def unary(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return str(caller().spiffe_id).encode() + b" " + request

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield str(caller().spiffe_id).encode()
            await asyncio.sleep(60)
            yield b"too late"
        finally:
            self.cleaned_up.set()

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield str(caller().spiffe_id).encode() + b" " + request

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])


class SyncEcho:
    def __init__(self) -> None:
        self.cleaned_up = threading.Event()
        self.release = threading.Event()
        self.heard: Callable[[], None] = lambda: None

    def unary(self, request: bytes, context: Any) -> bytes:
        return str(caller().spiffe_id).encode() + b" " + request

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        try:
            yield str(caller().spiffe_id).encode()
            while not self.release.wait(0.02) and context.is_active():
                yield b"tick"
        finally:
            self.cleaned_up.set()

    def both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield str(caller().spiffe_id).encode() + b" " + request

    def collect(self, requests: Iterator[bytes], context: Any) -> bytes:
        got = b""
        for request in requests:
            got += request
            self.heard()
        return got


def handlers(echo: AioEcho | SyncEcho) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
            "Stream": grpc.unary_stream_rpc_method_handler(echo.stream),
            "Both": grpc.stream_stream_rpc_method_handler(echo.both),
            "Collect": grpc.stream_unary_rpc_method_handler(echo.collect),
        },
    )


@asynccontextmanager
async def aio_server(source: Source, *interceptors: Any, credentials: Any = None) -> AsyncIterator[tuple[str, AioEcho]]:
    echo = AioEcho()
    server = grpc.aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers(echo),))
    port = server.add_secure_port("127.0.0.1:0", credentials or server_credentials(source))
    await server.start()
    try:
        yield f"localhost:{port}", echo
    finally:
        await server.stop(None)
        for interceptor in interceptors:
            interceptor.close()


@contextmanager
def sync_server(
    source: Source, *interceptors: Any, credentials: Any = None, more: Any = None
) -> Iterator[tuple[str, SyncEcho]]:
    """``more`` handles ``/test.Reused/Unary``."""
    echo = SyncEcho()
    server = grpc.server(ThreadPoolExecutor(8), interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers(echo),))
    if more is not None:
        own = grpc.method_handlers_generic_handler("test.Reused", {"Unary": grpc.unary_unary_rpc_method_handler(more)})
        server.add_generic_rpc_handlers((own,))
    port = server.add_secure_port("127.0.0.1:0", credentials or server_credentials(source))
    server.start()
    try:
        yield f"localhost:{port}", echo
    finally:
        echo.release.set()
        server.stop(None).wait(5)
        for interceptor in interceptors:
            interceptor.close()


def client_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(credentials.bundle.roots_pem, credentials.key_pem, credentials.chain_pem)


def plain_aio(target: str, credentials: Credentials) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(target, client_credentials(credentials))


def plain_sync(target: str, credentials: Credentials) -> grpc.Channel:
    return grpc.secure_channel(target, client_credentials(credentials))
