"""The judgement of one call, as sync and aio guards share it.

1. The connection is TLS 1.3, and the peer presented a certificate (its handshake proved the key).
2. The leaf is an X.509-SVID, and leads to a root of the *present* bundle.
3. It is neither expired nor revoked, and the revocation lists are worth something.
4. The policy lets this identity call this method.

Steps 1 and 4 are made on every call. What 2 and 3 found stands for one leaf on one snapshot of the source until the first
moment at which time alone could change it, and not longer: a new snapshot is judged anew, and so is what is overdue.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Protocol

from handfast.access import OK, AccessPolicy, Verdict, good_until, judge, not_allowed
from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, load_certificates, pem_chain, verify_leaf
from handfast.clock import Clock
from handfast.credentials import Credentials, Source
from handfast.errors import Forbidden, HandfastError, Unauthenticated, Unavailable
from handfast.overdue import OverdueAlarm
from handfast.revocation import FreshnessPolicy
from handfast.rpc.caller import Caller

__all__ = ["AuthContext", "CallContext", "GuardObserver", "Judge", "OnRefusal", "refusal"]

AuthContext = Mapping[str, Sequence[bytes]]
CACHED_PEERS = 4096
_Known = tuple[Leaf, bytes, TrustBundle]


class GuardObserver(Protocol):
    """Hears of every judgement; must be quick and must not raise. ``reason`` is ``OK`` or the refusal's.

    >>> class Refusals:
    ...     def __init__(self) -> None:
    ...         self.seen: list[str] = []
    ...
    ...     def judged(self, method: str, reason: str, seconds: float) -> None:
    ...         if reason != "OK":
    ...             self.seen.append(f"{method}: {reason}")
    ...
    ...     def stream_ended(self, method: str, reason: str) -> None:
    ...         self.seen.append(f"{method} ended: {reason}")
    >>> observer: GuardObserver = Refusals()
    """

    def judged(self, method: str, reason: str, seconds: float) -> None: ...

    def stream_ended(self, method: str, reason: str) -> None: ...


class CallContext(Protocol):
    """What the guard and :data:`OnRefusal` read of a call; gRPC's own contexts are such."""

    def auth_context(self) -> AuthContext: ...

    def peer(self) -> str: ...


OnRefusal = Callable[[CallContext, str, HandfastError], None]
"""Hears of a call that is refused: from where it came, its method, and why. Must be quick and must not raise. What the
context's certificate says was proved by the handshake only as far as the error does not say otherwise.
"""


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
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self.source = source
        self.observer = observer
        self._policy = policy
        self._clock = clock
        self._freshness = freshness
        self._open_methods = open_methods
        self._peers = _Peers()
        self._on_refusal = on_refusal
        self._standing: _Standing | None = None
        self._alarm = OverdueAlarm(freshness)

    def admit(self, context: CallContext, method: str) -> Caller | None:
        """The proven caller, or None on an open method without a certificate. Raises ``Unauthenticated`` or ``Forbidden``."""
        if self.observer is None:
            return self._admit_or_tell(context, method)
        began = time.perf_counter()
        reason = "OK"
        try:
            return self._admit_or_tell(context, method)
        except HandfastError as error:
            reason = error.reason
            raise
        finally:
            self.observer.judged(method, reason, time.perf_counter() - began)

    def _admit_or_tell(self, context: CallContext, method: str) -> Caller | None:
        try:
            return self._admit(context.auth_context(), method)
        except HandfastError as error:
            if self._on_refusal is not None:
                self._on_refusal(context, method, error)
            raise

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
        chain = auth.get("x509_pem_cert_chain")
        intermediates = chain[0] if chain else b""
        now, snapshot = self._clock.now(), self.source.current()
        standing = self._standing
        if standing is None or standing.snapshot is not snapshot:
            standing = self._standing = _Standing(snapshot)
        good = standing.of(presented[0], intermediates, now)
        if good is None:
            return self._judge_anew(presented[0], intermediates, method, now, standing)
        if not self._policy.permits(good.caller.spiffe_id, method):
            raise refusal(not_allowed(good.caller.spiffe_id, method))
        return good.caller

    def _judge_anew(self, pem: bytes, intermediates: bytes, method: str, now: datetime, standing: _Standing) -> Caller:
        snapshot = standing.snapshot
        leaf = self._peers.read(pem, intermediates, snapshot.bundle, now)
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
        if verdict is not OK:
            self._alarm.raise_for(leaf, snapshot.revocations, verdict)
        if now.timestamp() > snapshot.leaf.expires_at:
            raise Unavailable(
                f"this server's own certificate expired at {snapshot.leaf.validity.not_after:%Y-%m-%dT%H:%M:%SZ}",
                reason="NO_CREDENTIALS",
                hint="does its agent reach the CA? `handfast agent status` shows what it waits for",
            )
        caller = Caller(leaf)
        if verdict is OK:  # what is overdue is judged at every call, so that no grace outlives its bound
            until = min(good_until(leaf, snapshot.revocations, self._freshness), snapshot.leaf.validity.not_after)
            standing.keep(pem, _Good(caller, intermediates, leaf.validity.not_before, until))
        return caller

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


@dataclass(frozen=True, slots=True)
class _Good:
    """A caller whose credentials are good from ``begin`` until before ``until``."""

    caller: Caller
    intermediates: bytes
    begin: datetime
    until: datetime


class _Standing:
    """Who was found good on one snapshot. Used from any thread: what is lost between two is only judged again."""

    def __init__(self, snapshot: Credentials) -> None:
        self.snapshot = snapshot
        self._good: dict[bytes, _Good] = {}

    def of(self, pem: bytes, intermediates: bytes, now: datetime) -> _Good | None:
        good = self._good.get(pem)
        if good is None or good.intermediates != intermediates or not good.begin <= now < good.until:
            return None
        return good

    def keep(self, pem: bytes, good: _Good) -> None:
        if len(self._good) >= CACHED_PEERS:
            self._good.clear()
        self._good[pem] = good


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
