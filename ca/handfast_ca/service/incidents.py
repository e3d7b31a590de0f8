"""Between the wire and the core for what concerns many certificates at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc

from handfast.bundle import TrustBundle
from handfast.certificates import format_serial, subject_key_id
from handfast.errors import HandfastError, Invalid, NotFound
from handfast.wire import codec
from handfast.wire.v1 import registry_pb2
from handfast_ca.authority import Authority
from handfast_ca.incident import MassFilter, Missing, Timeline
from handfast_ca.mass_revoker import MassProgress, Survey

__all__ = ["progress_messages", "read_filter", "reissue_message", "survey_message"]

MAX_SAMPLES = 100
_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_HEX_ISSUER = re.compile(r"[0-9a-f]{40,64}")


async def read_filter(request: registry_pb2.RevokeManyRequest, authority: Authority) -> MassFilter:
    """Raises ``Invalid`` (``INVALID_KEY``, ``INVALID_SPAN``), ``NotFound`` (``NO_ISSUER``, ``NO_REISSUE``)."""
    wanted = MassFilter(
        identity_glob=request.identity_glob,
        issuer_key_id=_issuer(request.issuer, authority.trust().bundle),
        issued_from=codec.time_from_wire(request.issued_from) if request.HasField("issued_from") else None,
        issued_until=codec.time_from_wire(request.issued_until) if request.HasField("issued_until") else None,
        spki_sha256=_key(request.public_key_sha256),
    )
    if wanted.issued_from and wanted.issued_until and wanted.issued_from > wanted.issued_until:
        raise Invalid(
            f"the span from {wanted.issued_from:%Y-%m-%dT%H:%M:%SZ} to {wanted.issued_until:%Y-%m-%dT%H:%M:%SZ} "
            "ends before it begins",
            reason="INVALID_SPAN",
        )
    if request.before_reissue:
        return replace(wanted, up_to=(await authority.reissue_order()).up_to, renewals=False)
    return wanted


def _key(text: str) -> bytes:
    plain = text.lower().removeprefix("sha256:").replace(":", "")
    if text and not _HEX_KEY.fullmatch(plain):
        raise Invalid(
            f"{text[:80]!a} is not the SHA-256 of a public key, 64 hexadecimal digits",
            reason="INVALID_KEY",
            hint="`handfast inspect` shows it",
        )
    return bytes.fromhex(plain)


def _issuer(text: str, bundle: TrustBundle) -> bytes:
    """A key identifier in full, also of an issuing CA that has left the bundle; or a name of one that is in it."""
    if not text:
        return b""
    plain = text.lower().replace(":", "")
    if _HEX_ISSUER.fullmatch(plain) and len(plain) % 2 == 0:
        return bytes.fromhex(plain)
    found = [one for one in bundle.issuers if one.subject.rfc4514_string() == text]
    if len(found) != 1:
        names = ", ".join(one.subject.rfc4514_string() for one in bundle.issuers)
        raise NotFound(f"{text[:80]!a} is no issuing CA here", reason="NO_ISSUER", hint=f"there are: {names}")
    return subject_key_id(found[0]) or b""


def survey_message(survey: Survey) -> registry_pb2.RevocationSurvey:
    return registry_pb2.RevocationSurvey(
        certificates=len(survey.live),
        identities=len(survey.identities),
        sample_identities=survey.identities[:MAX_SAMPLES],
        sample_serials=[format_serial(one.serial) for one in survey.live[:10]],
        already_revoked=survey.revoked,
        spared=survey.spared[:MAX_SAMPLES],
        by_issuer=Counter(one.issuer_key_id.hex() for one in survey.live),
    )


async def progress_messages(
    context: grpc.aio.ServicerContext[Any, Any], progress: AsyncGenerator[MassProgress, None]
) -> AsyncGenerator[registry_pb2.RevokeManyProgress, None]:
    """What fails on the way ends the call with its reason; the batches before stay revoked."""
    try:
        async with aclosing(progress) as batches:
            async for one in batches:
                yield _progress_message(one)
    except HandfastError as error:
        await codec.abort(context, error)


def _progress_message(one: MassProgress) -> registry_pb2.RevokeManyProgress:
    return registry_pb2.RevokeManyProgress(
        certificates=one.certificates,
        total=one.total,
        identities=one.identities,
        first_serials=[format_serial(serial) for serial in one.first_serials],
        already_revoked=one.already_revoked,
        crl_number=str(one.crl_number or ""),
        watchers=one.watchers,
        key_blocked=one.key_blocked,
    )


def reissue_message(seen: Timeline) -> registry_pb2.ReissueReport:
    report = registry_pb2.ReissueReport(
        tainted_at=codec.time_to_wire(seen.order.tainted_at),
        renew_before=codec.time_to_wire(seen.order.renew_before),
        total=seen.total,
        renewed=seen.renewed,
        missing=len(seen.missing),
        sample_missing=[_missing(one) for one in seen.missing[:MAX_SAMPLES]],
        ended=seen.ended,
    )
    for name in ("half_at", "nine_tenths_at", "last_at"):
        moment = getattr(seen, name)
        if moment is not None:
            getattr(report, name).CopyFrom(codec.time_to_wire(moment))
    return report


def _missing(one: Missing) -> registry_pb2.MissingIdentity:
    return registry_pb2.MissingIdentity(
        spiffe_id=one.spiffe_id,
        state=one.state,
        obtained_by=one.obtained_by,
        old_until=None if one.old_until is None else codec.time_to_wire(one.old_until),
    )
