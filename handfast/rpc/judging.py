"""The judgement of one call, as sync and aio guards share it.

1. The connection is TLS 1.3, and the peer presented a certificate (its handshake proved the key).
2. The leaf is an X.509-SVID, and leads to a root of the *present* bundle.
3. It is neither expired nor revoked, and the revocation lists are worth something.
4. The policy lets this identity call this method.

Steps 1 and 2 cost once for each leaf and bundle, 3 and 4 on every call.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Protocol

from handfast.access import AccessPolicy, Verdict, judge
from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, load_certificates, pem_chain, verify_leaf
from handfast.clock import Clock
from handfast.credentials import Source
from handfast.errors import Forbidden, HandfastError, Unauthenticated, Unavailable
from handfast.overdue import OverdueAlarm
from handfast.revocation import FreshnessPolicy
from handfast.rpc.caller import Caller

__all__ = ["AuthContext", "GuardObserver", "Judge", "refusal"]

AuthContext = Mapping[str, Sequence[bytes]]
CACHED_PEERS = 4096
_Known = tuple[Leaf, bytes, TrustBundle]


class GuardObserver(Protocol):
    """Hears of every judgement; must be quick and must not raise. ``reason`` is ``OK`` or the refusal's."""

    def judged(self, method: str, reason: str, seconds: float) -> None: ...

    def stream_ended(self, method: str, reason: str) -> None: ...


class Judge:
    """Judges calls against the present snapshot of a source."""

    def __init__(
        self,
        source: Source,
        policy: AccessPolicy,
        *,
        clock: Clock,
        freshness: FreshnessPolicy,
        open_methods: frozenset[str],
        observer: GuardObserver | None,
    ) -> None:
        self.source = source
        self.observer = observer
        self._policy = policy
        self._clock = clock
        self._freshness = freshness
        self._open_methods = open_methods
        self._peers = _Peers()
        self._alarm = OverdueAlarm(freshness)

    def admit(self, auth_context: Callable[[], AuthContext], method: str) -> Caller | None:
        """The proven caller, or None on an open method without a certificate. Raises ``Unauthenticated`` or ``Forbidden``."""
        if self.observer is None:
            return self._admit(auth_context(), method)
        began = time.perf_counter()
        reason = "OK"
        try:
            return self._admit(auth_context(), method)
        except HandfastError as error:
            reason = error.reason
            raise
        finally:
            self.observer.judged(method, reason, time.perf_counter() - began)

    def _admit(self, auth: AuthContext, method: str) -> Caller | None:
        version = auth.get("ssl_tls_version") or (b"no TLS",)
        if version[0] != b"TLSv1.3":
            raise Unauthenticated(f"{version[0].decode('ascii', 'replace')} is not TLS 1.3", reason="TLS_VERSION")
        presented = auth.get("x509_pem_cert")
        if not presented:
            if method in self._open_methods:
                return None
            raise Unauthenticated(
                f"{method} needs a client certificate",
                reason="NO_CERTIFICATE",
                hint="call it with the credentials of an agent",
            )
        chain = auth.get("x509_pem_cert_chain") or ()
        now = self._clock.now()
        snapshot = self.source.current()
        leaf = self._peers.read(presented[0], chain[0] if chain else b"", snapshot.bundle, now)
        verdict = judge(
            leaf,
            method,
            policy=self._policy,
            trust_domain=snapshot.bundle.trust_domain,
            revocations=snapshot.revocations,
            now=now,
            freshness=self._freshness,
        )
        if not verdict.allowed:
            raise refusal(verdict)
        if verdict.reason != "OK":
            self._alarm.raise_for(leaf, snapshot.revocations, verdict)
        if now.timestamp() > snapshot.leaf.expires_at:
            raise Unavailable(
                f"this server's own certificate expired at {snapshot.leaf.validity.not_after:%Y-%m-%dT%H:%M:%SZ}",
                reason="NO_CREDENTIALS",
                hint="does its agent reach the CA? `handfast agent status` shows what it waits for",
            )
        return Caller(leaf)

    def still_good(self, leaf: Leaf, intermediates: bytes, method: str) -> HandfastError | None:
        """Judges a stream that runs: None, or why it must end.

        A list past its nextUpdate keeps out new calls only: streams that were let in stay until notAfter, since what it
        revokes stays revoked and expiry bounds the rest (threats, 2.3). A bundle that no longer leads to the peer ends them.
        """
        now = self._clock.now()
        try:
            snapshot = self.source.current()
            self._peers.check_path(leaf, intermediates, snapshot.bundle, now)
        except HandfastError as error:
            return error
        if now.timestamp() > leaf.expires_at:
            return Unauthenticated(f"the certificate of {leaf} expired during the stream", reason="EXPIRED")
        if snapshot.revocations.revoked(leaf.issuer_key_id, leaf.serial):
            return Unauthenticated(f"the certificate of {leaf} was revoked during the stream", reason="REVOKED")
        if not self._policy.permits(leaf.spiffe_id, method):
            return Forbidden(f"{leaf.spiffe_id} may no longer call {method}", reason="NOT_ALLOWED")
        return None

    def now(self) -> float:
        return self._clock.now().timestamp()


def refusal(verdict: Verdict) -> HandfastError:
    """A verdict as the error that leaves."""
    kind = Forbidden if verdict.authenticated else Unauthenticated
    return kind(verdict.message, reason=verdict.reason)


class _Peers:
    """Parsed leaves, keyed by the very bytes that the handshake saw (ports are reused, bytes are not).

    A leaf is verified again whenever the bundle's contents or the intermediates beside it changed since it was. The oldest
    go first when there are too many.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._lock = Lock()

    def read(self, pem: bytes, intermediates: bytes, bundle: TrustBundle, now: datetime) -> Leaf:
        known = self._known.get(pem)
        if known is not None and known[2] is bundle and known[1] == intermediates:
            return known[0]
        if known is not None and known[1] == intermediates and known[2].same_contents(bundle):
            leaf = known[0]
        else:
            leaf = self._verify(pem, intermediates, bundle, now)
        with self._lock:
            self._known[pem] = (leaf, intermediates, bundle)
            while len(self._known) > CACHED_PEERS:
                self._known.popitem(last=False)
        return leaf

    def check_path(self, leaf: Leaf, intermediates: bytes, bundle: TrustBundle, now: datetime) -> None:
        self.read(pem_chain([leaf.certificate]), intermediates, bundle, now)

    def _verify(self, pem: bytes, intermediates: bytes, bundle: TrustBundle, now: datetime) -> Leaf:
        try:
            leaf = Leaf.parse_pem(pem)
            between = load_certificates(intermediates) if intermediates else ()
            between = tuple(one for one in between if one != leaf.certificate)
            verify_leaf(leaf, between, bundle.roots, known=bundle.issuers, usage=Usage.CLIENT, now=now)
        except HandfastError as error:
            raise Unauthenticated(error.message, reason=error.reason, violations=error.violations) from error
        return leaf
