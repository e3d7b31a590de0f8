"""What services and agents report, as messages and as values. What arrives is a stranger's, and bounded here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from handfast.access import AccessPolicy, AllOf, Allow, AnyOf, InTrustDomain, UnsafeAnyIdentity
from handfast.errors import HandfastError, Invalid
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import Revocations
from handfast.wire.v1 import report_pb2

__all__ = [
    "MAX_REPORT_BYTES",
    "UnsafeOpaque",
    "check_service_report",
    "check_status_report",
    "is_opaque",
    "lists_to_wire",
    "numbers_from_wire",
    "policy_from_wire",
    "policy_to_wire",
    "service_report",
]

MAX_REPORT_BYTES = 32 * 1024
MAX_SERVICE_BYTES = 8 * 1024
MAX_SERVICES = 16
MAX_POLICIES = 16
MAX_DEPTH = 4
MAX_LISTS = 16
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class UnsafeOpaque:
    """A policy that only its service knows. Permits everything, since a reach must not be shown too small."""

    name: str

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return True


def is_opaque(policy: AccessPolicy) -> bool:
    """Something in it is known to its service alone."""
    if isinstance(policy, AnyOf | AllOf):
        return any(map(is_opaque, policy.policies))
    return isinstance(policy, UnsafeOpaque)


def policy_to_wire(policy: AccessPolicy, depth: int = MAX_DEPTH) -> report_pb2.Policy:
    """As a value; one that is not of :mod:`handfast.access`, or too deep inside, by the name of its class only."""
    if isinstance(policy, Allow):
        allow = report_pb2.Policy.Allow(identities=policy.identities, methods=policy.methods)
        return report_pb2.Policy(allow=allow)
    if isinstance(policy, InTrustDomain):
        return report_pb2.Policy(trust_domain=str(policy.trust_domain))
    if isinstance(policy, AnyOf) and depth > 1:
        return report_pb2.Policy(any_of=_several(policy.policies, depth - 1))
    if isinstance(policy, AllOf) and depth > 1:
        return report_pb2.Policy(all_of=_several(policy.policies, depth - 1))
    if isinstance(policy, UnsafeAnyIdentity):
        return report_pb2.Policy(unsafe_any_identity=True)
    return report_pb2.Policy(opaque=type(policy).__name__[:MAX_NAME])


def _several(policies: Iterable[AccessPolicy], depth: int) -> report_pb2.Policy.Several:
    return report_pb2.Policy.Several(policies=[policy_to_wire(one, depth) for one in policies])


def policy_from_wire(message: report_pb2.Policy, depth: int = MAX_DEPTH) -> AccessPolicy:
    """Raises ``Invalid`` (``INVALID_REPORT``, or what the policy itself says)."""
    kind = message.WhichOneof("kind")
    if not depth or kind is None:
        raise Invalid(f"a reported policy is empty, or more than {MAX_DEPTH} deep", reason="INVALID_REPORT")
    if kind == "allow":
        return Allow(tuple(message.allow.identities), tuple(message.allow.methods))
    if kind == "trust_domain":
        return InTrustDomain(TrustDomain(message.trust_domain))
    if kind == "any_of":
        return AnyOf(tuple(policy_from_wire(one, depth - 1) for one in message.any_of.policies))
    if kind == "all_of":
        return AllOf(tuple(policy_from_wire(one, depth - 1) for one in message.all_of.policies))
    return UnsafeAnyIdentity() if kind == "unsafe_any_identity" else UnsafeOpaque(message.opaque[:MAX_NAME])


def lists_to_wire(revocations: Revocations) -> list[report_pb2.HeldList]:
    return [
        report_pb2.HeldList(issuer_key_id=key_id, number=str(known.number))
        for key_id, known in list(revocations.lists.items())[:MAX_LISTS]
    ]


def numbers_from_wire(lists: Iterable[report_pb2.HeldList]) -> Mapping[bytes, int]:
    """CRL numbers by issuer. Raises ``Invalid`` (``INVALID_REPORT``)."""
    return {bytes(one.issuer_key_id): _number(one.number) for one in lists}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 49):  # 20 octets (RFC 5280, 5.2.3)
        raise Invalid(f"CRL number {text[:60]!a} is not one", reason="INVALID_REPORT")
    return int(text)


def service_report(
    instance: str, policies: Iterable[AccessPolicy], revocations: Revocations
) -> report_pb2.ServiceReport:
    """Of one process. What is too long to be sent is cut to the names of its kinds."""
    wired = [policy_to_wire(one) for one in policies][:MAX_POLICIES]
    report = report_pb2.ServiceReport(instance=instance, policies=wired, lists=lists_to_wire(revocations))
    if report.ByteSize() > MAX_SERVICE_BYTES or not _readable(report):
        del report.policies[:]
        report.policies.add(opaque="TooLarge")
    return report


def _readable(report: report_pb2.ServiceReport) -> bool:
    try:
        check_service_report(report)
    except HandfastError:
        return False
    return True


def check_service_report(report: report_pb2.ServiceReport) -> None:
    """Raises ``Invalid`` (``INVALID_REPORT``)."""
    within = (
        report.ByteSize() <= MAX_SERVICE_BYTES
        and 0 < len(report.instance) <= MAX_NAME
        and len(report.policies) <= MAX_POLICIES
        and len(report.lists) <= MAX_LISTS
    )
    if not within:
        raise Invalid(
            f"a service's report of {report.ByteSize()} bytes is beyond what is kept: {MAX_SERVICE_BYTES} bytes, "
            f"{MAX_POLICIES} policies, {MAX_LISTS} lists, and an instance of {MAX_NAME} characters",
            reason="INVALID_REPORT",
        )
    for policy in report.policies:
        policy_from_wire(policy)
    numbers_from_wire(report.lists)


def check_status_report(report: report_pb2.StatusReport) -> None:
    """Raises ``Invalid`` (``INVALID_REPORT``)."""
    if (
        report.ByteSize() > MAX_REPORT_BYTES
        or not 0 < len(report.instance) <= MAX_NAME
        or len(report.services) > MAX_SERVICES
        or len(report.lists) > MAX_LISTS
    ):
        raise Invalid(
            f"a report of {report.ByteSize()} bytes with {len(report.services)} services is beyond what is kept: "
            f"{MAX_REPORT_BYTES} bytes, {MAX_SERVICES} services",
            reason="INVALID_REPORT",
        )
    numbers_from_wire(report.lists)
    for service in report.services:
        check_service_report(service)
