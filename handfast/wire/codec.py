"""Between our values and the wire: messages both ways, and errors as ``google.rpc.Status``.

Every error that leaves carries ``ErrorInfo`` (domain ``handfast``, the stable reason, the hint), ``BadRequest`` with every
violation, and ``RetryInfo`` when waiting helps. What arrives is a stranger's: it is checked here, and what cannot be
read raises ``Invalid``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from handfast import errors
from handfast.bundle import TrustBundle
from handfast.credentials import Credentials
from handfast.crl_history import StepHistory
from handfast.errors import HandfastError, Invalid, Violation
from handfast.identity import TrustDomain
from handfast.keys import dump_private_key_der, load_private_key
from handfast.revocation import EMPTY, Revocations
from handfast.wire.crls import lists_from_snapshot, put_lists
from handfast.wire.v1 import trust_pb2, workload_pb2

__all__ = [
    "DOMAIN",
    "abort",
    "abort_sync",
    "announced_from_wire",
    "announced_to_wire",
    "bundle_from_wire",
    "bundle_to_wire",
    "duration_from_wire",
    "duration_to_wire",
    "from_rpc_error",
    "serial_from_bytes",
    "serial_to_bytes",
    "snapshot_from_wire",
    "snapshot_to_wire",
    "time_from_wire",
    "time_to_wire",
    "to_status",
]

DOMAIN = "handfast"
_STATUS_TRAILER = "grpc-status-details-bin"

# One table for both directions: the first row whose class fits says the code.
_CODES: tuple[tuple[type[HandfastError], grpc.StatusCode], ...] = (
    (errors.Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (errors.Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.Conflict, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.Broken, grpc.StatusCode.DATA_LOSS),
    (errors.HandfastError, grpc.StatusCode.INTERNAL),
)
_CLASSES: dict[grpc.StatusCode, type[HandfastError]] = {code: kind for kind, code in _CODES} | {
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.OUT_OF_RANGE: errors.Invalid,
}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


class _Status(grpc.Status):
    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


def status_code(error: HandfastError) -> grpc.StatusCode:
    """The code that an error has on the wire."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def to_status(error: HandfastError) -> _Status:
    """The error with all its details, for ``context.abort_with_status`` of the sync API."""
    code = status_code(error)
    message = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=error.message, details=_details(error))
    return _Status(code, error.message, ((_STATUS_TRAILER, message.SerializeToString()),))


def _details(error: HandfastError) -> Iterable[any_pb2.Any]:
    metadata = {"hint": error.hint} if error.hint else {}
    yield _packed(error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason, metadata=metadata))
    if error.violations:
        yield _packed(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, reason=violation.reason, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if error.retry_after is not None:
        yield _packed(error_details_pb2.RetryInfo(retry_delay=duration_to_wire(timedelta(seconds=error.retry_after))))


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: HandfastError) -> None:
    """Ends an aio call with the error. Does not return: grpc raises to unwind the handler."""
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


def abort_sync(context: grpc.ServicerContext, error: HandfastError) -> None:
    """Ends a sync call with the error, also that of a sync handler in an aio server, whose context knows less. Does not
    return: grpc raises to unwind the handler.
    """
    status = to_status(error)
    context.set_trailing_metadata(status.trailing_metadata)
    context.abort(status.code, status.details)


