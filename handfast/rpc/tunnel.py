"""The client's tunnel: TLS ends in our own process, where the server's identity and revocation can be judged.

gRPC verifies DNS names and never a URI, and it reads no revocation list. So it dials a private Unix socket without TLS, and
behind that socket this module opens TLS 1.3, verifies the path to a root of the bundle, the server's SPIFFE ID, its expiry and
its revocation, and only then lets the first byte pass. The same connection is used that was judged: a handshake made
beforehand would prove nothing. Live connections are judged again at every change of the source, and cut.

A call to a server that is refused ends with the reason as its status, which :mod:`handfast.rpc.refusals` gives.

The socket lies in a directory of mode 0700; whoever is this user, or root, can use the tunnel, as they could the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from handfast.access import judge_credentials
from handfast.certificates import Leaf, Usage, verify_leaf
from handfast.clock import Clock
from handfast.credentials import Credentials, Source
from handfast.errors import HandfastError, Invalid, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.overdue import OverdueAlarm
from handfast.revocation import FreshnessPolicy
from handfast.rpc.folder import private_folder
from handfast.rpc.pipes import Pipe, dial, dial_unix, relay
from handfast.rpc.refusals import Refusals
from handfast.rpc.unreachable import why_unreachable

__all__ = ["Connection", "Peer", "Tunnel", "open_tunnel"]

_log = logging.getLogger(__name__)
HANDSHAKE_SECONDS = 10.0
LONGEST_WITHOUT_LOOK = 1.0
"""Seconds after which a live connection is judged again even without news: expiry, a clock that was set."""
REFUSAL_SECONDS = 1.0
"""How long a refused server stays refused without being asked again, unless the source has news."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to dial, and who it must be."""

    host: str
    port: int
    spiffe_id: SpiffeId

    @classmethod
    def parse(cls, target: str, server: SpiffeId | str) -> Peer:
        """``target`` is ``HOST:PORT``, with brackets around an IPv6 address. Raises ``Invalid``."""
        host, _, port = target.rpartition(":")
        if not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
            raise Invalid(f"address {target[:80]!a} is not of the form HOST:PORT", reason="INVALID_ADDRESS")
        return cls(host.strip("[]"), int(port), SpiffeId.parse(server) if isinstance(server, str) else server)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Connection:
    """Who proved what to whom on a connection: our leaf and the server's."""

    own: Leaf
    server: Leaf | None


class Tunnel:
    """Listens from the moment it is made; serves while :meth:`run` runs.

    ``failure`` is why the newest connection was not let through or was cut; None when it is well.
    """

    def __init__(
        self,
        source: Source,
        peer: Peer,
        *,
        clock: Clock,
        freshness: FreshnessPolicy,
        path: Path,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        """Binds ``path``, or raises ``OSError``. ``on_connected`` is called on the tunnel's loop whenever a server was let through."""
        self.target = f"unix:{path}"
        self.failure: HandfastError | None = None
        self.connection: Connection | None = None
        self._source = source
        self._peer = peer
        self._clock = clock
        self._freshness = freshness
        self._alarm = OverdueAlarm(freshness)
        self._on_connected = on_connected
        self._news = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self._refusals = Refusals(path.with_suffix(".refused"))
        self._listener = _listening(path)

    def tell(self) -> None:
        """There is a new snapshot: every live connection is judged again. Called on the tunnel's loop."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def run(self) -> None:
        """Serves until it is cancelled; then every connection is gone."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Pipe(self._accept), sock=self._listener)
        try:
            await server.serve_forever()
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            self._refusals.close()

    def _accept(self, near: Pipe) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(near))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _task: near.abort())  # also when it was cancelled before it began

    async def _serve(self, near: Pipe) -> None:
        """Relays one connection of gRPC's for as long as the server stays good."""
        try:
            await self._relay_to_server(near)
        except Unavailable as error:
            self._note(error)
            if error.reason == "NO_CREDENTIALS":
                await self._refuse(error, near)
        except HandfastError as error:
            self._note(error)
            await self._refuse(error, near)
        finally:
            await near.close()

    async def _relay_to_server(self, near: Pipe) -> None:
        snapshot = self._source.current()
        far, leaf = await self._connect(snapshot)
        self.failure = None
        connection = self.connection = Connection(snapshot.leaf, leaf)
        self._on_connected()
        try:
            await relay(near, far, self._watch(leaf))
        finally:
            if self.connection is connection:
                self.connection = None

    async def _connect(self, snapshot: Credentials) -> tuple[Pipe, Leaf]:
        peer = self._peer
        try:
            context = _context(snapshot)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                far = await dial(peer.host, peer.port, context)
        except ssl.SSLCertVerificationError as error:
            raise Unauthenticated(
                f"the server at {peer} is not trusted: {error.verify_message}", reason="UNTRUSTED"
            ) from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"{peer} cannot be reached: {why_unreachable(error)}", hint="is it running there?"
            ) from error
        try:
            leaf = Leaf.parse(far.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
            self._judge(leaf)
        except HandfastError as error:
            far.abort()
            raise Unauthenticated(f"the server at {peer} is refused: {error.message}", reason=error.reason) from error
        return far, leaf

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
        if verdict.reason != "OK":
            self._alarm.raise_for(leaf, snapshot.revocations, verdict)

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
                    self._note(error)
                    return

    def _note(self, error: HandfastError) -> None:
        # Said once for each reason: a server that stays away is dialled again and again.
        level = logging.DEBUG if self.failure is not None and self.failure.reason == error.reason else logging.WARNING
        self.failure = error
        _log.log(level, "no connection to %s: %s", self._peer, error.message)

    async def _refuse(self, error: HandfastError, near: Pipe) -> None:
        """Lets gRPC speak to the one who answers every call with ``error``, for a moment."""
        news = self._news
        far = await dial_unix(self._refusals.answering(error))

        async def for_a_moment() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL_SECONDS):
                    await news.wait()

        await relay(near, far, for_a_moment())


@contextlib.asynccontextmanager
async def open_tunnel(source: Source, peer: Peer, *, clock: Clock, freshness: FreshnessPolicy) -> AsyncIterator[Tunnel]:
    """A tunnel on the running loop for as long as the block runs, which follows its source."""
    loop = asyncio.get_running_loop()
    with private_folder("handfast-") as private:
        tunnel = Tunnel(source, peer, clock=clock, freshness=freshness, path=Path(private) / "tunnel")

        def tell(_credentials: Credentials | None) -> None:
            loop.call_soon_threadsafe(tunnel.tell)

        unsubscribe = source.subscribe(tell)
        running = asyncio.create_task(tunnel.run())
        try:
            yield tunnel
        finally:
            unsubscribe()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


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
