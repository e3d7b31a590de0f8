"""The CA as the driver sees it: four calls, errors as ours, answers parsed and not yet believed."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeVar

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
from handfast.wire.v1 import authority_pb2, trust_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast_agent.acceptance import Answer
from handfast_agent.config import CaAddress, TrustPin
from handfast_agent.trust import News, Trust
from handfast_agent.tunnel import Peer, tunnel

__all__ = ["GrpcUpstream", "Upstream", "pinned_roots"]

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

    async def get_trust(self, present: Credentials, *, whole: bool = False) -> News:
        """The state as it is, without the revocation lists that ``present`` has; with them when ``whole``."""
        ...

    def watch_trust(self, present: Credentials) -> AsyncIterator[News]:
        """The whole state first, then every change; ends or raises when the connection does."""
        ...


async def pinned_roots(pin: TrustPin, http: str) -> tuple[x509.Certificate, ...]:
    """The root that the pin names. Raises ``Unauthenticated`` (``PIN_MISMATCH``) or ``Unavailable``."""
    if pin.file is not None:
        try:
            return load_certificates(pin.file.read_bytes())
        except OSError as error:
            raise Unavailable(f"root {pin.file} cannot be read: {error.strerror}", reason="NO_PIN") from error
    offered = load_certificates(await asyncio.to_thread(_download, f"{http.rstrip('/')}/bundle.pem"))
    matching = tuple(root for root in offered if root.fingerprint(hashes.SHA256()) == pin.fingerprint)
    if not matching:
        raise Unauthenticated(
            f"none of the {len(offered)} roots at {http} has the pinned fingerprint",
            reason="PIN_MISMATCH",
            hint="compare trust.fingerprint with what `handfast ca init` printed",
        )
    return matching


def _download(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise Invalid(f"{url} is not an http address", reason="INVALID_CONFIG")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=CALL_SECONDS) as answer:
            return bytes(answer.read(MAX_BUNDLE_BYTES))
    except OSError as error:
        raise Unavailable(f"the trust bundle at {url} cannot be fetched: {error}") from error


class GrpcUpstream:
    """Over ``handfast.v1.Authority``. Each call dials anew: the identity it presents is the present one."""

    def __init__(self, ca: CaAddress, trust_domain: TrustDomain, pin: TrustPin, clock: Clock) -> None:
        self._ca = ca
        self._server = SpiffeId(trust_domain, "/handfast/ca")
        self._pin = pin
        self._clock = clock

    async def enrol(self, token: str, csr: bytes, spiffe_id: SpiffeId, trust: Trust) -> Answer:
        roots: Sequence[x509.Certificate] = trust.bundle.roots if trust.bundle else ()
        peer = Peer(
            self._ca.enrol, self._server, roots or await pinned_roots(self._pin, self._ca.http), trust.revocations
        )
        request = authority_pb2.EnrolRequest(join_token=token, csr=csr, spiffe_id=str(spiffe_id))
        async with self._stub(peer) as stub:
            answer = _answer(await stub.Enrol(request, timeout=CALL_SECONDS))
        bundle = answer.news.bundle
        if bundle is None or not set(peer.roots) & set(bundle.roots):
            raise Unauthenticated(
                "the CA answered with a bundle that lacks the root it was trusted for", reason="PIN_MISMATCH"
            )
        return answer

    async def renew(self, present: Credentials, csr: bytes) -> Answer:
        async with self._stub(self._peer(present)) as stub:
            request = authority_pb2.RenewRequest(csr=csr, crl_reader=reader_to_wire(present.revocations))
            return _answer(await stub.Renew(request, timeout=CALL_SECONDS))

    async def get_trust(self, present: Credentials, *, whole: bool = False) -> News:
        reader = None if whole else reader_to_wire(present.revocations)
        async with self._stub(self._peer(present)) as stub:
            request = authority_pb2.GetTrustRequest(crl_reader=reader)
            return _read(_news, await stub.GetTrust(request, timeout=CALL_SECONDS))

    async def watch_trust(self, present: Credentials) -> AsyncIterator[News]:
        async with self._stub(self._peer(present)) as stub:
            request = authority_pb2.WatchTrustRequest(crl_reader=reader_to_wire(present.revocations))
            async for update in stub.WatchTrust(request):
                yield _read(_news, update)

    def _peer(self, present: Credentials) -> Peer:
        return Peer(self._ca.address, self._server, present.bundle.roots, present.revocations, present)

    @contextlib.asynccontextmanager
    async def _stub(self, peer: Peer) -> AsyncIterator[Any]:
        async with tunnel(peer, self._clock) as opened, grpc.aio.insecure_channel(opened.target, _OPTIONS) as channel:
            try:
                yield AuthorityStub(channel)
            except grpc.aio.AioRpcError as error:
                raise opened.failure or codec.from_rpc_error(error) from error


def _answer(issued: authority_pb2.IssuedCredentials) -> Answer:
    return _read(_parse_answer, issued)


def _parse_answer(issued: authority_pb2.IssuedCredentials) -> Answer:
    window = None
    if issued.HasField("renewal"):
        window = RenewalWindow(
            codec.time_from_wire(issued.renewal.not_before), codec.time_from_wire(issued.renewal.not_after)
        )
    return Answer(codec.certificates_from_wire(issued.chain), _news(issued.trust), window)


def _news(update: trust_pb2.TrustUpdate) -> News:
    return News(
        bundle=codec.bundle_from_wire(update.bundle) if update.HasField("bundle") else None,
        crls=tuple(crl.der for crl in update.crls),
        changes=tuple(map(change_from_wire, update.crl_changes)),
        announced=codec.announced_from_wire(update.announced),
    )


def _read(read: Callable[[M], T], message: M) -> T:
    """A message of the CA that cannot be read is the CA's fault, and worth another attempt."""
    try:
        return read(message)
    except HandfastError as error:
        raise Unavailable(f"the CA's answer cannot be read: {error.message}", reason="ANSWER_MALFORMED") from error
