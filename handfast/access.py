"""Who may call what: policies that are values and answer, and one pure judgement for every call.

An empty policy is invalid: nothing is open by accident. What is open on purpose is called Unsafe.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from handfast.certificates import Leaf
from handfast.errors import Invalid
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import Freshness, FreshnessPolicy, Revocations

__all__ = [
    "AccessPolicy",
    "AllOf",
    "Allow",
    "AnyOf",
    "InTrustDomain",
    "UnsafeAnyIdentity",
    "Verdict",
    "all_of",
    "allow",
    "any_of",
    "good_until",
    "in_trust_domain",
    "judge",
    "judge_credentials",
    "methods_for",
    "not_allowed",
]


class AccessPolicy(Protocol):
    """Answers whether a proven identity may call a method (``/package.Service/Method``).

    ``permits`` must be pure, fast and total: it is asked on every call and must not raise. A policy of your own is any
    object that has it:

    >>> class OnlyReads:
    ...     def permits(self, caller: SpiffeId, method: str) -> bool:
    ...         return method.rpartition("/")[2].startswith("Get")
    >>> policy = any_of(allow("spiffe://prod.example/admin"), OnlyReads())
    >>> policy.permits(SpiffeId.parse("spiffe://prod.example/web"), "/shop.v1.Orders/GetOrder")
    True
    """

    def permits(self, caller: SpiffeId, method: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Allow:
    """Identities (exact, or ``*`` patterns that stop at no slash) and, optionally, the methods they may call."""

    identities: tuple[str, ...]
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.identities:
            raise Invalid(
                "allow() names no identity", reason="EMPTY_POLICY", hint="an empty policy is invalid, not open"
            )
        for identity in self.identities:
            _identity_pattern(identity)
        for method in self.methods:
            if not method.startswith("/") or len(method.split("/")) != 3:
                raise Invalid(
                    f"method {method!r} is not of the form /package.Service/Method",
                    reason="INVALID_POLICY",
                    hint="a star may stand for the method or within it: /shop.v1.Orders/*",
                )

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return _permits(self, caller, method)


@functools.lru_cache(maxsize=8192)
def _permits(policy: Allow, caller: SpiffeId, method: str) -> bool:
    text = str(caller)
    if not any(_identity_pattern(identity).fullmatch(text) for identity in policy.identities):
        return False
    return not policy.methods or any(fnmatch.fnmatchcase(method, pattern) for pattern in policy.methods)


@functools.lru_cache(maxsize=4096)
def _identity_pattern(text: str) -> re.Pattern[str]:
    """The trust domain must stand in full; a star stands for any run of characters of the path."""
    domain, _, path = text.removeprefix("spiffe://").partition("/")
    if "*" in domain or "?" in path or "[" in path:
        raise Invalid(f"identity pattern {text!r}: only * in the path is a wildcard", reason="INVALID_POLICY")
    SpiffeId.parse(text.replace("*", "x"))
    return re.compile("[A-Za-z0-9._/-]*".join(re.escape(part) for part in text.split("*")))


@dataclass(frozen=True, slots=True)
class InTrustDomain:
    """Every identity of one trust domain."""

    trust_domain: TrustDomain

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return caller.trust_domain == self.trust_domain


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the policies is enough."""

    policies: tuple[AccessPolicy, ...]

    def __post_init__(self) -> None:
        _refuse_empty("any_of", self.policies)

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return any(policy.permits(caller, method) for policy in self.policies)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of the policies must agree."""

    policies: tuple[AccessPolicy, ...]

    def __post_init__(self) -> None:
        _refuse_empty("all_of", self.policies)

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return all(policy.permits(caller, method) for policy in self.policies)


@dataclass(frozen=True, slots=True)
class UnsafeAnyIdentity:
    """Whoever has a valid certificate of the trust bundle, for any method. Its name says what it is."""

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return True


def methods_for(policy: AccessPolicy, caller: SpiffeId) -> tuple[str, ...]:
    """Patterns of the methods that ``caller`` may call at most; ``("*",)`` for all, empty for none.

    For people who ask how far something reaches. Of :class:`AllOf` it names one bound that holds, not the narrowest.

    >>> methods_for(
    ...     allow("spiffe://prod.example/web", methods=["/shop.v1.Orders/*"]),
    ...     SpiffeId.parse("spiffe://prod.example/web"),
    ... )
    ('/shop.v1.Orders/*',)
    """
    if isinstance(policy, Allow):
        fits = any(_identity_pattern(identity).fullmatch(str(caller)) for identity in policy.identities)
        return (policy.methods or ("*",)) if fits else ()
    if isinstance(policy, AnyOf):
        found = dict.fromkeys(method for one in policy.policies for method in methods_for(one, caller))
        return ("*",) if "*" in found else tuple(found)
    if isinstance(policy, AllOf):
        bounds = [methods_for(one, caller) for one in policy.policies]
        return min(bounds, key=lambda bound: len(bound) if bound != ("*",) else 1 << 30)
    return ("*",) if policy.permits(caller, "*") else ()


def _refuse_empty(name: str, policies: Sequence[AccessPolicy]) -> None:
    if not policies:
        raise Invalid(f"{name}() holds no policy", reason="EMPTY_POLICY", hint="an empty policy is invalid, not open")


def allow(*identities: str | SpiffeId, methods: Sequence[str] = ()) -> Allow:
    """These identities (``*`` stands for any run of characters of a path) and, when ``methods`` are named, these alone.

    Raises ``Invalid`` (``EMPTY_POLICY``, ``INVALID_POLICY``, ``INVALID_SPIFFE_ID``).

    >>> policy = allow("spiffe://prod.example/web", methods=["/shop.v1.Orders/*"])
    >>> policy.permits(SpiffeId.parse("spiffe://prod.example/web"), "/shop.v1.Orders/Place")
    True
    >>> policy.permits(SpiffeId.parse("spiffe://prod.example/other"), "/shop.v1.Orders/Place")
    False
    """
    return Allow(tuple(str(identity) for identity in identities), tuple(methods))


def in_trust_domain(name: str | TrustDomain) -> InTrustDomain:
    """Every identity of a trust domain, for any method. Raises ``Invalid`` (``INVALID_TRUST_DOMAIN``).

    >>> in_trust_domain("prod.example").permits(SpiffeId.parse("spiffe://test.example/web"), "/shop.v1.Orders/Place")
    False
    """
    return InTrustDomain(name if isinstance(name, TrustDomain) else TrustDomain(name))


def any_of(*policies: AccessPolicy) -> AnyOf:
    """One that permits is enough. Raises ``Invalid`` (``EMPTY_POLICY``) for none.

    >>> policy = any_of(
    ...     allow("spiffe://prod.example/admin"), allow("spiffe://prod.example/web", methods=["/shop.v1.Orders/Place"])
    ... )
    >>> policy.permits(SpiffeId.parse("spiffe://prod.example/web"), "/shop.v1.Orders/Place")
    True
    """
    return AnyOf(policies)


def all_of(*policies: AccessPolicy) -> AllOf:
    """Every one must permit. Raises ``Invalid`` (``EMPTY_POLICY``) for none.

    >>> policy = all_of(in_trust_domain("prod.example"), allow("spiffe://prod.example/shop/*"))
    >>> policy.permits(SpiffeId.parse("spiffe://prod.example/web"), "/shop.v1.Orders/Place")
    False
    """
    return AllOf(policies)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one call. ``authenticated`` tells a bad proof from a good proof without permission."""

    allowed: bool
    reason: str = "OK"
    message: str = ""
    authenticated: bool = True


