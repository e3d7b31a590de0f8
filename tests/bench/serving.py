"""A process of services: each on an agent's socket of its own, with a guard, mutual TLS and a port.

It reads the sockets as a line of JSON on stdin, answers with the ports in the same order, and ends with the next line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

import handfast

__all__ = ["ASK", "FOLLOW"]

SERVICE = "handfast.bench.Peer"
ASK, FOLLOW = f"/{SERVICE}/Ask", f"/{SERVICE}/Follow"


async def ask(_request: bytes, _context: Any) -> bytes:
    return b""


async def follow(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    """Says one thing, and then nothing: what ends it is not its own traffic."""
    yield b"begun"
    await asyncio.Event().wait()


async def main() -> None:
    job = json.loads(sys.stdin.readline())
    async with contextlib.AsyncExitStack() as stack:
        ports = [await serve(stack, socket, job["caller"]) for socket in job["sockets"]]
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def serve(stack: contextlib.AsyncExitStack, socket: str, caller: str) -> int:
    source = await asyncio.to_thread(handfast.from_socket, socket)
    stack.callback(source.close)
    guard = handfast.AioGuard(source, handfast.allow(caller))
    stack.callback(guard.close)
    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(ask),
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server = grpc.aio.server(interceptors=[guard], handlers=[handler])
    port: int = server.add_secure_port("localhost:0", handfast.server_credentials(source))
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return port


if __name__ == "__main__":
    asyncio.run(main())
