"""Second walls: what the library checks although a handshake, a cache or an agent should not have let it come to that."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import handfast
from handfast.access import AccessPolicy, in_trust_domain
from handfast.certificates import Leaf, Usage, pem_chain
from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.errors import Forbidden, HandfastError, Refused
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy
from handfast.rpc.channel import channel
from handfast.rpc.guard import Guard
from handfast.rpc.judging import AuthContext, Judge
from handfast.rpc.server import _Configurations, server_credentials
from handfast.rpc.tunnel import Peer, Tunnel
from handfast.sources import DirectorySource, StaticSource
from handfast.sources.socket import SocketSource
from handfast.testing import ManualClock, TestAuthority
from handfast.tls.context import _Judging
from handfast.wire.codec import snapshot_to_wire
from handfast.wire.v1.workload_pb2_grpc import add_WorkloadServicer_to_server
from tests.library.mesh import COLLECT, UNARY, plain_sync, sync_server
from tests.library.test_guard import SilentRequests
from tests.library.test_socket_source import OneSnapshot
from tests.library.test_tls import accepted, answers, dial, echo
from tests.library.test_tunnel import refusal, write

SERVER = SpiffeId.parse("spiffe://test.example/server")
EVERYBODY = in_trust_domain("test.example")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


# --- the guard ---


def judging(source: StaticSource, policy: AccessPolicy = EVERYBODY) -> Judge:
    return Judge(
        source,
        policy,
        clock=SystemClock(),
        freshness=FreshnessPolicy(),
        open_methods=frozenset(),
        observer=None,
    )


@dataclass(frozen=True)
class Shown:
    """What gRPC says of a call and its handshake."""

    credentials: Credentials
    chain: bool = True

    def auth_context(self) -> AuthContext:
        return {
            "ssl_tls_version": [b"TLSv1.3"],
            "x509_pem_cert": [pem_chain(self.credentials.chain[:1])],
            "x509_pem_cert_chain": [pem_chain(self.credentials.chain[1:]) if self.chain else b""],
        }

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_a_leaf_that_leads_to_no_root_is_refused(authority: TestAuthority) -> None:
    """B8, D13: also if the handshake let it in, and for that reason and no other."""
    stranger = TestAuthority("test.example").issue("/web")
    with pytest.raises(HandfastError) as caught:
        judging(authority.source("/server")).admit(Shown(stranger), UNARY)
    assert caught.value.reason == "UNTRUSTED"


def test_a_known_leaf_with_another_chain_is_judged_anew(authority: TestAuthority) -> None:
    """B8: where the bundle does not carry the issuing CA, the chain is part of what was found good."""
    authority.set_roots([authority.root])
    judge, web = judging(authority.source("/server")), authority.issue("/web")
    assert judge.admit(Shown(web), UNARY) is not None
    with pytest.raises(HandfastError) as caught:
        judge.admit(Shown(web, chain=False), UNARY)
    assert caught.value.reason == "UNTRUSTED"


def test_a_stream_ends_when_the_policy_no_longer_permits_it(authority: TestAuthority) -> None:
    """A19: asked again at every look."""

    class UntilClosed:
        closed = False

        def permits(self, _caller: SpiffeId, _method: str) -> bool:
            return not self.closed

    policy, web = UntilClosed(), authority.issue("/web")
    judge = judging(authority.source("/server"), policy)
    assert judge.still_good(web.leaf, pem_chain(web.chain[1:]), UNARY) is None
    policy.closed = True
    assert isinstance(judge.still_good(web.leaf, pem_chain(web.chain[1:]), UNARY), Forbidden)


def test_a_sync_handler_that_only_reads_is_ended_too(authority: TestAuthority) -> None:
    """C6: it waits for its caller, who says nothing any more, and would answer once."""
    source, web = authority.source("/server"), authority.issue("/web")
    guard, silence = Guard(source, EVERYBODY), SilentRequests()
    arrived = threading.Event()
    with sync_server(source, guard) as (target, echo), plain_sync(target, web) as opened:
        echo.heard = arrived.set
        answer = opened.stream_unary(COLLECT).future(silence)
        try:
            assert arrived.wait(10)
            authority.revoke(web)
            with pytest.raises(grpc.RpcError) as caught:
                answer.result(timeout=10)
        finally:
            silence.done = True
        assert caught.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED}


# --- servers ---


def presented(target: str) -> bytes:
    """The certificate that a server shows, whatever comes of the handshake."""
    host, port = target.split(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=5))


def test_past_its_expiry_a_server_shows_no_certificate_of_its_own() -> None:
    """J8: new handshakes get one that nobody trusts."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock)
    source = authority.source("/server", lifetime=timedelta(minutes=5))
    with sync_server(source, credentials=server_credentials(source, clock=clock)) as (target, _):
        assert presented(target) == source.current().leaf.der
        clock.advance(timedelta(minutes=6))
        assert presented(target) != source.current().leaf.der


