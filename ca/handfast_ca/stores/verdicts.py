"""What every ledger decides alike: pure functions of what was found and what is asked. They answer or raise.

A store looks things up and writes; it never decides by itself, so that two stores cannot disagree.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from handfast.certificates import format_serial
from handfast.errors import Conflict, Exhausted, Invalid, NotFound, Refused, Unauthenticated
from handfast.identity import SpiffeId
from handfast.revocation import format_crl_number
from handfast_ca.ledger import (
    CertificateFilter,
    CertificateRecord,
    CrlPlan,
    Intention,
    LearntList,
    RevokedEntry,
    Status,
    TokenRecord,
)

__all__ = [
    "MAX_PAGE",
    "check_completion",
    "check_entry",
    "check_key",
    "check_presented",
    "check_token",
    "forgettable",
    "key_blocked",
    "learnt_record",
    "next_number",
    "next_this_update",
    "no_certificate",
    "no_entry",
    "page_size",
    "page_start",
    "selects",
    "serial_exists",
    "token_spent",
    "whole_seconds",
]

MAX_PAGE = 500
CRL_BACKDATE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)


def whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def no_entry(spiffe_id: SpiffeId) -> NotFound:
    return NotFound(f"{spiffe_id} has no entry", reason="NO_ENTRY", hint="`handfast entry add` makes one")


def no_certificate(subject: str) -> NotFound:
    return NotFound(f"there is no certificate of {subject}", reason="NO_CERTIFICATE")


def serial_exists(serial: int) -> Conflict:
    return Conflict(f"serial {format_serial(serial)} was used before by this issuer", reason="SERIAL_EXISTS")


def token_spent() -> Unauthenticated:
    return Unauthenticated(
        "the join token is unknown or was used before", reason="TOKEN_SPENT", hint="`handfast token create` makes one"
    )


def check_entry(version: int | None, intention: Intention) -> None:
    """The entry on which the request was admitted still stands, unchanged (threat C4). ``version`` is the stored one's."""
    if intention.entry_version == 0:
        return
    if version is None:
        raise Refused(f"{intention.spiffe_id} has no entry", reason="NO_ENTRY", hint="`handfast entry add` makes one")
    if version != intention.entry_version:
        raise Refused(
            f"the entry of {intention.spiffe_id} is at version {version}, "
            f"the request was admitted under {intention.entry_version}",
            reason="ENTRY_CHANGED",
            hint="send the request again",
        )


def check_token(token: TokenRecord | None, intention: Intention) -> None:
    """Threats B1 and B3. The store still has to redeem it."""
    if token is None:
        raise token_spent()
    if intention.now > token.expires_at:
        raise Unauthenticated(
            f"the join token expired at {token.expires_at:%Y-%m-%dT%H:%M:%SZ}", reason="TOKEN_EXPIRED"
        )
    if token.spiffe_id != intention.spiffe_id:
        raise Unauthenticated(f"the join token is not for {intention.spiffe_id}", reason="TOKEN_FOREIGN")
    if token.allowed_cidr and not _within(intention.peer_address, token.allowed_cidr):
        raise Unauthenticated(
            f"the join token is for {token.allowed_cidr}, the request came from {intention.peer_address or 'nowhere'}",
            reason="TOKEN_ADDRESS",
        )