def from_rpc_error(error: grpc.RpcError) -> HandfastError:
    """What the peer meant, as one of our errors. Details of other domains are left alone.

    A peer that sends no details, or none of ours, is mapped by its code alone; ``RESOURCE_EXHAUSTED`` is then gRPC's own,
    for a message or metadata beyond its limit (``TOO_LARGE``).

    >>> with grpc.insecure_channel("127.0.0.1:1") as nobody:
    ...     try:
    ...         nobody.unary_unary("/shop.v1.Orders/Place")(b"", timeout=30)
    ...     except grpc.RpcError as error:
    ...         from_rpc_error(error).reason
    'UNAVAILABLE'
    """
    code, text = error.code(), error.details() or ""
    kind = _CLASSES.get(code, HandfastError)
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    if status is None:
        reason = "TOO_LARGE" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else ""
        return kind(_plain_message(code, text), reason=reason, hint=_plain_hint(code))
    reason, hint, violations, retry_after = "", "", [], None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, hint = info.reason, info.metadata.get("hint", "")
        elif detail.Unpack(bad):
            violations = [Violation(one.field, one.reason, one.description) for one in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return kind(text or code.name, reason=reason, hint=hint, violations=violations, retry_after=retry_after)


def _plain_message(code: grpc.StatusCode, text: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "the peer did not answer in time"
    return f"the peer cannot be reached: {text}" if code is grpc.StatusCode.UNAVAILABLE else text or code.name


def _plain_hint(code: grpc.StatusCode) -> str:
    return "is it running, and is the address right?" if code is grpc.StatusCode.UNAVAILABLE else ""


def time_to_wire(moment: datetime) -> Timestamp:
    seconds, rest = divmod(moment.astimezone(UTC) - _EPOCH, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1000)


def time_from_wire(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"a timestamp of {stamp.seconds} seconds cannot be read", reason="INVALID_TIME") from error


def duration_to_wire(duration: timedelta) -> Duration:
    wire = Duration()
    wire.FromTimedelta(duration)
    return wire


def duration_from_wire(wire: Duration) -> timedelta:
    try:
        return wire.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise Invalid(f"a duration of {wire.seconds} seconds cannot be read", reason="INVALID_DURATION") from error


def serial_to_bytes(serial: int) -> bytes:
    """Big-endian, without leading zeros: how a :class:`Revocation` message carries serials."""
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


def serial_from_bytes(data: bytes) -> int:
    if not 0 < len(data) <= 20:
        raise Invalid(f"a serial of {len(data)} octets is not 1 to 20 long", reason="INVALID_SERIAL")
    return int.from_bytes(data, "big")


@lru_cache(256)
def der(certificate: x509.Certificate) -> bytes:
    """Encoded once: roots and issuing CAs travel with every answer."""
    return certificate.public_bytes(serialization.Encoding.DER)


def certificates_from_wire(ders: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_der_x509_certificate(one) for one in ders)
    except (ValueError, x509.InvalidVersion) as error:  # the latter is no ValueError
        raise Invalid("a certificate that was sent cannot be read", reason="CERTIFICATE_MALFORMED") from error


def bundle_to_wire(bundle: TrustBundle) -> trust_pb2.TrustBundle:
    return trust_pb2.TrustBundle(
        trust_domain=str(bundle.trust_domain),
        sequence=bundle.sequence,
        roots=[der(root) for root in bundle.roots],
        issuers=[der(issuer) for issuer in bundle.issuers],
        refresh_hint_seconds=bundle.refresh_hint_seconds,
    )


def bundle_from_wire(message: trust_pb2.TrustBundle) -> TrustBundle:
    """An empty list of roots is kept: it means that nothing is trusted any more."""
    return TrustBundle(
        trust_domain=TrustDomain(message.trust_domain),
        roots=certificates_from_wire(message.roots),
        issuers=certificates_from_wire(message.issuers),
        sequence=message.sequence,
        refresh_hint_seconds=message.refresh_hint_seconds or 300,
    )


def crls_to_wire(revocations: Revocations) -> list[trust_pb2.Crl]:
    return [trust_pb2.Crl(issuer_key_id=key_id, der=known.der) for key_id, known in revocations.lists.items()]


def announced_to_wire(announced: Iterable[tuple[bytes, int]]) -> list[trust_pb2.Revocation]:
    return [trust_pb2.Revocation(issuer_key_id=key_id, serial=serial_to_bytes(serial)) for key_id, serial in announced]


def announced_from_wire(messages: Iterable[trust_pb2.Revocation]) -> tuple[tuple[bytes, int], ...]:
    return tuple((message.issuer_key_id, serial_from_bytes(message.serial)) for message in messages)


def snapshot_to_wire(
    credentials: Credentials | None,
    *,
    generation: int = 0,
    before: Revocations | None = None,
    history: StepHistory | None = None,
) -> workload_pb2.CredentialsSnapshot:
    """None is a withdrawal: a snapshot with nothing in it but its generation.

    With ``history`` it is for a reader that takes changes of lists, and was sent ``before``.
    """
    if credentials is None:
        return workload_pb2.CredentialsSnapshot(generation=generation)
    message = workload_pb2.CredentialsSnapshot(
        generation=credentials.generation,
        private_key=dump_private_key_der(credentials.key),
        chain=[der(certificate) for certificate in credentials.chain],
        bundle=bundle_to_wire(credentials.bundle),
        crls=crls_to_wire(credentials.revocations) if history is None else (),
        announced=announced_to_wire(credentials.revocations.announced),
    )
    if history is not None:
        put_lists(message, credentials.revocations, before or EMPTY, history)
    return message


def snapshot_from_wire(
    message: workload_pb2.CredentialsSnapshot,
    *,
    now: datetime,
    before: Revocations = EMPTY,
    same: Credentials | None = None,
) -> Credentials | None:
    """Checks all that :meth:`Credentials.build` checks. None means that the agent withdrew the credentials.

    ``before`` are the lists that came before on the same stream, for a snapshot that only tells of changes. ``same`` was made of the
    very octets of key, chain and bundle that this message has: while it is valid, only the revocations are read.
    """
    if not message.chain and not message.private_key:
        return None
    if same is not None and same.leaf.validity.contains(now):
        lists = lists_from_snapshot(message, before, same.bundle, now)
        announced = lists.announce(announced_from_wire(message.announced))
        return replace(same, revocations=announced, generation=message.generation)
    bundle = bundle_from_wire(message.bundle)
    return Credentials.build(
        key=load_private_key(message.private_key),
        chain=certificates_from_wire(message.chain),
        bundle=bundle,
        revocations=lists_from_snapshot(message, before, bundle, now),
        announced=announced_from_wire(message.announced),
        generation=message.generation,
        now=now,
    )
