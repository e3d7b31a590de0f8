"""Reports on the wire: what is sent comes back as it was, and what a stranger sends is bounded."""

from __future__ import annotations

import pytest

from handfast.access import AccessPolicy, UnsafeAnyIdentity, all_of, allow, any_of, in_trust_domain
from handfast.errors import Invalid
from handfast.identity import SpiffeId
from handfast.revocation import EMPTY
from handfast.testing import TestAuthority
from handfast.wire import reports
from handfast.wire.v1 import report_pb2


class Mine:
    """A policy of a service's own."""

    def permits(self, caller: SpiffeId, method: str) -> bool:
        return False


@pytest.mark.parametrize(
    "policy",
    [
        allow("spiffe://a.example/*", "spiffe://a.example/b", methods=["/x.Y/Z"]),
        in_trust_domain("a.example"),
        any_of(allow("spiffe://a.example/b"), all_of(in_trust_domain("a.example"), UnsafeAnyIdentity())),
        UnsafeAnyIdentity(),
    ],
)
def test_a_policy_is_a_value_on_the_other_side_too(policy: AccessPolicy) -> None:
    wire = report_pb2.Policy.FromString(reports.policy_to_wire(policy).SerializeToString())
    assert reports.policy_from_wire(wire) == policy
    assert not reports.is_opaque(policy)


def test_a_policy_of_somebody_s_own_is_named_and_permits_everything_at_most() -> None:
    read = reports.policy_from_wire(reports.policy_to_wire(any_of(Mine())))
    assert read == any_of(reports.UnsafeOpaque("Mine"))
    assert reports.is_opaque(read)
    assert read.permits(SpiffeId.parse("spiffe://a.example/b"), "/x.Y/Z")


def nested(depth: int) -> report_pb2.Policy:
    message = report_pb2.Policy(unsafe_any_identity=True)
    for _ in range(depth):
        message = report_pb2.Policy(any_of=report_pb2.Policy.Several(policies=[message]))
    return message


@pytest.mark.parametrize(
    "report",
    [
        report_pb2.ServiceReport(),
        report_pb2.ServiceReport(instance="x" * 65),
        report_pb2.ServiceReport(instance="x", policies=[nested(4)]),
        report_pb2.ServiceReport(instance="x", policies=[nested(40)]),
        report_pb2.ServiceReport(instance="x", policies=[report_pb2.Policy()]),
        report_pb2.ServiceReport(instance="x", policies=[nested(0)] * 17),
        report_pb2.ServiceReport(instance="x", policies=[report_pb2.Policy(opaque="y" * 9000)]),
        report_pb2.ServiceReport(instance="x", policies=[report_pb2.Policy(trust_domain="NOT ONE")]),
        report_pb2.ServiceReport(instance="x", policies=[report_pb2.Policy(any_of=report_pb2.Policy.Several())]),
        report_pb2.ServiceReport(instance="x", lists=[report_pb2.HeldList(number="-1")]),
        report_pb2.ServiceReport(instance="x", lists=[report_pb2.HeldList(number="9" * 50)]),
        report_pb2.ServiceReport(instance="x", lists=[report_pb2.HeldList(number="1")] * 17),
    ],
)
def test_a_hostile_report_is_refused(report: report_pb2.ServiceReport) -> None:
    """H4: of a service, and inside of an agent's."""
    with pytest.raises(Invalid):
        reports.check_service_report(report)
    with pytest.raises(Invalid):
        reports.check_status_report(report_pb2.StatusReport(instance="a", services=[report]))


@pytest.mark.parametrize(
    "report",
    [
        report_pb2.StatusReport(),
        report_pb2.StatusReport(instance="a", services=[report_pb2.ServiceReport(instance="x")] * 17),
        report_pb2.StatusReport(instance="a", lists=[report_pb2.HeldList(number="one")]),
    ],
)
def test_a_hostile_report_of_an_agent_is_refused(report: report_pb2.StatusReport) -> None:
    """H4."""
    with pytest.raises(Invalid):
        reports.check_status_report(report)


def test_policies_that_are_too_long_to_be_told_are_told_as_that() -> None:
    """A service is never silent because of its size."""
    long = allow(*(f"spiffe://a.example/{number:060}" for number in range(200)))
    report = reports.service_report("x", [long], EMPTY)
    reports.check_service_report(report)
    assert [one.opaque for one in report.policies] == ["TooLarge"]


def test_policies_that_are_too_deep_to_be_told_are_named_from_there_on() -> None:
    deep: AccessPolicy = in_trust_domain("a.example")
    for _ in range(200):
        deep = any_of(deep)
    report = reports.service_report("x", [deep], EMPTY)
    reports.check_service_report(report)
    assert reports.is_opaque(reports.policy_from_wire(report.policies[0]))


def test_the_numbers_of_the_lists_travel() -> None:
    held = TestAuthority().issue("/web").revocations
    wire = reports.lists_to_wire(held)
    assert reports.numbers_from_wire(wire) == {key: known.number for key, known in held.lists.items()}
