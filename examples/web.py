"""A FastAPI application behind uvicorn over mutual TLS, and a client for it: any HTTP stack that takes an SSLContext will do.

``serve`` and ``client`` are what to copy, with ``handfast.connect()`` for a source. Ends with 0 only if everything happened
as it says; the authority is one in memory.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fastapi
import httpx2
import uvicorn

import handfast
from handfast.sources import StaticSource
from handfast.testing import TestAuthority

IDENTITY = "spiffe://shop.example/stock"
POLICY = handfast.allow("spiffe://shop.example/web")
"""Judged for each connection, and again at each of its reads and writes when there is news."""

app = fastapi.FastAPI()


@app.get("/stock/{item}")
async def stock(item: str) -> dict[str, str | int]:
    return {"item": item, "in_stock": 7}


@asynccontextmanager
async def serve(source: handfast.Source, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        ssl_context_factory=lambda _config, _default: handfast.server_context(source, POLICY),
        log_level="critical",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def client(source: handfast.Source, address: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=address, verify=handfast.client_context(source, IDENTITY))


async def ask(caller: httpx2.AsyncClient) -> str:
    """What the service answers, or that it refused."""
    try:
        answer = await caller.get("/stock/teapot")
    except (httpx2.TransportError, ssl.SSLError):
        return "refused"
    return answer.text


async def ask_anew(source: handfast.Source, address: str) -> str:
    async with client(source, address) as caller:
        return await ask(caller)


async def main() -> bool:
    authority = TestAuthority("shop.example")
    serving, web = authority.source("/stock"), authority.issue("/web")
    listener = socket.create_server(("localhost", 0))
    address = f"https://localhost:{listener.getsockname()[1]}"
    said = []
    async with serve(serving, listener), client(StaticSource(web), address) as shop:
        said.append(("web asks", await ask(shop)))
        authority.rotate(serving)
        said.append(("the server rotates; web asks over a new connection", await ask_anew(StaticSource(web), address)))
        said.append(("a stranger asks", await ask_anew(authority.source("/stranger"), address)))
        authority.revoke(web)
        said.append(("web is revoked; it asks over its open connection", await ask(shop)))
        said.append(("web asks over a new connection", await ask_anew(StaticSource(web), address)))
        said.append(("web asks with a new certificate", await ask_anew(authority.source("/web"), address)))
    for who, answer in said:
        print(f"{who}: {answer}")
    served = '{"item":"teapot","in_stock":7}'
    return [answer for _, answer in said] == [served, served, "refused", "refused", "refused", served]


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
