"""TLS contexts that follow a source: what uvicorn, aiohttp and http.server get."""

from __future__ import annotations

import asyncio
import http.server
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

import handfast
from handfast.sources import StaticSource
from handfast.testing import TestAuthority

SERVER = "spiffe://test.example/server"
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the connection was broken, as the test wants
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


@asynccontextmanager
async def dial(port: int, context: ssl.SSLContext) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether a byte comes back; False when the connection is broken."""
    try:
        async with asyncio.timeout(10):
            writer.write(b"x")
            await writer.drain()
            return await reader.read(1) == b"x"
    except OSError:
        return False


async def accepted(port: int, context: ssl.SSLContext) -> bool:
    try:
        async with dial(port, context) as connection:
            return await answers(*connection)
    except OSError:
        return False


async def test_a_revoked_client_is_refused_on_its_open_connection_and_on_new_ones(authority: TestAuthority) -> None:
    """C6"""
    source, web = authority.source("/server"), authority.source("/web")
    async with (
        echo(handfast.server_context(source)) as port,
        dial(port, handfast.client_context(web, SERVER)) as connection,
    ):
        assert await answers(*connection)
        authority.revoke(web.current())
        assert not await answers(*connection)
        assert not await accepted(port, handfast.client_context(web, SERVER))
        assert await accepted(port, handfast.client_context(authority.source("/other"), SERVER))


async def test_a_revoked_server_is_refused_on_an_open_connection_and_on_new_ones(authority: TestAuthority) -> None:
    """C6, the other direction."""
    source, web = authority.source("/server"), authority.source("/web")
    stranger = StaticSource(source.current())  # does not hear of its own revocation
    context = handfast.client_context(web, SERVER)
    async with echo(handfast.server_context(stranger)) as port, dial(port, context) as connection:
        assert await answers(*connection)
        authority.revoke(source.current())
        assert not await answers(*connection)
        with pytest.raises(ssl.SSLError, match="REVOKED"):
            async with dial(port, context):
                pass


async def test_contexts_follow_rotations_without_a_restart(authority: TestAuthority) -> None:
    source, web = authority.source("/server"), authority.source("/web")
    client = handfast.client_context(web, SERVER)
    async with echo(handfast.server_context(source)) as port:
        serials = set()
        for _ in range(5):
            async with dial(port, client) as (reader, writer):
                assert await answers(reader, writer)
                serials.add(writer.get_extra_info("peercert")["serialNumber"])
            authority.rotate()
        assert len(serials) == 5


async def test_the_servers_identity_is_demanded_and_without_one_its_name(authority: TestAuthority) -> None:
    """D13"""
    web = authority.source("/web")
    async with echo(handfast.server_context(authority.source("/impostor"))) as port:
        with pytest.raises(ssl.SSLError, match="WRONG_IDENTITY"):
            async with dial(port, handfast.client_context(web, SERVER)):
                pass
        assert await accepted(port, handfast.client_context(web))
    async with echo(handfast.server_context(authority.source("/server", dns_names=("elsewhere",)))) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
            async with dial(port, handfast.client_context(web)):
                pass


async def test_a_policy_decides_who_may_connect(authority: TestAuthority) -> None:
    source = authority.source("/server")
    context = handfast.server_context(source, handfast.allow("spiffe://test.example/web"))
    async with echo(context) as port:
        assert await accepted(port, handfast.client_context(authority.source("/web"), SERVER))
        assert not await accepted(port, handfast.client_context(authority.source("/other"), SERVER))


async def test_neither_tls_1_2_nor_a_client_without_a_certificate_is_served(authority: TestAuthority) -> None:
    source = authority.source("/server")
    async with echo(handfast.server_context(source)) as port:
        bare = ssl.create_default_context(cadata=source.current().bundle.roots_pem.decode())
        assert not await accepted(port, bare)
        old = ssl.create_default_context(cadata=source.current().bundle.roots_pem.decode())
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not await accepted(port, old)


async def test_withdrawn_credentials_break_open_connections_and_make_no_new_ones(authority: TestAuthority) -> None:
    source, web = authority.source("/server"), authority.source("/web")
    async with (
        echo(handfast.server_context(source)) as port,
        dial(port, handfast.client_context(web, SERVER)) as connection,
    ):
        assert await answers(*connection)
        source.publish(None)
        assert not await answers(*connection)
        assert not await accepted(port, handfast.client_context(web, SERVER))


@contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_words: object) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_request: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_blocking_sockets_are_judged_too(authority: TestAuthority) -> None:
    """C6"""
    source, web = authority.source("/server"), authority.source("/web")
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        blocking_server(handfast.server_context(source)) as port,
        socket.create_connection(("localhost", port), timeout=10) as raw,
        handfast.client_context(web, SERVER).wrap_socket(raw) as connection,
    ):
        connection.sendall(request)
        first = b""
        while not first.endswith(b"ok"):
            first += connection.recv(4096)
        authority.revoke(web.current())
        # Our own context does not judge ourselves: the server is who breaks it.
        assert rest(connection, request) == b""


def rest(connection: ssl.SSLSocket, request: bytes) -> bytes:
    """What comes after one more request, until the connection is broken."""
    got = b""
    try:
        connection.sendall(request)
        while data := connection.recv(4096):
            got += data
    except OSError:
        pass
    return got