def test_without_a_change_a_server_gives_grpc_no_new_configuration(authority: TestAuthority) -> None:
    """H2: one for every handshake ended the process."""
    source = authority.source("/server")
    configurations = _Configurations(source, SystemClock(), True)
    configurations.present()
    assert configurations.fetch() is None
    authority.rotate(source)
    assert configurations.fetch() is not None
    assert configurations.fetch() is None


def test_a_server_does_not_shake_hands_with_who_shows_nothing(authority: TestAuthority) -> None:
    """A19: without a guard the test's own handler would have been reached."""
    anonymous = grpc.ssl_channel_credentials(authority.bundle.roots_pem)
    with sync_server(authority.source("/server")) as (target, _), grpc.secure_channel(target, anonymous) as to:
        with pytest.raises(grpc.RpcError) as caught:
            to.unary_unary(UNARY)(b"", timeout=5)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


# --- channels ---


async def test_a_server_with_a_certificate_for_clients_is_not_spoken_to(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """A1, B8: OpenSSL looks at the usage too; this is the wall behind it."""
    peer = Peer("localhost", 1, SERVER)
    tunnel = Tunnel(
        authority.source("/web"), peer, clock=SystemClock(), freshness=FreshnessPolicy(), path=tmp_path / "tunnel"
    )
    tunnel._judge(authority.issue("/server").leaf)
    with pytest.raises(Refused) as caught:
        tunnel._judge(authority.issue("/server", usages=[Usage.CLIENT]).leaf)
    assert caught.value.reason == "WRONG_USAGE"
    tunnel._listener.close()


def test_with_an_empty_bundle_no_server_is_dialled(authority: TestAuthority) -> None:
    """D12: nothing is trusted, and so nobody is asked."""
    source = authority.source("/web")
    authority.set_roots(())
    with channel(source, "localhost:1", server=SERVER) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary(UNARY)(b"", timeout=10)
    assert opened.failure is not None
    assert opened.failure.reason == "UNTRUSTED"
    assert "UNTRUSTED" in str(caught.value.trailing_metadata())


@contextmanager
def old_server(credentials: Credentials, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Speaks TLS 1.2 and nothing newer; says with whom it shook hands."""
    (tmp_path / "server.pem").write_bytes(credentials.key_pem + credentials.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    listener, shaken = socket.create_server(("127.0.0.1", 0)), list[str]()

    def serve() -> None:
        try:
            near, _ = listener.accept()
            with near, context.wrap_socket(near, server_side=True) as tls:
                shaken.append(str(tls.version()))
        except OSError as error:
            shaken.append(type(error).__name__)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"localhost:{listener.getsockname()[1]}", shaken
    finally:
        thread.join(5)
        listener.close()


def test_a_server_of_tls_1_2_is_not_spoken_to(authority: TestAuthority, tmp_path: Path) -> None:
    """C7: the handshake fails, on our side."""
    with old_server(authority.issue("/server"), tmp_path) as (target, shaken):
        assert refusal(authority, target).reason in {"", "UNAVAILABLE"}
    assert shaken == ["SSLError"]


# --- contexts ---


async def test_a_peer_of_another_trust_domain_under_the_same_root_is_refused(authority: TestAuthority) -> None:
    """D13: even when our own CA signed it, and without a policy."""
    foreign = StaticSource(authority.issue("spiffe://other.example/web"))
    async with echo(handfast.server_context(authority.source("/server"))) as port:
        assert not await accepted(port, handfast.client_context(foreign, SERVER))
        assert await accepted(port, handfast.client_context(authority.source("/web"), SERVER))


@pytest.mark.parametrize("usage", list(Usage))
def test_a_peer_is_verified_whatever_openssl_let_pass(authority: TestAuthority, usage: Usage) -> None:
    """A1, B8: usage and path."""
    snapshot = authority.issue("/us")
    judge = _Judging(StaticSource(snapshot), usage, None, None, SystemClock(), FreshnessPolicy())
    judge.judge(authority.issue("/peer").leaf, snapshot, first=True)
    other = Usage.SERVER if usage is Usage.CLIENT else Usage.CLIENT
    for leaf, reason in (
        (authority.issue("/peer", usages=[other]).leaf, "WRONG_USAGE"),
        (TestAuthority("test.example").issue("/peer").leaf, "UNTRUSTED"),
    ):
        with pytest.raises(HandfastError) as caught:
            judge.judge(leaf, snapshot, first=True)
        assert caught.value.reason == reason


def client_of(version: ssl.TLSVersion, authority: TestAuthority, tmp_path: Path) -> ssl.SSLContext:
    web = authority.issue("/web")
    (tmp_path / "web.pem").write_bytes(web.key_pem + web.chain_pem)
    context = ssl.create_default_context(cadata=web.bundle.roots_pem.decode())
    context.load_cert_chain(tmp_path / "web.pem")
    context.maximum_version = version
    return context


async def test_a_client_of_tls_1_2_is_not_served_though_its_certificate_is_good(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """C7."""
    async with echo(handfast.server_context(authority.source("/server"))) as port:
        assert await accepted(port, client_of(ssl.TLSVersion.TLSv1_3, authority, tmp_path))
        assert not await accepted(port, client_of(ssl.TLSVersion.TLSv1_2, authority, tmp_path))


async def test_a_context_gives_out_no_ticket(authority: TestAuthority, tmp_path: Path) -> None:
    """C7: what cannot be resumed cannot be resumed past a change."""
    client = client_of(ssl.TLSVersion.TLSv1_3, authority, tmp_path)
    async with (
        echo(handfast.server_context(authority.source("/server"))) as port,
        dial(port, client) as (reader, writer),
    ):
        assert await answers(reader, writer)  # a ticket would travel ahead of the answer
        session = writer.get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket


# --- sources ---


def test_a_service_keeps_the_newer_list_and_what_was_announced_when_its_agent_says_less(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """D1, C8: an agent that was set back takes no revocation back."""
    older, revoked = authority.issue("/web"), authority.issue("/other").leaf
    authority.revoke(revoked)
    newer = authority.issue("/web")
    announced = (revoked.issuer_key_id, 4711)
    newer = replace(newer, revocations=newer.revocations.announce([announced]))
    server = grpc.server(ThreadPoolExecutor(2))
    agent = OneSnapshot(snapshot_to_wire(newer))
    add_WorkloadServicer_to_server(agent, server)
    server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    server.start()
    source = SocketSource(tmp_path / "agent.sock", wait=20)
    try:
        assert source.current().leaf == newer.leaf
        again = threading.Event()
        source.subscribe(lambda _credentials: again.set() if holds(source, older.leaf) else None)
        agent._message = snapshot_to_wire(older)
        assert again.wait(20)
        revocations = source.current().revocations
        assert revocations.revoked(revoked.issuer_key_id, revoked.serial)
        assert revocations.revoked(*announced)
    finally:
        source.close()
        server.stop(None).wait(5)


def holds(source: SocketSource, leaf: Leaf) -> bool:
    return source.current().leaf == leaf


def test_an_older_list_in_the_files_is_not_taken(authority: TestAuthority, tmp_path: Path) -> None:
    """D1: the generation that holds it changes nothing."""
    older = authority.issue("/web")
    authority.revoke(4711)
    newer = authority.issue("/web")
    write(tmp_path, newer, "one")
    source, changed = DirectorySource(tmp_path), threading.Event()
    source.subscribe(lambda _credentials: changed.set())
    try:
        write(tmp_path, older, "two")
        assert not changed.wait(0.6)
        assert source.current().revocations.revoked(newer.leaf.issuer_key_id, 4711)
        assert source.current().leaf == newer.leaf
    finally:
        source.close()
