"""Callers that grpcio lets in, or would: the handshake's gaps, and the guard behind them."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc.experimental.session_cache import ssl_session_cache_lru

from handfast.access import in_trust_domain
from handfast.certificates import pem_chain, subject_key_id
from handfast.errors import Unauthenticated, Unavailable
from handfast.keys import dump_private_key_pem, generate
from handfast.revocation import EMPTY
from handfast.rpc.guard import AioGuard, Guard
from handfast.rpc.server import server_credentials
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.codec import from_rpc_error
from tests.library.mesh import UNARY, aio_server, client_credentials, plain_aio, plain_sync, sync_server

EVERYBODY = in_trust_domain("test.example")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def tls_client(authority: TestAuthority, directory: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    web = authority.issue("/web")
    (directory / "web.pem").write_bytes(web.key_pem + web.chain_pem)
    context = ssl.create_default_context(cadata=web.bundle.roots_pem.decode())
    context.maximum_version = version
    context.load_cert_chain(directory / "web.pem")
    context.set_alpn_protocols(["h2"])
    return context


def resumes(target: str, context: ssl.SSLContext, between: Callable[[], object] = lambda: None) -> bool:
    """Connects twice, the second time with the ticket of the first; tells whether the server took it."""
    host, port = target.split(":")
    session: ssl.SSLSession | None = None
    reused = False
    for _ in range(2):
        with (
            socket.create_connection((host, int(port)), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=host, session=session) as tls,
        ):
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")  # RFC 9113, 3.4: preface, empty SETTINGS
            tls.recv(1)  # the ticket travels ahead of the server's SETTINGS
            session, reused = tls.session, bool(tls.session_reused)
        between()
    return reused


@pytest.mark.parametrize("change", ["leaf", "list", "bundle"])
def test_no_session_is_resumed_past_a_change(authority: TestAuthority, tmp_path: Path, change: str) -> None:
    """C7: whatever a ticket proved, after a change of leaf, list or bundle the next handshake proves anew."""
    context = tls_client(authority, tmp_path, ssl.TLSVersion.TLSv1_3)
    source = authority.source("/server")
    changes: dict[str, Callable[[], object]] = {
        "leaf": lambda: authority.rotate(source),
        "list": authority.refresh_list,
        "bundle": lambda: authority.set_roots([authority.root], [authority.issuer]),
    }
    with sync_server(source) as (target, _):
        assert not resumes(target, context, changes[change])


def test_a_resumed_session_is_judged_like_any_other(authority: TestAuthority) -> None:
    """C2, C7: the second wall. The server takes the ticket, and the guard refuses whom it was given to."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock)
    source = authority.source("/server", lifetime=timedelta(hours=3))
    guard = Guard(source, EVERYBODY, clock=clock)
    web = authority.issue("/web")
    tickets = ssl_session_cache_lru(4)  # type: ignore[no-untyped-call]
    options = (("grpc.ssl_session_cache", tickets), ("grpc.use_local_subchannel_pool", 1))
    reused: list[bool] = []

    def handler(request: bytes, context: Any) -> bytes:
        reused.append(context.auth_context()["ssl_session_reused"] == [b"true"])
        return request

    def call() -> bytes:
        with grpc.secure_channel(target, client_credentials(web), options=options) as channel:
            return bytes(channel.unary_unary("/test.Reused/Unary")(b"x", timeout=10))

    with sync_server(source, guard, more=handler) as (target, _):
        assert (call(), call()) == (b"x", b"x")
        assert reused == [False, True]
        clock.advance(timedelta(hours=1, seconds=1))
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert from_rpc_error(refused.value).reason == "EXPIRED"
    assert len(reused) == 2


