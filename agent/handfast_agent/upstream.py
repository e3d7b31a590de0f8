"""The CA as the driver sees it: four calls, errors as ours, answers parsed and not yet believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handfast.certificates import load_certificates
from handfast.clock import Clock
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Invalid, Unauthenticated, Unavailable
from handfast.identity import SpiffeId, TrustDomain
from handfast.lifetime import RenewalWindow
from handfast.wire import codec
from handfast.wire.crls import change_from_wire, reader_to_wire
from handfast.wire.v1 import authority_pb2, report_pb2, trust_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast_agent.acceptance import Answer
from handfast_agent.config import CaAddress, TrustPin
from handfast_agent.order import Order
from handfast_agent.trust import News, Trust
from handfast_agent.tunnel import Peer, tunnel
from handfast_agent.witness import offer

__all__ = ["GrpcUpstream", "Upstream", "pinned_roots", "read_answer", "read_news"]

M = TypeVar("M")
T = TypeVar("T")

CALL_SECONDS = 15.0
MAX_BUNDLE_BYTES = 1024 * 1024
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),  # backoff.py alone decides when to ask again
)


class Upstream(Protocol):
    """Every method raises a ``HandfastError`` and never returns half an answer."""

    async def enrol(self, token: str, csr: bytes, spiffe_id: SpiffeId, trust: Trust) -> Answer:
        """The roots of ``trust``, or else the pinned one, must have vouched for the CA before the token leaves."""
        ...

    async def renew(self, present: Credentials, csr: bytes) -> Answer: ...

    async def get_trust(self, present: Credentials, trust: Trust, *, whole: bool = False) -> News:
        """The state as it is, without the revocation lists that ``present`` has; with them when ``whole``. ``trust`` is offered
        as by :meth:`watch_trust`.
        """
        ...

    async def report(self, report: report_pb2.StatusReport) -> None:
        """Over the connection of the watch that is open; ``Unavailable`` (``NOT_CONNECTED``) while there is none."""
        ...

    def watch_trust(self, present: Credentials, trust: Trust) -> AsyncIterator[News]:
        """The state first, without the revocation lists that ``present`` has, then every change; ends or raises when the
        connection does.

        ``trust`` is offered before that, so that a CA which was restored learns from it (threat J9).
        """
        ...


async def pinned_roots(pin: TrustPin, address: str) -> tuple[x509.Certificate, ...]:
    """The root that the pin names. Raises ``Unauthenticated`` (``PIN_MISMATCH``) or ``Unavailable``."""
    if pin.file is not None:
        try:
            return load_certificates(pin.file.read_bytes())
        except OSError as error:
            raise Unavailable(f"root {pin.file} cannot be read: {error.strerror}", reason="NO_PIN") from error
    offered = load_certificates(await asyncio.to_thread(_download, f"{address.rstrip('/')}/bundle.pem"))
    matching = tuple(root for root in offered if root.fingerprint(hashes.SHA256()) == pin.fingerprint)
    if not matching:
        raise Unauthenticated(
            f"none of the {len(offered)} roots at {address} has the pinned fingerprint",
            reason="PIN_MISMATCH",
            hint="compare trust.fingerprint with what `handfast ca init` printed",
        )
    return matching


def _download(url: str) -> bytes:
    """A plain GET: no proxy, no redirect. What it brings is worth nothing until a pin matches."""
    import http.client  # asked for once in the life of an agent whose pin is a fingerprint, and never by others

    try:
        address = urlsplit(url)
        host, port = address.hostname or "", address.port
    except ValueError as error:
        raise Invalid(f"{url} is not an http address: {error}", reason="INVALID_CONFIG") from error
    if not host or address.scheme not in ("http", "https"):
        raise Invalid(f"{url} is not an http address", reason="INVALID_CONFIG")
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=CALL_SECONDS)
    try:
        connection.request("GET", address.path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unavailable(f"the trust bundle at {url} cannot be fetched: HTTP status {answer.status}")
        return answer.read(MAX_BUNDLE_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the trust bundle at {url} cannot be fetched: {error}") from error
    finally:
        connection.close()


class GrpcUpstream:
    """Over ``handfast.v1.Authority``. Each call dials anew: the identity it presents is the present one."""

    def __init__(self, ca: CaAddress, trust_domain: TrustDomain, pin: TrustPin, clock: Clock) -> None:
        self._ca = ca
        self._server = SpiffeId(trust_domain, "/handfast/ca")
        self._pin = pin
        self._clock = clock
        self._watching: Any = None

    async def enrol(self, token: str, csr: bytes, spiffe_id: SpiffeId, trust: Trust) -> Answer:
        roots: Sequence[x509.Certificate] = trust.bundle.roots if trust.bundle else ()
        peer = Peer(
            self._ca.enrol, self._server, roots or await pinned_roots(self._pin, self._ca.http), trust.revocations
        )
        request = authority_pb2.EnrolRequest(join_token=token, csr=csr, spiffe_id=str(spiffe_id))
        async with self._stub(peer) as stub:
            answer = read_answer(await stub.Enrol(request, timeout=CALL_SECONDS))
        bundle = answer.news.bundle
        if bundle is None or not set(peer.roots) & set(bundle.roots):
            raise Unauthenticated(
                "the CA answered with a bundle that lacks the root it was trusted for", reason="PIN_MISMATCH"
            )
        return answer

    async def renew(self, present: Credentials, csr: bytes) -> Answer:
        async with self._stub(self._peer(present)) as stub:
            request = authority_pb2.RenewRequest(csr=csr, crl_reader=reader_to_wire(present.revocations))
            return read_answer(await stub.Renew(request, timeout=CALL_SECONDS))

    async def get_trust(self, present: Credentials, trust: Trust, *, whole: bool = False) -> News:
        reader = None if whole else reader_to_wire(present.revocations)
        async with self._stub(self._peer(present)) as stub:
            await offer(stub, trust)
            request = authority_pb2.GetTrustRequest(crl_reader=reader)
            return read_news(await stub.GetTrust(request, timeout=CALL_SECONDS))

    async def watch_trust(self, present: Credentials, trust: Trust) -> AsyncIterator[News]:
        async with self._stub(self._peer(present)) as stub:
            await offer(stub, trust)
            self._watching = stub
            request = authority_pb2.WatchTrustRequest(crl_reader=reader_to_wire(present.revocations))
            try:
                async for update in stub.WatchTrust(request):
                    yield read_news(update)
            finally:
                if self._watching is stub:  # and not that of a later watch, which began before this one ended
                    self._watching = None

    async def report(self, report: report_pb2.StatusReport) -> None:
        if self._watching is None:
            raise Unavailable("no watch is open to report over", reason="NOT_CONNECTED")
        try:
            await self._watching.ReportStatus(report, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise codec.from_rpc_error(error) from error
        except asyncio.CancelledError:
            # So gRPC ends the calls of a channel that somebody else closes, here the watch. Nobody cancelled this task.
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            raise Unavailable("the watch ended while a report was on its way", reason="NOT_CONNECTED") from None

    def _peer(self, present: Credentials) -> Peer:
        return Peer(self._ca.address, self._server, present.bundle.roots, present.revocations, present)

    @contextlib.asynccontextmanager
    async def _stub(self, peer: Peer) -> AsyncIterator[Any]:
        async with tunnel(peer, self._clock) as opened, grpc.aio.insecure_channel(opened.target, _OPTIONS) as channel:
            try:
                yield AuthorityStub(channel)
            except grpc.aio.AioRpcError as error:
                raise opened.failure or codec.from_rpc_error(error) from error


def read_answer(issued: authority_pb2.IssuedCredentials) -> Answer:
    """Raises ``Unavailable`` (``ANSWER_MALFORMED``)."""
    return _read(_parse_answer, issued)


def read_news(update: trust_pb2.TrustUpdate) -> News:
    """Raises ``Unavailable`` (``ANSWER_MALFORMED``)."""
    return _read(_parse_news, update)


def _parse_answer(issued: authority_pb2.IssuedCredentials) -> Answer:
    window = None
    if issued.HasField("renewal"):
        window = RenewalWindow(
            codec.time_from_wire(issued.renewal.not_before), codec.time_from_wire(issued.renewal.not_after)
        )
    return Answer(codec.certificates_from_wire(issued.chain), _parse_news(issued.trust), window)


def _parse_news(update: trust_pb2.TrustUpdate) -> News:
    return News(
        bundle=codec.bundle_from_wire(update.bundle) if update.HasField("bundle") else None,
        crls=tuple(crl.der for crl in update.crls),
        changes=tuple(map(change_from_wire, update.crl_changes)),
        announced=codec.announced_from_wire(update.announced),
        order=_parse_order(update) if update.HasField("reissue") and update.HasField("sent_at") else None,
    )


def _parse_order(update: trust_pb2.TrustUpdate) -> Order:
    """Its end counts from the CA's clock when it sent this, so that ours need not agree with it."""
    order = update.reissue
    tainted_at, end = codec.time_from_wire(order.tainted_at), codec.time_from_wire(order.renew_before)
    return Order(
        tainted_at,
        window=max(end - tainted_at, timedelta()),
        left=end - codec.time_from_wire(update.sent_at),
        backdate=codec.duration_from_wire(order.backdate),
    )


def _read(read: Callable[[M], T], message: M) -> T:
    """A message of the CA that cannot be read is the CA's fault, and worth another attempt."""
    try:
        return read(message)
    except HandfastError as error:
        raise Unavailable(f"the CA's answer cannot be read: {error.message}", reason="ANSWER_MALFORMED") from error
