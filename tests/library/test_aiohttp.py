"""aiohttp over mutual TLS on both sides, with `handfast.tls`: what its own pool of connections makes of rotations and revocations."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

import handfast
from handfast.sources import StaticSource
from handfast.testing import TestAuthority

SERVER = "spiffe://test.example/server"
pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def serving(source: handfast.Source) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        shown = request.get_extra_info("ssl_object").getpeercert()["subjectAltName"]
        return web.Response(text=dict(shown)["URI"])

    application = web.Application()
    application.router.add_get("/who", answer)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=handfast.server_context(source))
    await site.start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}/who"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calling(source: handfast.Source, server: str = SERVER) -> AsyncIterator[ClientSession]:
    context = handfast.client_context(source, server)
    async with ClientSession(connector=TCPConnector(ssl=context), timeout=ClientTimeout(30)) as session:
        yield session


async def ask(session: ClientSession, address: str) -> str:
    """Who we are to the server, or that either side broke the connection."""
    try:
        async with session.get(address) as response:
            return await response.text()
    except (ClientError, ssl.SSLError, ConnectionError):
        return "refused"


async def test_aiohttp_follows_rotations_and_refuses_a_revoked_client_on_its_open_connection() -> None:
    """C6."""
    authority = TestAuthority()
    source, caller, other = authority.source("/server"), authority.issue("/web"), authority.source("/other")
    async with serving(source) as address, calling(StaticSource(caller)) as session, calling(other) as another:
        assert await ask(session, address) == "spiffe://test.example/web"
        authority.rotate()
        assert await ask(session, address) == "spiffe://test.example/web"
        assert await ask(another, address) == "spiffe://test.example/other"
        authority.revoke(caller)
        assert await ask(session, address) == "refused"
        assert await ask(session, address) == "refused"
        assert await ask(another, address) == "spiffe://test.example/other"


async def test_aiohttp_asks_nothing_of_a_revoked_server_nor_of_another_one() -> None:
    """C6."""
    authority = TestAuthority()
    source, other = StaticSource(authority.issue("/server")), authority.source("/other")
    async with serving(source) as address, calling(other) as session, calling(other, SERVER + "x") as mistaken:
        assert await ask(mistaken, address) == "refused"
        assert await ask(session, address) == "spiffe://test.example/other"
        authority.revoke(source.current())
        assert await ask(session, address) == "refused"
        source.publish(authority.issue("/server"))
        assert await ask(session, address) == "spiffe://test.example/other"