OK = Verdict(True)
STALE = Verdict(True, "STALE", "the revocation list is overdue, but before its nextUpdate: served, with an alarm")
GRACE = Verdict(True, "GRACE", "the revocation list is past its nextUpdate: served for a bounded time, with an alarm")
_OWN_PATH, _OWN_METHODS = "/handfast/", "/handfast."
"""Identities of the CA and its operators, and the calls that issue, revoke and decide: no grace is ever given to these."""


def judge_credentials(peer: Leaf, revocations: Revocations, now: datetime, freshness: FreshnessPolicy) -> Verdict:
    """Is this peer's certificate good now? The path to a root was proved by the handshake, and is not judged again.

    1. not expired, 2. not revoked, 3. the revocations are worth something (threats, 2.3): a list past its nextUpdate, or
    none, refuses. A bounded policy goes on past nextUpdate, for all but the CA and its operators.
    """
    if now > peer.validity.not_after:
        return _unauthenticated(
            "EXPIRED", f"the certificate of {peer} expired at {peer.validity.not_after:%Y-%m-%dT%H:%M:%SZ}"
        )
    if now < peer.validity.not_before:
        return _unauthenticated("NOT_YET_VALID", f"the certificate of {peer} is not valid yet")
    if revocations.revoked(peer.issuer_key_id, peer.serial):
        return _unauthenticated("REVOKED", f"the certificate of {peer} is revoked")
    state = revocations.freshness(peer.issuer_key_id, now, freshness)
    if state is Freshness.EXPIRED:
        return _judge_expired(peer, revocations, now, freshness)
    if state is Freshness.UNKNOWN:
        return _unauthenticated("UNKNOWN_REVOCATIONS", f"there is no revocation list for the issuer of {peer}")
    return STALE if state is Freshness.STALE else OK


