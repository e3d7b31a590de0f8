"""The client's tunnel: TLS ends in our own process, where the server's identity and revocation can be judged.

gRPC verifies DNS names and never a URI, and it reads no revocation list. So it dials a private Unix socket without TLS, and
behind that socket this module opens TLS 1.3, verifies the path to a root of the bundle, the server's SPIFFE ID, its expiry and
its revocation, and only then lets the first byte pass. The same connection is used that was judged: a handshake made
beforehand would prove nothing. Live connections are judged again at every change of the source, and cut.

The socket lies in a directory of mode 0700; whoever is this user, or root, can use the tunnel, as they could the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from handfast.access import judge_credentials
from handfast.certificates import Leaf, Usage, verify_leaf
from handfast.clock import Clock
from handfast.credentials import Credentials, Source
from handfast.errors import HandfastError, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.revocation import FreshnessPolicy

__all__ = ["Tunnel", "open_tunnel"]

_log = logging.getLogger(__name__)
CHUNK = 64 * 1024
HANDSHAKE_SECONDS = 10.0
LONGEST_WITHOUT_LOOK = 1.0
"""Seconds after which a live connection is judged again even without news: expiry, a clock that was set."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to dial, and who it must be."""

    host: str
    port: int
    spiffe_id: SpiffeId

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Tunnel:
    """An open tunnel. ``failure`` is why the newest connection was not let through or was cut; None when it is well."""

    def __init__(self, source: Source, peer: Peer, clock: Clock, freshness: FreshnessPolicy, target: str) -> None:
        self.target = target
        self.failure: HandfastError | None = None
        self.serving: set[asyncio.Task[None]] = set()
        self._source = source
        self._peer = peer
        self._clock = clock
        self._freshness = freshness
        self._news = asyncio.Event()

    def tell(self) -> None:
        """There is a new snapshot: every live connection is judged again. Called on the tunnel's loop."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relays one connection of gRPC's for as long as the server stays good."""
        try:
            far_reader, far_writer, leaf = await self._connect()
        except HandfastError as error:
            self._refuse(error)
            writer.close()
            return
        self.failure = None
        parts = {
            asyncio.ensure_future(_pump(reader, far_writer)),
            asyncio.ensure_future(_pump(far_reader, writer)),
            asyncio.ensure_future(self._watch(leaf)),
        }
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            far_writer.transport.abort()
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Leaf]:
        context = _context(self._source.current())
        peer = self._peer
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                reader, writer = await asyncio.open_connection(peer.host, peer.port, ssl=context, limit=CHUNK)
        except ssl.SSLCertVerificationError as error:
            raise Unauthenticated(
                f"the server at {peer} is not trusted: {error.verify_message}", reason="UNTRUSTED"
            ) from error
        except (OSError, TimeoutError) as error:
            text = str(error) or "no answer in time"
            raise Unavailable(f"{peer} cannot be reached: {text}", hint="is it running there?") from error
        try:
            leaf = Leaf.parse(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            self._judge(leaf)
        except HandfastError as error:
            writer.transport.abort()
            raise Unauthenticated(f"the server at {peer} is refused: {error.message}", reason=error.reason) from error
        return reader, writer, leaf

    def _judge(self, leaf: Leaf) -> None:
        """The path, the identity, then expiry, revocation and freshness. Raises a ``HandfastError``."""
        snapshot, now = self._source.current(), self._clock.now()
        if leaf.spiffe_id != self._peer.spiffe_id:
            raise Unauthenticated(f"it is {leaf.spiffe_id}, not {self._peer.spiffe_id}", reason="WRONG_IDENTITY")
        verify_leaf(
            leaf,
            snapshot.chain[1:],
            snapshot.bundle.roots,
            known=snapshot.bundle.issuers,
            usage=Usage.SERVER,
            now=now,
        )
        verdict = judge_credentials(leaf, snapshot.revocations, now, self._freshness)
        if not verdict.allowed:
            raise Unauthenticated(verdict.message, reason=verdict.reason)

    async def _watch(self, leaf: Leaf) -> None:
        """Ends when the server must not be spoken to any more."""
        while True:
            news = self._news
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_WITHOUT_LOOK):
                    await news.wait()
            try:
                self._judge(leaf)
            except HandfastError as error:
                if error.reason != "STALE_REVOCATIONS":  # keeps out new connections only, as in the guard
                    self._refuse(error)
                    return

    def _refuse(self, error: HandfastError) -> None:
        self.failure = error
        _log.warning("the connection to %s ends: %s", self._peer, error.message)


@contextlib.asynccontextmanager
async def open_tunnel(
    source: Source, target: str, server: SpiffeId, *, clock: Clock, freshness: FreshnessPolicy
) -> AsyncIterator[Tunnel]:
    """Serves the private socket for as long as the block runs. ``target`` is ``HOST:PORT``."""
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise Unavailable(f"address {target!r} is not of the form HOST:PORT", reason="INVALID_ADDRESS")
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="handfast-") as private:
        path = Path(private) / "tunnel"
        peer = Peer(host.strip("[]"), int(port), server)
        tunnel = Tunnel(source, peer, clock, freshness, f"unix:{path}")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tunnel.serving.add(task)
            task.add_done_callback(tunnel.serving.discard)
            with contextlib.suppress(asyncio.CancelledError):
                await tunnel.serve(reader, writer)

        def on_change(_credentials: Credentials | None) -> None:
            loop.call_soon_threadsafe(tunnel.tell)

        unsubscribe = source.subscribe(on_change)
        listening = await asyncio.start_unix_server(serve, path, limit=CHUNK)
        try:
            yield tunnel
        finally:
            unsubscribe()
            listening.close()
            for task in tuple(tunnel.serving):
                task.cancel()
            await asyncio.gather(*tunnel.serving, return_exceptions=True)


def _context(credentials: Credentials) -> ssl.SSLContext:
    if not credentials.bundle.roots:
        raise Unauthenticated("the trust bundle is empty: nothing is trusted", reason="UNTRUSTED")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the SPIFFE ID is checked instead
    context.load_verify_locations(cadata=credentials.bundle.roots_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    # ssl reads keys from files only: this one lies in memory and has no name.
    memory = os.memfd_create("handfast", os.MFD_CLOEXEC)
    try:
        os.write(memory, credentials.key_pem + credentials.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
