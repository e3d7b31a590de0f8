"""A CA for the agent's tests: real gRPC over real TLS, everything in memory, with levers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, pem_chain
from handfast.clock import Clock, SystemClock
from handfast.csr import binding, parse_csr
from handfast.errors import HandfastError, Refused, Unauthenticated
from handfast.keys import generate
from handfast.rpc.server import server_credentials
from handfast.testing import TestAuthority
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, report_pb2, trust_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityServicer, add_AuthorityServicer_to_server

TOKEN = "hft_" + "A" * 43


class PeerAuthority(AuthorityServicer):
    """Answers as the CA does. The attributes below are the levers."""

    def __init__(self, authority: TestAuthority, *, identity: str = "/handfast/ca") -> None:
        self.authority = authority
        self.source = authority.source(identity)
        self.tokens: dict[str, str] = {TOKEN: f"spiffe://{authority.trust_domain}/web"}
        self.lifetime = timedelta(hours=1)
        self.window: tuple[Any, Any] | None = None
        self.refusal: HandfastError | None = None
        self.garbage = False
        self.wrong_key = False
        self.wrong_identity = False
        self.announce_answer = False
        self.stranger: TestAuthority | None = None
        self.lose_answers = 0
        self.old_list: bytes | None = None
        self.bundle: TrustBundle | None = None
        self.announced: tuple[tuple[bytes, int], ...] = ()
        self.order: trust_pb2.Reissue | None = None
        self.reports: list[report_pb2.StatusReport] = []
        self.clock: Clock = SystemClock()
        self.change: trust_pb2.CrlChange | None = None
        self.asked_whole = 0
        self.enrolments: list[str] = []
        self.renewals: list[int] = []
        self.keys: list[bytes] = []
        self._answered: dict[bytes, authority_pb2.IssuedCredentials] = {}
        self.checkpoints: list[authority_pb2.Checkpoint] = []
        self.wants_lists = False
        self.answers_reports = asyncio.Event()
        self.answers_reports.set()
        self.offered: list[bytes] = []
        self.slow_answer: asyncio.Event | None = None
        self.answering = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()
        self.streams_opened = self._hang_ups = 0
        self.hold: asyncio.Event | None = None
        self.turned_away: HandfastError | None = None
        self.mtls_port = self.enrol_port = self.http_port = 0

    async def Enrol(self, request: Any, context: Any) -> authority_pb2.IssuedCredentials:
        try:
            return self.enrol(request.join_token, request.csr)
        except HandfastError as error:
            await codec.abort(context, error)
            raise

    async def Renew(self, request: Any, context: Any) -> authority_pb2.IssuedCredentials:
        leaf = Leaf.parse_pem(context.auth_context()["x509_pem_cert"][0])
        try:
            return self.renew(leaf, request.csr)
        except HandfastError as error:
            await codec.abort(context, error)
            raise

    def enrol(self, token: str, csr: bytes) -> authority_pb2.IssuedCredentials:
        """As a first certificate is asked for. Raises a ``HandfastError``."""
        self.enrolments.append(token)
        return self._issue(token.encode(), csr, self._redeem(token, csr))

    def renew(self, leaf: Leaf, csr: bytes) -> authority_pb2.IssuedCredentials:
        """As the next one is asked for over mutual TLS. Raises a ``HandfastError``."""
        self.renewals.append(leaf.serial)
        if self.authority.revocations.revoked(leaf.issuer_key_id, leaf.serial):
            raise Unauthenticated("the certificate is revoked", reason="REVOKED")
        return self._issue(leaf.der, csr, str(leaf.spiffe_id))

    async def GetTrust(self, request: Any, context: Any) -> trust_pb2.TrustUpdate:
        self.asked_whole += not request.HasField("crl_reader")
        answer = self.trust()
        if self.slow_answer is not None:
            self.answering.set()
            await self.slow_answer.wait()
        return answer

    async def OfferCheckpoint(self, request: Any, context: Any) -> authority_pb2.CheckpointAnswer:
        self.checkpoints.append(request)
        wanted = [one.sha256 for one in request.lists if one.held] if self.wants_lists else []
        return authority_pb2.CheckpointAnswer(wanted=wanted)

    async def OfferCrl(self, request: AsyncIterator[Any], context: Any) -> authority_pb2.OfferCrlResponse:
        self.offered.append(b"".join([part.der async for part in request]))
        return authority_pb2.OfferCrlResponse()

    async def ReportStatus(self, request: Any, context: Any) -> report_pb2.StatusReceipt:
        self.reports.append(request)
        await self.answers_reports.wait()
        return report_pb2.StatusReceipt()

    async def WatchTrust(self, request: Any, context: Any) -> AsyncIterator[trust_pb2.TrustUpdate]:
        if self.turned_away is not None:
            await codec.abort(context, self.turned_away)
        news = asyncio.Event()
        self._watchers.add(news)
        self.streams_opened += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
            hung_up = self._hang_ups
            while True:
                news.clear()
                yield self.trust() if self.change is None else trust_pb2.TrustUpdate(crl_changes=[self.change])
                await news.wait()
                if self._hang_ups != hung_up:
                    return
        finally:
            self._watchers.discard(news)

    def push(self) -> None:
        """Every watcher is told the present state."""
        for news in self._watchers:
            news.set()

    def hang_up(self) -> None:
        """Ends every trust stream without a word of news."""
        self._hang_ups += 1
        self.push()

    @property
    def answers(self) -> set[bytes]:
        """The leaves of all requests that it has answered, or whose answer it lost: it repeats them."""
        return {answer.chain[0] for answer in self._answered.values()}

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def _redeem(self, token: str, csr: bytes) -> str:
        if csr in self._answered:
            return ""
        identity = self.tokens.pop(token, None)
        if identity is None:
            raise Refused("the join token was used", reason="TOKEN_SPENT")
        return identity

    def _issue(self, credential: bytes, csr: bytes, identity: str) -> authority_pb2.IssuedCredentials:
        if self.refusal is not None:
            raise self.refusal
        request = parse_csr(csr)
        assert request.binding == binding(credential)
        if csr not in self._answered:
            self.keys.append(request.spki_sha256)
            self._answered[csr] = self._answer(request, identity)
        if self.lose_answers:
            self.lose_answers -= 1
            raise HandfastError("the answer was lost", reason="LOST")
        return self._answered[csr]

    def _answer(self, request: Any, identity: str) -> authority_pb2.IssuedCredentials:
        if self.garbage:
            return authority_pb2.IssuedCredentials(chain=[b"garbage"])
        name = f"spiffe://{self.authority.trust_domain}/thief" if self.wrong_identity else identity
        key = generate().public_key() if self.wrong_key else request.public_key
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(name)]
        names += [x509.DNSName(n) for n in request.dns_names]
        signer = self.stranger or self.authority
        leaf = signer.sign_leaf(key, names, lifetime=self.lifetime)
        if self.announce_answer:
            self.announced += ((Leaf.of(leaf).issuer_key_id, leaf.serial_number),)
        answer = authority_pb2.IssuedCredentials(chain=[codec.der(leaf), codec.der(signer.issuer)], trust=self.trust())
        if self.window is not None:
            answer.renewal.not_before.CopyFrom(codec.time_to_wire(self.window[0]))
            answer.renewal.not_after.CopyFrom(codec.time_to_wire(self.window[1]))
        return answer

    def trust(self) -> trust_pb2.TrustUpdate:
        crls = codec.crls_to_wire(self.authority.revocations)
        if self.old_list is not None:
            crls = [trust_pb2.Crl(der=self.old_list)]
        return trust_pb2.TrustUpdate(
            whole=True,
            bundle=codec.bundle_to_wire(self.bundle or self.authority.bundle),
            crls=crls,
            announced=codec.announced_to_wire(self.announced),
            reissue=self.order,
            sent_at=codec.time_to_wire(self.clock.now()),
        )


@contextlib.asynccontextmanager
async def running(peer: PeerAuthority) -> AsyncIterator[PeerAuthority]:
    """The two gRPC ports and the plain HTTP port of a CA, on loopback. A second run takes the same ports again."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_AuthorityServicer_to_server(peer, server)
    peer.mtls_port = server.add_secure_port(f"127.0.0.1:{peer.mtls_port}", server_credentials(peer.source))
    peer.enrol_port = server.add_secure_port(
        f"127.0.0.1:{peer.enrol_port}", server_credentials(peer.source, require_client=False)
    )
    await server.start()
    http = ThreadingHTTPServer(("127.0.0.1", peer.http_port), _bundle_handler(peer))
    peer.http_port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        await server.stop(0)


def _bundle_handler(peer: PeerAuthority) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pem_chain(peer.authority.bundle.roots)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # named by http.server
            """Tests look at results, not at requests."""

    return Handler