def _within(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False


def check_presented(record: CertificateRecord | None, intention: Intention) -> None:
    """Issuer, serial and every byte of it are ours, it is of this identity, and it still counts (threat C1)."""
    presented = intention.presented
    assert presented is not None
    known = record is not None and record.der is not None and record.status is Status.ISSUED
    if (
        not known
        or record is None
        or hashlib.sha256(record.der or b"").digest() != presented.der_sha256
        or record.spiffe_id != presented.spiffe_id
        or record.spiffe_id != intention.spiffe_id
    ):
        raise Unauthenticated(
            f"serial {format_serial(presented.serial)} is no certificate that this CA gave to {intention.spiffe_id}",
            reason="UNKNOWN_CERTIFICATE",
        )
    if record.revoked_at is not None:
        raise Unauthenticated(
            f"serial {format_serial(record.serial)} was revoked at {record.revoked_at:%Y-%m-%dT%H:%M:%SZ}",
            reason="REVOKED",
        )
    if intention.now > record.not_after:
        raise Unauthenticated(
            f"serial {format_serial(record.serial)} expired at {record.not_after:%Y-%m-%dT%H:%M:%SZ}", reason="EXPIRED"
        )


def check_key(intention: Intention, *, blocked: bool, shared: bool) -> None:
    """Threats A11 (a compromised key comes back) and A12 (two identities, one key)."""
    if blocked:
        raise key_blocked()
    if shared:
        raise Refused(
            "the public key is in use by another live identity", reason="KEY_IN_USE", hint="make a new key for each"
        )


def key_blocked() -> Refused:
    return Refused("the public key is blocked", reason="KEY_BLOCKED", hint="make a new key")


def check_completion(record: CertificateRecord | None, serial: int, der: bytes) -> bool:
    """True when it is to be completed, False when these very bytes completed it before; raises when neither."""
    if record is None:
        raise no_certificate(f"serial {format_serial(serial)}")
    if record.revoked_at is not None:
        raise Refused(
            f"serial {format_serial(serial)} was revoked at {record.revoked_at:%Y-%m-%dT%H:%M:%SZ}, "
            "before it was completed",
            reason="REVOKED",
        )
    if record.status is Status.ISSUED and record.der != der:
        raise Conflict(f"serial {format_serial(serial)} was completed with other bytes", reason="SERIAL_EXISTS")
    return record.status is Status.INTENDED


def next_this_update(last: datetime | None, now: datetime) -> datetime:
    """thisUpdate of the next CRL: rises by at least a second, up to thirty seconds back, never ahead (threat D3)."""
    this_update = now - CRL_BACKDATE if last is None else max(last + SECOND, now - CRL_BACKDATE)
    if this_update > now:
        wait = (this_update - now).total_seconds()
        raise Exhausted(
            f"the last CRL is of {last:%Y-%m-%dT%H:%M:%SZ}, the next may be made in {wait:.0f} s",
            reason="CRL_TOO_SOON",
            retry_after=wait,
        )
    return this_update


def learnt_record(learnt: LearntList, entry: RevokedEntry, unknown: SpiffeId, until: datetime) -> CertificateRecord:
    """A revoked certificate of which only a CRL knows: a serial, a time and a reason."""
    return CertificateRecord(
        serial=entry.serial,
        issuer_key_id=learnt.issuer_key_id,
        spiffe_id=unknown,
        spki_sha256=b"",
        dns_names=(),
        not_before=entry.revoked_at,
        not_after=whole_seconds(until),
        obtained_by="learnt",
        status=Status.INTENDED,
        revoked_at=entry.revoked_at,
        reason=entry.reason,
    )


def next_number(last: int, epoch: int) -> int:
    """``epoch * 2^64 + sequence``: a new epoch begins past every number of the old one (RFC 5280, 5.2.3)."""
    return max(last, epoch << 64) + 1


def check_turn(plan: CrlPlan, planned: int, recorded: int) -> None:
    """Nothing was recorded since the plan was made, and nobody made the plan up (threat J5)."""
    if plan.number > planned:
        raise Invalid(f"CRL number {format_crl_number(plan.number)} was never planned", reason="CRL_UNPLANNED")
    if plan.turn != recorded or plan.number <= recorded:
        raise Conflict(
            f"CRL number {format_crl_number(plan.number)} was planned after number {format_crl_number(plan.turn)}, and number {format_crl_number(recorded)} was recorded since",
            reason="CRL_OUT_OF_TURN",
        )


def forgettable(candidates: Iterable[tuple[int, int | None]], kept_parents: frozenset[int]) -> list[int]:
    """Of ``(serial, parent)`` in order of issue, those whose parent is not kept.

    A certificate in the middle of a chain of renewals stays as long as what it was renewed from: revoking that one
    must still reach everything that followed.
    """
    kept = set(kept_parents)
    gone: list[int] = []
    for serial, parent in candidates:
        if parent is not None and parent in kept:
            kept.add(serial)
        else:
            gone.append(serial)
    return gone


def selects(wanted: CertificateFilter, record: CertificateRecord) -> bool:
    """A filter by ``status`` needs ``now``; without it the status is that of the record's own beginning."""
    if wanted.identity_glob and not fnmatchcase(str(record.spiffe_id), wanted.identity_glob):
        return False
    if wanted.expiring_before is not None and record.not_after > wanted.expiring_before:
        return False
    return not wanted.status or record.describe(wanted.now or record.not_before) == wanted.status


def page_size(limit: int) -> int:
    if limit < 1:
        raise Invalid(f"page size {limit} is not 1 to {MAX_PAGE}", reason="INVALID_LIMIT")
    return min(limit, MAX_PAGE)


def page_start(token: str) -> int:
    """The sequence number after which a page of certificates begins."""
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) <= 18):
        raise Invalid(f"page token {token[:40]!a} is not one of ours", reason="INVALID_PAGE_TOKEN")
    return int(token)