def _judge_expired(peer: Leaf, revocations: Revocations, now: datetime, freshness: FreshnessPolicy) -> Verdict:
    if not peer.spiffe_id.path.startswith(_OWN_PATH):
        until = freshness.accepted_until(revocations.lists[peer.issuer_key_id].this_update, peer.validity)
        if until is not None and now < until:
            return GRACE
    return _unauthenticated("STALE_REVOCATIONS", f"the revocation list for the issuer of {peer} is past its nextUpdate")


def good_until(peer: Leaf, revocations: Revocations, freshness: FreshnessPolicy) -> datetime:
    """Until when ``OK`` from :func:`judge_credentials` stays so, on these revocations and from notBefore on: before this
    moment it is never another verdict. Said of a peer whose issuer has a list; ``KeyError`` of any other.
    """
    known = revocations.lists[peer.issuer_key_id]
    half = known.this_update + (known.next_update - known.this_update) / 2
    return min(peer.validity.not_after, half, known.this_update + freshness.stale_after)


def judge(
    peer: Leaf,
    method: str,
    *,
    policy: AccessPolicy,
    trust_domain: TrustDomain,
    revocations: Revocations,
    now: datetime,
    freshness: FreshnessPolicy,
) -> Verdict:
    """The whole judgement of one call: credentials, trust domain, then permission. Calls of Handfast's own services are judged
    strictly, whatever ``freshness`` says.
    """
    if freshness.max_stale is not None and method.startswith(_OWN_METHODS):
        freshness = freshness.strict
    verdict = judge_credentials(peer, revocations, now, freshness)
    if not verdict.allowed:
        return verdict
    if peer.spiffe_id.trust_domain != trust_domain:
        return _unauthenticated("FOREIGN_TRUST_DOMAIN", f"{peer.spiffe_id} is not of trust domain {trust_domain}")
    if not policy.permits(peer.spiffe_id, method):
        return not_allowed(peer.spiffe_id, method)
    return verdict


def not_allowed(caller: SpiffeId, method: str) -> Verdict:
    """A good proof without permission."""
    return Verdict(False, "NOT_ALLOWED", f"{caller} may not call {method}")


def _unauthenticated(reason: str, message: str) -> Verdict:
    return Verdict(False, reason, message, authenticated=False)
