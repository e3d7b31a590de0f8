"""An ``ssl.SSLContext`` that follows a source, and whose connections are judged for as long as they live.

Every connection gets a context of the present snapshot, so that a rotation needs no restart; sessions are not resumed. After
the handshake, and again at every read and write when the source has news, the peer is judged: its SPIFFE ID, its path to a
root of the present bundle, expiry and revocation. A peer that is no longer good finds the connection broken at the next
byte in either direction.

Not promised: a reason that the peer could read (TLS has an alert, HTTP no place for more), and that an idle connection closes
before its next byte.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from handfast.access import AccessPolicy, judge_credentials
from handfast.certificates import Leaf, Usage, verify_leaf
from handfast.clock import Clock, SystemClock
from handfast.credentials import Credentials, Source
from handfast.errors import HandfastError, Unauthenticated
from handfast.identity import SpiffeId
from handfast.overdue import OverdueAlarm
from handfast.revocation import FreshnessPolicy

__all__ = ["JudgedContext", "client_context", "server_context"]

ANY_METHOD = "/tls/connect"
"""What a policy is asked for: TLS knows no methods, so one that names methods permits nobody here."""


def server_context(
    source: Source,
    policy: AccessPolicy | None = None,
    *,
    clock: Clock | None = None,
    freshness: FreshnessPolicy | None = None,
) -> ssl.SSLContext:
    """For servers: demands a client certificate of the trust bundle, TLS 1.3, and that ``policy`` permits its SPIFFE ID.

    Without a policy every identity of the own trust domain may connect. A policy is asked with method ``/tls/connect``.

    >>> import asyncio, handfast
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> async def greet(reader, writer):
    ...     writer.write(b"welcome")
    ...     writer.close()
    >>> async def main():
    ...     ours = handfast.server_context(orders, handfast.allow("spiffe://prod.example/web"))
    ...     theirs = handfast.client_context(web, "spiffe://prod.example/orders")
    ...     async with await asyncio.start_server(greet, "127.0.0.1", ssl=ours) as server:
    ...         host, port = server.sockets[0].getsockname()
    ...         reader, writer = await asyncio.open_connection(host, port, ssl=theirs)
    ...         print(await reader.read())
    ...         writer.close()
    >>> asyncio.run(main())
    b'welcome'
    """
    return JudgedContext(ssl.PROTOCOL_TLS_SERVER).following(
        _Judging(source, Usage.CLIENT, policy, None, clock or SystemClock(), freshness or FreshnessPolicy())
    )


def client_context(
    source: Source,
    server: SpiffeId | str | None = None,
    *,
    clock: Clock | None = None,
    freshness: FreshnessPolicy | None = None,
) -> ssl.SSLContext:
    """For clients: the server must prove the SPIFFE ID ``server``; without one, the DNS name that was dialled.

    Either way its expiry and its revocation are judged. Raises ``Invalid`` for a ``server`` that is no SPIFFE ID.

    >>> import socket, threading, handfast
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web, orders = authority.source("/web"), authority.source("/orders")
    >>> listener = socket.create_server(("127.0.0.1", 0))
    >>> def serve():
    ...     with handfast.server_context(orders).wrap_socket(listener.accept()[0], server_side=True) as peer:
    ...         peer.sendall(b"welcome")
    >>> serving = threading.Thread(target=serve)
    >>> serving.start()
    >>> theirs = handfast.client_context(web, "spiffe://prod.example/orders")
    >>> with socket.create_connection(listener.getsockname()) as plain, theirs.wrap_socket(plain) as opened:
    ...     opened.recv(100)
    b'welcome'
    >>> serving.join()
    >>> listener.close()
    """
    expected = SpiffeId.parse(server) if isinstance(server, str) else server
    context = JudgedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = expected is None
    return context.following(
        _Judging(source, Usage.SERVER, None, expected, clock or SystemClock(), freshness or FreshnessPolicy())
    )


class _Judging:
    """Whom a context lets through."""

    def __init__(
        self,
        source: Source,
        usage: Usage,
        policy: AccessPolicy | None,
        expected: SpiffeId | None,
        clock: Clock,
        freshness: FreshnessPolicy,
    ) -> None:
        self.source = source
        self._usage = usage
        self._policy = policy
        self._expected = expected
        self._clock = clock
        self._freshness = freshness
        self._alarm = OverdueAlarm(freshness)

    def judge(self, leaf: Leaf, snapshot: Credentials, *, first: bool) -> None:
        """Raises a ``HandfastError``. A list past its nextUpdate keeps out new connections only, as in the guard."""
        now = self._clock.now()
        bundle = snapshot.bundle
        verify_leaf(leaf, snapshot.chain[1:], bundle.roots, known=bundle.issuers, usage=self._usage, now=now)
        verdict = judge_credentials(leaf, snapshot.revocations, now, self._freshness)
        if not verdict.allowed and (first or verdict.reason != "STALE_REVOCATIONS"):
            raise Unauthenticated(verdict.message, reason=verdict.reason)
        if verdict.allowed and verdict.reason != "OK":
            self._alarm.raise_for(leaf, snapshot.revocations, verdict)
        if self._expected is not None and leaf.spiffe_id != self._expected:
            raise Unauthenticated(f"the peer is {leaf.spiffe_id}, not {self._expected}", reason="WRONG_IDENTITY")
        if leaf.spiffe_id.trust_domain != bundle.trust_domain:
            raise Unauthenticated(f"{leaf.spiffe_id} is not of {bundle.trust_domain}", reason="FOREIGN_TRUST_DOMAIN")
        if self._policy is not None and not self._policy.permits(leaf.spiffe_id, ANY_METHOD):
            raise Unauthenticated(f"{leaf.spiffe_id} may not connect", reason="NOT_ALLOWED")

    def expired(self, leaf: Leaf) -> bool:
        return self._clock.now().timestamp() > leaf.expires_at


class _Judged:
    """What one connection knows of its peer. ``check`` costs two comparisons while nothing has changed."""

    def __init__(self, judging: _Judging, presented: bytes | None) -> None:
        self._judging = judging
        self._snapshot: Credentials | None = None
        try:
            if presented is None:
                raise Unauthenticated("the peer presented no certificate", reason="NO_CERTIFICATE")
            self.leaf = Leaf.parse(presented)
        except HandfastError as error:
            raise _broken(error) from error
        self.check()

    def check(self) -> None:
        try:
            snapshot = self._judging.source.current()
            if snapshot is self._snapshot and not self._judging.expired(self.leaf):
                return
            self._judging.judge(self.leaf, snapshot, first=self._snapshot is None)
        except HandfastError as error:
            raise _broken(error) from error
        self._snapshot = snapshot


def _broken(error: HandfastError) -> ssl.SSLError:
    """What asyncio and http.server take for a broken connection, with our reason in its text."""
    return ssl.SSLError(ssl.SSL_ERROR_SSL, f"{error.reason}: {error.message}")


class JudgedContext(ssl.SSLContext):
    """Makes every connection from a context of the source's present snapshot. Made by the functions above.

    >>> import handfast
    >>> from handfast.testing import TestAuthority
    >>> context = handfast.server_context(TestAuthority("prod.example").source("/orders"))
    >>> context.minimum_version.name, context.verify_mode.name
    ('TLSv1_3', 'CERT_REQUIRED')
    """

    _judging: _Judging | None = None
    _owner: JudgedContext | None = None

    def following(self, judging: _Judging) -> JudgedContext:
        self._judging = judging
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.verify_mode = ssl.CERT_REQUIRED
        self._made: tuple[Credentials, JudgedContext] | None = None
        self._protocols: list[str] = []
        judging.source.current()  # says now what would be wrong at every connection
        return self

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Servers and clients set their protocols on the context that they are given: each present one has them too."""
        self._protocols = list(alpn_protocols)
        self._made = None
        super().set_alpn_protocols(alpn_protocols)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return ssl.SSLContext.wrap_bio(self._present(), *arguments, **named)

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        return ssl.SSLContext.wrap_socket(self._present(), *arguments, **named)

    def _present(self) -> JudgedContext:
        """The context of the present snapshot; without one, a context whose every handshake fails."""
        if self._owner is not None:  # a listening socket keeps the context that it was wrapped with, and asks that
            return self._owner._present()
        assert self._judging is not None
        try:
            snapshot = self._judging.source.current()
        except HandfastError:
            return self._bare(self._judging)
        made = self._made
        if made is None or made[0] is not snapshot:
            made = self._made = (snapshot, self._make(snapshot, self._judging))
        return made[1]

    def _make(self, snapshot: Credentials, judging: _Judging) -> JudgedContext:
        fresh = self._bare(judging)
        if snapshot.bundle.roots:
            fresh.load_verify_locations(cadata=snapshot.bundle.roots_pem.decode("ascii"))
        _load_identity(fresh, snapshot)
        return fresh

    def _bare(self, judging: _Judging) -> JudgedContext:
        fresh = JudgedContext(self.protocol)
        fresh._owner = self
        fresh.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.protocol is ssl.PROTOCOL_TLS_SERVER:
            fresh.num_tickets = 0  # nothing may be resumed past a change
        fresh.check_hostname = self.check_hostname
        fresh.verify_mode = ssl.CERT_REQUIRED
        if self._protocols:
            fresh.set_alpn_protocols(self._protocols)
        fresh.sslobject_class = type("JudgedObject", (_JudgedObject,), {"judging": judging})
        fresh.sslsocket_class = type("JudgedSocket", (_JudgedSocket,), {"judging": judging})
        return fresh


