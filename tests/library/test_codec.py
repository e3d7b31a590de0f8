"""What goes over the wire comes back as it was, and what a stranger sends is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from handfast import errors
from handfast.errors import HandfastError, Invalid, Violation
from handfast.testing import TestAuthority
from handfast.wire import codec
from handfast.wire.v1 import trust_pb2, workload_pb2

AUTHORITY = TestAuthority()
WEB = AUTHORITY.issue("/web")


class Failure(grpc.RpcError):
    """What a stub raises, made from the status that a server would send."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._parts = (code, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:  # type: ignore[override]
        return self._parts[2]


@pytest.mark.parametrize(
    "kind",
    [
        errors.Invalid,
        errors.Refused,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.Exhausted,
        errors.Unavailable,
        errors.Broken,
        errors.HandfastError,
    ],
)
def test_an_error_arrives_as_it_left(kind: type[HandfastError]) -> None:
    violations = (Violation("dns_names[0]", "NOT_ENTITLED", 'name "db" is not in the entry'),)
    left = kind("no", reason="NOT_ENTITLED", hint="ask", violations=violations, retry_after=1.5)
    status = codec.to_status(left)
    came = codec.from_rpc_error(Failure(status.code, status.details, status.trailing_metadata))
    assert type(came) is kind
    assert (came.message, came.reason, came.hint, came.violations, came.retry_after) == (
        "no",
        "NOT_ENTITLED",
        "ask",
        violations,
        1.5,
    )


def test_what_a_plain_peer_says_is_mapped_by_its_code() -> None:
    down = codec.from_rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    assert isinstance(down, errors.Unavailable)
    assert down.hint
    late = codec.from_rpc_error(Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
    assert isinstance(late, errors.Unavailable)
    assert late.message == "the peer did not answer in time"
    odd = codec.from_rpc_error(Failure(grpc.StatusCode.UNIMPLEMENTED, ""))
    assert (type(odd), odd.message) == (HandfastError, "UNIMPLEMENTED")


def test_details_that_contradict_their_status_are_not_believed() -> None:
    status = codec.to_status(errors.Forbidden("no", reason="NOT_ALLOWED"))
    came = codec.from_rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "other", status.trailing_metadata))
    assert isinstance(came, errors.Unavailable)
    assert came.reason == "UNAVAILABLE"


def test_a_snapshot_arrives_as_it_left() -> None:
    announced = WEB.revocations.announce([(WEB.leaf.issuer_key_id, 99)])
    left = replace(WEB, revocations=announced, generation=7)
    came = codec.snapshot_from_wire(codec.snapshot_to_wire(left), now=datetime.now(UTC))
    assert came is not None
    assert (came.leaf, came.chain, came.generation) == (left.leaf, left.chain, 7)
    assert came.bundle.same_contents(left.bundle)
    assert came.revocations.announced == announced.announced
    assert came.revocations.lists.keys() == announced.lists.keys()
    assert came.key_pem == left.key_pem


def test_a_withdrawal_arrives_as_one() -> None:
    message = codec.snapshot_to_wire(None, generation=8)
    assert message.generation == 8
    assert codec.snapshot_from_wire(message, now=datetime.now(UTC)) is None


def test_an_empty_bundle_stays_empty() -> None:
    """D12"""
    empty = replace(WEB.bundle, roots=(), issuers=())
    assert codec.bundle_from_wire(codec.bundle_to_wire(empty)).roots == ()


def test_times_and_durations_keep_their_value() -> None:
    moment = datetime(2026, 6, 1, 12, 30, 1, tzinfo=UTC)
    assert codec.time_from_wire(codec.time_to_wire(moment)) == moment
    assert codec.duration_from_wire(codec.duration_to_wire(timedelta(hours=30))) == timedelta(hours=30)


@pytest.mark.parametrize("serial", [1, 0xFF, 1 << 64, (1 << 159) - 1])
def test_serials_keep_their_value(serial: int) -> None:
    assert codec.serial_from_bytes(codec.serial_to_bytes(serial)) == serial


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda: codec.serial_from_bytes(b""), "INVALID_SERIAL"),
        (lambda: codec.serial_from_bytes(b"\1" * 21), "INVALID_SERIAL"),
        (lambda: codec.time_from_wire(Timestamp(seconds=1 << 60)), "INVALID_TIME"),
        (lambda: codec.duration_from_wire(Duration(seconds=1 << 60)), "INVALID_DURATION"),
        (lambda: codec.certificates_from_wire([b"rubbish"]), "CERTIFICATE_MALFORMED"),
        (lambda: codec.bundle_from_wire(trust_pb2.TrustBundle(trust_domain="UPPER")), "INVALID_TRUST_DOMAIN"),
        (lambda: codec.snapshot_from_wire(half_a_snapshot(), now=datetime.now(UTC)), None),
    ],
)
def test_what_cannot_be_read_is_invalid(read: Callable[[], object], reason: str | None) -> None:
    """A20: a stranger's message never raises anything else."""
    with pytest.raises(Invalid) as caught:
        read()
    assert reason in {None, caught.value.reason}


def half_a_snapshot() -> workload_pb2.CredentialsSnapshot:
    message = codec.snapshot_to_wire(WEB)
    message.ClearField("private_key")
    return message
