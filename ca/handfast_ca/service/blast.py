"""What an identity can reach and who enforces a revocation, for the wire. Shown to people; nothing is decided by it."""

from __future__ import annotations

from collections.abc import Sequence

from handfast.errors import Invalid, NotFound
from handfast.identity import SpiffeId
from handfast.wire import reports as wire
from handfast.wire.v1 import registry_pb2, report_pb2
from handfast_ca.authority import Authority
from handfast_ca.incident import LiveCertificate, MassFilter
from handfast_ca.registration import is_reserved
from handfast_ca.reports import AgentReport, Held, Reached, ServiceSays
from handfast_ca.service.answers import certificate_message

__all__ = ["blast_radius", "read_report"]

MAX_SHOWN = 500


def read_report(identity: str, report: report_pb2.StatusReport) -> AgentReport:
    """``identity`` is what the handshake proved. Raises ``Invalid`` (``INVALID_REPORT``)."""
    wire.check_status_report(report)
    services = tuple(
        ServiceSays(
            service.instance,
            tuple(wire.policy_from_wire(policy) for policy in service.policies),
            wire.numbers_from_wire(service.lists),
        )
        for service in report.services
    )
    return AgentReport(SpiffeId.parse(identity), report.instance, wire.numbers_from_wire(report.lists), services)


async def blast_radius(authority: Authority, request: registry_pb2.BlastRadiusRequest) -> registry_pb2.BlastRadius:
    """Raises ``Invalid``, or ``NotFound`` (``NO_CERTIFICATE``) for an identity that nobody knows."""
    answer = registry_pb2.BlastRadius()
    live = [one for one in await authority.live(MassFilter("*", renewals=False)) if not one.revoked]
    if request.spiffe_id:
        await _reach(authority, SpiffeId.parse(request.spiffe_id), live, answer)
    _confirmations(authority, _wanted(authority, request.crl_number), live, answer)
    return answer


async def _reach(
    authority: Authority, identity: SpiffeId, live: Sequence[LiveCertificate], answer: registry_pb2.BlastRadius
) -> None:
    own = [one for one in live if one.spiffe_id == str(identity)]
    if not own:
        await _check_known(authority, identity)
    now, bundle = authority.time.wall(), authority.trust().bundle
    answer.certificates_total = len(own)
    for one in own[:MAX_SHOWN]:
        record = await authority.certificate(one.serial)
        answer.certificates.append(certificate_message(record, now, bundle, whole=False))
    callees = authority.reports.callees(identity, wire.is_opaque)
    callers = authority.reports.callers(identity, (one.spiffe_id for one in live), wire.is_opaque)
    answer.may_call_total, answer.callers_total = len(callees), len(callers)
    answer.may_call.extend(map(_reach_message, callees[:MAX_SHOWN]))
    answer.callers.extend(map(_reach_message, callers[:MAX_SHOWN]))


async def _check_known(authority: Authority, identity: SpiffeId) -> None:
    try:
        await authority.get_entry(identity)
    except NotFound:
        if not await authority.live(MassFilter(identity_glob=str(identity))):
            raise


def _wanted(authority: Authority, number: str) -> int:
    if number:
        found = wire.numbers_from_wire([report_pb2.HeldList(number=number)])
        return found[b""]
    crl = authority.trust().crls.get(authority.issuer.key_id)
    if crl is None:
        raise Invalid("there is no revocation list yet", reason="NO_LIST")
    return crl.number


def _confirmations(
    authority: Authority, wanted: int, live: Sequence[LiveCertificate], answer: registry_pb2.BlastRadius
) -> None:
    """Confirmed is who holds the list of this number or a later one. A revoked agent has nobody left to protect."""
    names = {one.spiffe_id for one in live}
    held = [one for one in authority.reports.held(authority.issuer.key_id) if one.spiffe_id in names]
    behind = [one for one in held if one.number is None or one.number < wanted]
    reporting = {one.spiffe_id for one in held}
    silent = sorted(name for name in names if name not in reporting and not is_reserved(name))
    answer.crl_number = str(wanted)
    answer.confirmed = len(held) - len(behind)
    answer.unconfirmed_total, answer.silent_total = len(behind), len(silent)
    answer.unconfirmed.extend(map(_unconfirmed_message, behind[:MAX_SHOWN]))
    answer.silent.extend(silent[:MAX_SHOWN])


def _unconfirmed_message(one: Held) -> registry_pb2.Unconfirmed:
    holds = "" if one.number is None else str(one.number)
    return registry_pb2.Unconfirmed(spiffe_id=one.spiffe_id, instance=one.instance, kind=one.kind, holds=holds)


def _reach_message(one: Reached) -> registry_pb2.Reach:
    return registry_pb2.Reach(spiffe_id=one.spiffe_id, methods=one.methods, unknown=one.unknown)
