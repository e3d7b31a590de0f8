"""Towards the CA: TLS ends here, in the agent, so that nothing is said to anybody but the CA (threat B8).

gRPC verifies DNS names and never a SPIFFE ID. So it dials a private Unix socket, and behind it this module opens TLS
1.3, checks the path to a trusted root, the SPIFFE ID ``spiffe://TD/handfast/ca`` and the known revocations, and only
then lets the first byte pass. A handshake made beforehand would prove nothing about the connection that is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from handfast.certificates import Leaf, Usage, pem_chain
from handfast.clock import Clock
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.revocation import EMPTY, Revocations
from handfast.rpc.folder import private_folder
from handfast.rpc.pipes import Pipe, dial, relay
from handfast.rpc.unreachable import why_unreachable

__all__ = ["Peer", "Tunnel", "tunnel"]

_log = logging.getLogger(__name__)
HANDSHAKE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to speak to, and how to know it. Without ``credentials`` only the server proves who it is."""

    address: str
    spiffe_id: SpiffeId
    roots: Sequence[x509.Certificate]
    revocations: Revocations = EMPTY
    credentials: Credentials | None = None


@dataclass
class Tunnel:
    """An open tunnel. ``failure`` is why the last connection was not let through."""

    target: str
    failure: HandfastError | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


@contextlib.asynccontextmanager
async def tunnel(peer: Peer, clock: Clock) -> AsyncIterator[Tunnel]:
    """Serves a Unix socket in a directory of its own (0700) for as long as the block runs. Raises ``Unavailable``
    (``NO_RESOURCES``) when this machine has no room for it: a full disk, too many open files.
    """
    async with contextlib.AsyncExitStack() as stack:
        with _in_words():
            context = _context(peer)
            socket = Path(stack.enter_context(private_folder("handfast-agent-"))) / "ca"
        opened = Tunnel(f"unix:{socket}")

        def accept(near: Pipe) -> None:
            task = asyncio.get_running_loop().create_task(_relay(peer, clock, context, opened, near))
            opened.tasks.add(task)
            task.add_done_callback(opened.tasks.discard)
            task.add_done_callback(lambda _task: near.abort())  # also when it was cancelled before it began

        with _in_words():
            server = await asyncio.get_running_loop().create_unix_server(lambda: Pipe(accept), os.fspath(socket))
        try:
            yield opened
        finally:
            server.close()
            for task in tuple(opened.tasks):
                task.cancel()
            await asyncio.gather(*opened.tasks, return_exceptions=True)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"a connection to the CA cannot be made ready: {error.strerror or error}",
            reason="NO_RESOURCES",
            hint="is the temporary directory full, or are too many files open?",
        ) from error


def _context(peer: Peer) -> ssl.SSLContext:
    if not peer.roots:
        raise Unauthenticated("there is no root to verify the CA with", reason="UNTRUSTED")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the SPIFFE ID is checked instead, below
    context.load_verify_locations(cadata=pem_chain(peer.roots).decode())
    context.set_alpn_protocols(["h2"])
    if peer.credentials is not None:
        _load_identity(context, peer.credentials)
    return context


def _load_identity(context: ssl.SSLContext, credentials: Credentials) -> None:
    """ssl reads keys from files only: this one lives in memory and has no name."""
    file = os.memfd_create("handfast", os.MFD_CLOEXEC)
    try:
        os.write(file, credentials.key_pem + credentials.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


async def _relay(peer: Peer, clock: Clock, context: ssl.SSLContext, opened: Tunnel, near: Pipe) -> None:
    try:
        far = await _connect(peer, clock, context)
    except HandfastError as error:
        opened.failure = error
        _log.warning("the CA at %s is not spoken to: %s", peer.address, error.message)
        return
    opened.failure = None
    await relay(near, far)


async def _connect(peer: Peer, clock: Clock, context: ssl.SSLContext) -> Pipe:
    host, _, port = peer.address.rpartition(":")
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            far = await dial(host.strip("[]"), int(port), context)
    except ssl.SSLCertVerificationError as error:
        raise Unauthenticated(
            f"the server at {peer.address} is not the CA: {error.verify_message}",
            reason="UNTRUSTED",
            hint="is the pinned root the one that `handfast ca init` printed?",
        ) from error
    except (OSError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"the CA at {peer.address} cannot be reached: {why_unreachable(error)}",
            hint="is `handfast ca serve` running there, and is `ca` in the configuration right?",
        ) from error
    try:
        _check(peer, clock, far.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
    except HandfastError:
        far.abort()
        raise
    return far


def _check(peer: Peer, clock: Clock, presented: bytes) -> None:
    try:
        leaf = Leaf.parse(presented)
    except HandfastError as error:
        raise Unauthenticated(
            f"the server at {peer.address} is not the CA: {error.message}", reason=error.reason
        ) from error
    if leaf.spiffe_id != peer.spiffe_id:
        raise Unauthenticated(
            f"the server at {peer.address} is {leaf.spiffe_id}, not {peer.spiffe_id}", reason="WRONG_IDENTITY"
        )
    if Usage.SERVER not in leaf.usages or not leaf.validity.contains(clock.now()):
        raise Unauthenticated(f"the certificate of {leaf} is not valid for a server now", reason="EXPIRED")
    if peer.revocations.revoked(leaf.issuer_key_id, leaf.serial):
        # A reason of its own: REVOKED is what the CA says of the agent's certificate, and ends that one.
        raise Unauthenticated(f"the CA's own certificate is revoked: {leaf}", reason="CA_REVOKED")