def _load_identity(context: ssl.SSLContext, credentials: Credentials) -> None:
    """ssl reads keys from files only: this one lies in memory and has no name."""
    memory = os.memfd_create("handfast", os.MFD_CLOEXEC)
    try:
        os.write(memory, credentials.key_pem + credentials.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)


def _demand(judging: _Judging) -> None:
    """Fails the handshake while the source has nothing. (To fail earlier would leave asyncio with an open socket.)"""
    try:
        judging.source.current()
    except HandfastError as error:
        raise _broken(error) from error


class _JudgedObject(ssl.SSLObject):
    """asyncio's kind of connection."""

    judging: _Judging
    _peer: _Judged | None = None

    def do_handshake(self) -> None:
        _demand(self.judging)
        super().do_handshake()
        self._peer = _Judged(self.judging, self.getpeercert(binary_form=True))

    def read(self, *arguments: Any, **named: Any) -> Any:
        got = super().read(*arguments, **named)
        self._check()  # after: a blocking read may have waited for long
        return got

    def write(self, data: Any) -> int:
        self._check()
        return super().write(data)

    def _check(self) -> None:
        if self._peer is not None:
            self._peer.check()


class _JudgedSocket(ssl.SSLSocket):
    """The blocking kind. ``recv`` and ``send`` come through ``read`` and ``write`` below, or through here."""

    judging: _Judging
    _peer: _Judged | None = None

    def do_handshake(self, block: bool = False) -> None:
        _demand(self.judging)
        super().do_handshake(block)
        self._peer = _Judged(self.judging, self.getpeercert(binary_form=True))

    def read(self, *arguments: Any, **named: Any) -> Any:
        got = super().read(*arguments, **named)
        self._check()  # after: a blocking read may have waited for long
        return got

    def write(self, data: Any) -> int:
        self._check()
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        self._check()
        return super().send(data, flags)

    def _check(self) -> None:
        if self._peer is not None:
            self._peer.check()