def test_handshakes_by_the_dozen_while_the_source_changes_end_nobody() -> None:
    """H2: the C core of gRPC ended the process when every handshake was given a configuration of its own."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.library.handshake_storm", "600"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=55)
    assert (ended.returncode, ended.stdout.strip()) == (0, "600"), ended.stderr


def test_the_resumption_test_bites(authority: TestAuthority, tmp_path: Path) -> None:
    """C7: with static credentials, which keep their tickets, the same client does resume."""
    context = tls_client(authority, tmp_path, ssl.TLSVersion.TLSv1_3)
    server = authority.issue("/server")
    static = grpc.ssl_server_credentials(
        [(server.key_pem, server.chain_pem)], server.bundle.roots_pem, require_client_auth=True
    )
    with sync_server(authority.source("/server"), credentials=static) as (target, _):
        assert resumes(target, context)


class Relay:
    """Speaks TLS of one version to the server on behalf of a plain client: grpcio offers no such setting."""

    def __init__(self, target: str, context: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._host, port = target.split(":")
        self._target = (self._host, int(port))
        self._context = context
        self.version: str | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = self._context.wrap_socket(socket.create_connection(self._target), server_hostname=self._host)
        self.version = far.version()
        self._far, self._near = far, near
        threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
        self._pump(far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            return  # one side went away, which is how each test ends

    def close(self) -> None:
        for one in (self._near, self._far):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by its peer already
            finally:
                one.close()
        self._listener.close()


@contextmanager
def relay(target: str, context: ssl.SSLContext) -> Iterator[Relay]:
    opened = Relay(target, context)
    try:
        yield opened
    finally:
        opened.close()


def test_tls_1_2_is_refused_by_the_guard(authority: TestAuthority, tmp_path: Path) -> None:
    """Facts, gRPC 7: grpcio cannot switch it off."""
    source = authority.source("/server")
    context = tls_client(authority, tmp_path, ssl.TLSVersion.TLSv1_2)
    with sync_server(source, Guard(source, EVERYBODY)) as (target, _), relay(target, context) as old:
        with grpc.insecure_channel(f"127.0.0.1:{old.port}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(UNARY)(b"", timeout=10)
        assert old.version == "TLSv1.2"
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason) == (Unauthenticated, "TLS_VERSION")


async def test_a_signing_certificate_is_no_caller(authority: TestAuthority) -> None:
    """A1: a CA's certificate, with a SPIFFE ID and a chain that the handshake takes."""
    key = generate()
    now = authority.clock.now()
    certificate = (
        x509.CertificateBuilder(authority.issuer.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://test.example/web")]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, False, False, False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier(subject_key_id(authority.issuer), None, None), critical=False)
        .sign(authority.issuer_key, hashes.SHA256())
    )
    source = authority.source("/server")
    credentials = grpc.ssl_channel_credentials(
        authority.bundle.roots_pem, dump_private_key_pem(key), pem_chain([certificate, authority.issuer])
    )
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        grpc.aio.secure_channel(target, credentials) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY)(b"")
    assert from_rpc_error(caught.value).reason == "NOT_AN_SVID"


async def test_a_foreign_authority_fails_in_the_handshake(authority: TestAuthority) -> None:
    """D13: nobody of another mesh even reaches the guard."""
    source, stranger = authority.source("/server"), TestAuthority("test.example").issue("/web")
    credentials = grpc.ssl_channel_credentials(authority.bundle.roots_pem, stranger.key_pem, stranger.chain_pem)
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        grpc.aio.secure_channel(target, credentials) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_no_revocation_list_means_nobody(authority: TestAuthority) -> None:
    """D6: fail closed until the first valid list."""
    source = authority.source("/server")
    source.publish(replace(source.current(), revocations=EMPTY))
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        plain_aio(target, authority.issue("/web")) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(UNARY)(b"")
    assert from_rpc_error(caught.value).reason == "UNKNOWN_REVOCATIONS"


def test_a_server_past_its_own_expiry_serves_nobody() -> None:
    """J8: new handshakes fail, and calls on open connections are refused with the reason."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock)
    source, web = authority.source("/server", lifetime=timedelta(minutes=5)), authority.issue("/web")
    credentials = server_credentials(source, clock=clock)
    guard = Guard(source, EVERYBODY, clock=clock)
    with sync_server(source, guard, credentials=credentials) as (target, _), plain_sync(target, web) as channel:
        call = channel.unary_unary(UNARY)
        assert call(b"", timeout=10)
        clock.advance(timedelta(minutes=6))
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
        error = from_rpc_error(caught.value)
        assert (type(error), error.reason) == (Unavailable, "NO_CREDENTIALS")
        fresh = grpc.secure_channel(target, client_credentials(web), [("grpc.use_local_subchannel_pool", 1)])
        with fresh, pytest.raises(grpc.RpcError) as caught:
            fresh.unary_unary(UNARY)(b"", timeout=3)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_roots_rotate_without_a_restart(authority: TestAuthority) -> None:
    """J11: whoever a new root vouches for is let in by the next handshake."""
    successor = TestAuthority("test.example")
    source = authority.source("/server")
    with sync_server(source) as (target, _):
        newcomer = successor.issue("/web")
        trusting = grpc.ssl_channel_credentials(authority.bundle.roots_pem, newcomer.key_pem, newcomer.chain_pem)
        with grpc.secure_channel(target, trusting) as early, pytest.raises(grpc.RpcError):
            early.unary_unary(UNARY)(b"", timeout=2)
        authority.set_roots((authority.root, successor.root), (authority.issuer, successor.issuer))
        late_options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(target, trusting, late_options) as late, pytest.raises(grpc.RpcError) as caught:
            late.unary_unary(UNARY)(b"", timeout=5)
        # Without a guard the test's own handler asks who calls: the call arrived.
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


def test_an_overdue_list_is_served_and_alarmed_once(caplog: pytest.LogCaptureFixture) -> None:
    """D2: STALE."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock, list_validity=timedelta(hours=6))
    source, web = (
        authority.source("/server", lifetime=timedelta(hours=9)),
        authority.issue("/web", lifetime=timedelta(hours=9)),
    )
    with sync_server(source, Guard(source, EVERYBODY, clock=clock)) as (target, _), plain_sync(target, web) as channel:
        call = channel.unary_unary(UNARY)
        assert call(b"", timeout=10)
        assert not caplog.records
        clock.advance(timedelta(hours=3))
        for _ in range(3):
            assert call(b"", timeout=10)
    assert [record.message.split(" of ")[0] for record in caplog.records] == ["revocation list 1"]
